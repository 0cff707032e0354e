"""metrics: pure functions from arrays to figures."""
