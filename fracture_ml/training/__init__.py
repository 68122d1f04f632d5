"""The training loop and the tuning study. The only room that imports optuna."""
