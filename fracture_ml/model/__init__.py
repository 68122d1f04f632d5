"""The ResNet50 for one-channel radiographs, its starting weights, and the bundle that a trained one travels in."""
