"""train: from cases to trained weights."""
