"""report: results become a page for clinical review."""
