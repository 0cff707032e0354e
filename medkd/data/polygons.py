"""Polygons: which pixels' centres lie inside outlines.

A pixel belongs to an outline if its centre does. Centres on the outline belong to it at its top and
left and not at its bottom and right, so that neighbours with a common edge share no pixel and leave
none out. A keyhole, two edges in one place, cancels itself.
"""

from collections.abc import Sequence

import numpy as np


def inside(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return ``[rows, columns]``, true inside a closed polygon by the even-odd rule.

    Args:
        points: ``[corners, 2]`` as row and column; pixel centres are whole numbers.
        shape: rows and columns.
    """
    first, second = points, np.roll(points, -1, axis=0)
    top = np.ceil(np.minimum(first[:, 0], second[:, 0])).clip(0, shape[0]).astype(int)
    bottom = np.ceil(np.maximum(first[:, 0], second[:, 0])).clip(0, shape[0]).astype(int)
    edge = np.repeat(np.arange(len(points)), bottom - top)  # one entry for each row it crosses
    row = np.arange(len(edge)) - np.repeat(np.cumsum(bottom - top) - bottom, bottom - top)
    (y0, x0), (y1, x1) = first[edge].T, second[edge].T
    column = np.ceil(x0 + (row - y0) * (x1 - x0) / (y1 - y0)).clip(0, shape[1]).astype(int)
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(crossings, (row, column), 1)
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def area(outlines: Sequence[np.ndarray], shape: tuple[int, int], *, xor: bool) -> np.ndarray:
    """Return the pixels of a structure that several outlines in one plane make up.

    DICOM says how they combine only for ``CLOSEDPLANAR_XOR``. Of the others (``CLOSED_PLANAR``) an
    outline that lies wholly inside is a hole, or an island in one; any other adds to the area. An
    outline that is there twice counts once.

    Args:
        outlines: ``[corners, 2]`` each, as of ``inside``.
        shape: rows and columns.
        xor: whether they are ``CLOSEDPLANAR_XOR``.
    """
    masks = sorted((inside(points, shape) for points in outlines), key=np.sum, reverse=True)
    found = np.zeros(shape, bool)
    for number, mask in enumerate(masks):
        if xor:
            found ^= mask
        elif any(np.array_equal(mask, other) for other in masks[:number]):
            continue
        elif mask.any() and found[mask].all():
            found &= ~mask
        else:
            found |= mask
    return found
