"""The worklist page: a FastAPI app that talks to the steps, and three static files."""
