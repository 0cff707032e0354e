"""predict: a torch network over a whole image."""
