"""Boundary: the part of an image where an answer is not trivial."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from medkd.metrics.bounding_box import bounding_box


def boundary_band(
    labels: Integer[np.ndarray, " *space"], *, spacing_mm: Sequence[float], width_mm: float
) -> Bool[np.ndarray, " *space"]:
    """Return the foreground and the background near it: where calibration is not trivial.

    Background far from every organ is right with confidence 1, and it is most of a volume: its
    voxels push ECE towards 0. Every boundary between classes lies in this band.

    Args:
        labels: class indices, 0 the background.
        spacing_mm: distance of neighbouring voxel centres along each axis.
        width_mm: background at most that far from the nearest foreground voxel is in the band.

    Returns:
        The band; all False where there is no foreground.

    Raises:
        ValueError: the width is not positive, or there is not one spacing per axis.
    """
    if not width_mm > 0 or len(spacing_mm) != labels.ndim:
        raise ValueError(
            f"width_mm must be positive and spacing_mm have {labels.ndim} numbers; "
            f"got width_mm {width_mm}, spacing_mm {tuple(spacing_mm)}"
        )
    foreground = labels != 0
    band = np.zeros(labels.shape, bool)
    if foreground.any():
        box = bounding_box(foreground, margin=[int(width_mm / s) + 1 for s in spacing_mm])
        gap = ndimage.distance_transform_edt(~foreground[box], sampling=tuple(spacing_mm))
        band[box] = gap <= width_mm
    return band
