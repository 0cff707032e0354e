"""distill: losses, the frozen teacher and its soft targets."""
