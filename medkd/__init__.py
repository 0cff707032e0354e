"""medkd: distil accurate medical-imaging models into fast ones, and prove they can be trusted."""

__version__ = "0.1.0"
