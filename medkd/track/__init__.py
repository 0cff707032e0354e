"""track: the journal of a study and its mirror in MLflow."""
