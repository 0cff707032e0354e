"""Shear: a grid whose axes are not at right angles, and the one at right angles that covers it.

A tilted CT gantry shifts the slices against one another. Networks and distances in millimetres
suppose right angles, so such a volume is resampled where the config says so.
"""

import numpy as np

from medkd.extras import require
from medkd.types import Volume

SKEWED_DEGREES = 0.5  # from here on distances along the axes mislead


def skew_degrees(affine: np.ndarray) -> float:
    """Return by how much two axes of a grid miss right angles, at most.

    Example:
        >>> skew_degrees(np.array([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        45.0
    """
    axes = affine[:-1, :-1] / np.linalg.norm(affine[:-1, :-1], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(len(axes))).max()
    return float(np.round(np.degrees(np.arcsin(min(1.0, cosines))), 6))


def grid_at_right_angles(
    shape: tuple[int, ...], affine: np.ndarray, *, slice_axis: int | None = None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of a grid at right angles that covers a skewed one.

    Gram-Schmidt, the slice axis last: slices stay planes and move within them.

    Args:
        shape: ``[3]``.
        affine: ``[4, 4]``.
        slice_axis: None takes the coarsest.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if slice_axis is not None:
        spacing_mm[slice_axis] = np.inf
    order = np.argsort(spacing_mm, kind="stable")
    q, r = np.linalg.qr(affine[:3, :3][:, order])
    axes = np.empty((3, 3))
    axes[:, order] = q * np.diag(r)  # spacing of each axis is what remains of it at right angles
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    places = np.linalg.solve(axes, affine[:3, :3] @ corners)
    first = np.floor(places.min(axis=1) + 1e-6)
    last = np.ceil(places.max(axis=1) - 1e-6)
    straight = np.eye(4)
    straight[:3, :3] = axes
    straight[:3, 3] = affine[:3, 3] + axes @ first
    return tuple(int(n) + 1 for n in last - first), straight


def at_right_angles(volume: Volume, *, order: int, slice_axis: int | None = None) -> Volume:
    """Resample a skewed volume on the grid at right angles that covers it.

    Args:
        volume: 3D.
        order: 1 for images, whose uncovered corners get the lowest value; 0 for labels, 0 there.
        slice_axis: as of ``grid_at_right_angles``.
    """
    shape, affine = grid_at_right_angles(volume.shape, volume.affine, slice_axis=slice_axis)
    back = np.round(np.linalg.inv(volume.affine) @ affine, 9)  # -1e-12 would count as outside
    resampled = [_resampled(channel, back, shape, order=order) for channel in volume.array]
    told = f"shear_correct: axes {skew_degrees(volume.affine):.1f} degrees off right angles"
    return Volume(np.stack(resampled), affine, (*volume.remedies, told), volume.frame_uid)


def _resampled(
    channel: np.ndarray, back: np.ndarray, shape: tuple[int, ...], *, order: int
) -> np.ndarray:
    # a device does without SciPy, which is a third of all it would install
    ndimage = require("scipy.ndimage", extra="train")
    values = ndimage.affine_transform(
        channel.astype(np.float32 if order else channel.dtype),
        back[:3, :3],
        back[:3, 3],
        output_shape=shape,
        order=order,
        cval=channel.min() if order else 0,
    )
    return (np.rint(values) if channel.dtype.kind in "iu" else values).astype(channel.dtype)
