"""data: images on disk become cases, volumes and batches."""
