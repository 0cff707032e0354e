"""export: trained weights become a release."""
