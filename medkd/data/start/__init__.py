"""Start: a study from a folder of data."""
