"""device: what runs at the bedside; no torch, no MONAI."""
