"""Quality: what one pass over the images and labels of a study shows."""
