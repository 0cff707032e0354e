"""The smallest box round a mask: what lies outside costs no time."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage


def bounding_box(mask: Bool[np.ndarray, " *space"], *, margin: Sequence[int]) -> tuple[slice, ...]:
    """Return the box of a mask, widened by ``margin`` voxels per axis but not beyond the grid.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> bounding_box(np.array([False, False, True, True, False]), margin=[1])
        (slice(1, 5, None),)
    """
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        raise ValueError(f"an empty mask of shape {mask.shape} has no bounding box")
    return tuple(
        slice(max(box.start - m, 0), min(box.stop + m, n))
        for box, m, n in zip(boxes[0], margin, mask.shape, strict=True)
    )
