"""Turned: a volume whose axes run otherwise than an image's, on the very voxels of that image.

The same voxels are stored as slices, rows and columns of a DICOM series, and as columns, rows and
slices of the NIfTI file that a viewer exports of it. Turning them loses nothing.
"""

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from medkd.types import GRID_TOLERANCE_MM, Volume, grid_distance_mm


def turned_onto(volume: Volume, grid: Volume) -> Volume:
    """Return the volume with its axes exchanged and reversed so that it lies on ``grid``.

    As it is where no such turn puts every voxel in the place of one of the grid's.
    """
    if volume.dims != 3 or grid.dims != 3 or lies_on(volume, grid):
        return volume
    turned = _turned(volume, np.linalg.inv(grid.affine) @ volume.affine)
    return turned if lies_on(turned, grid) else volume


def canonical(volume: Volume) -> Volume:
    """Return the volume with its axes from left to right, back to front and foot to head (RAS+).

    A view: no value is touched. In 2D as it is.
    """
    return _turned(volume, volume.affine) if volume.dims == 3 else volume


def _turned(volume: Volume, affine: np.ndarray) -> Volume:
    """Exchange and reverse axes so that ``affine``, of them, comes as close to none as it can."""
    axes = io_orientation(affine)
    if np.isnan(axes).any():
        return volume
    array = apply_orientation(np.moveaxis(volume.array, 0, -1), axes)
    return Volume(
        np.moveaxis(array, -1, 0),
        volume.affine @ inv_ornt_aff(axes, volume.shape),
        volume.remedies,
        volume.frame_uid,
    )


def lies_on(volume: Volume, grid: Volume) -> bool:
    """Whether two volumes have the same voxels, as far as files can say where they lie."""
    is_alike = volume.shape == grid.shape
    return is_alike and grid_distance_mm(volume, grid.affine) <= GRID_TOLERANCE_MM
