"""Segmentation: a DICOM SEG as masks on the image's grid (PS3.3 A.51).

Its frames need not be in order, complete, or turned as the image's slices are: each pixel goes to
the voxel in whose place it lies.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom import Dataset

from medkd.data.dicom.decoding import Decoding
from medkd.data.dicom.frames import Frame, Place, frames_in
from medkd.errors import DataError
from medkd.types import Volume

ON_GRID = 0.05  # voxels


def names_of(header: Dataset) -> dict[int, str]:
    """Return the labels of its segments by number."""
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel", ""))
        for item in header.get("SegmentSequence") or ()
    }


def frame_uids(header: Dataset) -> set[str]:
    """Return the frame of reference that it lies in."""
    return {str(header.get("FrameOfReferenceUID", ""))} - {""}


def masks(
    path: Path, header: Dataset, grid: Volume, numbers: set[int], *, memory_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the numbers of segments with their masks on ``grid``, one frame at a time.

    Raises:
        DataError: fractions, or a frame that is not on the grid.
    """
    kind = str(header.get("SegmentationType"))
    if kind not in {"BINARY", "LABELMAP"}:
        raise DataError(
            f"{path}: a segmentation of type {kind}, which gives each voxel a share; a reference "
            f"standard needs whole voxels: export it as BINARY or LABELMAP",
            private=(kind,),
        )
    with Decoding(memory_bytes=memory_bytes) as decoding:
        for frame, pixels in zip(frames_in(path, header), decoding.frames(path), strict=True):
            of_frame = frame.get("ReferencedSegmentNumber")
            present = {int(of_frame)} if kind == "BINARY" else set(np.unique(pixels).tolist())
            for number in present & numbers:
                mask = np.zeros(grid.shape, bool)
                shown = pixels == (1 if kind == "BINARY" else number)
                mask[_voxels(path, frame, shown, grid)] = True
                yield number, mask


def _voxels(path: Path, frame: Frame, pixels: np.ndarray, grid: Volume) -> tuple[np.ndarray, ...]:
    """Return where on the grid the pixels lie, an index for each of its axes."""
    if grid.dims == 2 and pixels.shape == grid.shape:
        return np.nonzero(pixels)
    if frame.place is None or grid.dims == 2:
        raise DataError(
            f"{path}: its frames and the image do not both have a place in space, or are of "
            f"different size ({pixels.shape}, {grid.shape}); give the image it was drawn on"
        )
    to_index = np.linalg.inv(grid.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0]) @ _affine(frame.place)
    corners = np.array(
        [(r, c, 1) for r in (0, pixels.shape[0] - 1) for c in (0, pixels.shape[1] - 1)]
    )
    placed = corners @ to_index[:3].T
    if np.abs(placed - np.rint(placed)).max() > ON_GRID or not _is_aligned(to_index):
        raise DataError(
            f"{path}: a frame does not lie on the voxels of the image; it was drawn on another "
            f"one: give that as the image"
        )
    found = np.rint(np.argwhere(pixels) @ to_index[:3, :2].T + to_index[:3, 2]).astype(int)
    if len(found) and ((found < 0).any() or (found >= grid.shape).any()):
        raise DataError(f"{path}: reaches beyond the image; give the whole image")
    return tuple(found.T)


def _affine(place: Place) -> np.ndarray:
    """Return ``[4, 3]``: row, column and 1 to LPS millimetres."""
    affine = np.zeros((4, 3))
    affine[:3, 0] = place.axes[1] * place.spacing_mm[0]
    affine[:3, 1] = place.axes[0] * place.spacing_mm[1]
    affine[:3, 2] = place.position_mm
    affine[3, 2] = 1
    return affine


def _is_aligned(to_index: np.ndarray) -> bool:
    """Whether a step along rows or columns is a step to a neighbouring voxel."""
    steps = np.abs(to_index[:3, :2])
    return bool(np.allclose(np.sort(steps, axis=0), [[0, 0], [0, 0], [1, 1]], atol=ON_GRID))
