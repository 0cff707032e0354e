"""evaluate: the locked test split becomes figures."""
