"""RTSTRUCT: structures drawn as outlines on slices (PS3.3 C.8.8.6), as masks on a grid."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from medkd.data.polygons import area
from medkd.errors import DataError
from medkd.types import Volume

CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
ON_SLICE = 0.1  # of the distance of two slices


def names_of(header: Dataset) -> dict[int, str]:
    """Return the names of its structures by number."""
    return {
        int(item.ROINumber): str(item.get("ROIName", ""))
        for item in header.get("StructureSetROISequence") or ()
    }


def enclosing(header: Dataset) -> dict[int, str]:
    """Return the names of those structures that are drawn as something that encloses voxels."""
    drawn = {
        int(item.ReferencedROINumber)
        for item in header.get("ROIContourSequence") or ()
        for contour in item.get("ContourSequence") or ()
        if str(contour.get("ContourGeometricType", "")) in CLOSED
    }
    return {number: name for number, name in names_of(header).items() if number in drawn}


def frame_uids(header: Dataset) -> set[str]:
    """Return the frames of reference that it was drawn in."""
    found = {
        str(item.get("FrameOfReferenceUID", ""))
        for item in header.get("ReferencedFrameOfReferenceSequence") or ()
    }
    return found - {""}


def masks(
    path: Path, header: Dataset, grid: Volume, numbers: set[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the numbers of structures with their masks on ``grid``; again where drawn in parts.

    Raises:
        DataError: outlines that lie between slices, outside the image, or enclose nothing.
    """
    to_index = np.linalg.inv(grid.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    for item in header.get("ROIContourSequence") or ():
        number = int(item.ReferencedROINumber)
        if number in numbers:
            name = names_of(header)[number]
            outlines = [
                (str(contour.ContourGeometricType), _indices(path, name, contour, to_index))
                for contour in item.get("ContourSequence") or ()
            ]
            yield number, _mask(path, name, outlines, grid.shape)


def _indices(path: Path, name: str, contour: Any, to_index: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Return an outline's corners ``[corners, 3]`` in the grid's indices."""
    try:
        points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        points = np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise DataError(f"{path}: an outline of {name!r} is not a list of points; export it again")
    return points @ to_index[:3, :3].T + to_index[:3, 3]


def _mask(
    path: Path, name: str, outlines: list[tuple[str, np.ndarray]], shape: tuple[int, ...]
) -> np.ndarray:
    mask = np.zeros(shape, bool)
    closed = [(kind, points) for kind, points in outlines if kind in CLOSED]
    if outlines and not closed:
        kinds = ", ".join(sorted({kind for kind, _ in outlines}))
        raise DataError(
            f"{path}: {name!r} is drawn as {kinds}, which encloses nothing; take it out of "
            f"data.labels",
            private=(kinds,),
        )
    if not closed:
        return mask
    axis = _slice_axis(path, name, [points for _, points in closed])
    of_slice: dict[int, list[np.ndarray]] = defaultdict(list)
    for _, points in closed:
        of_slice[_slice(path, name, points[:, axis].mean(), shape[axis])].append(
            np.delete(points, axis, axis=1)
        )
    rows, columns = np.delete(shape, axis)
    is_xor = all(kind == "CLOSEDPLANAR_XOR" for kind, _ in closed)
    for number, of_one in of_slice.items():
        np.moveaxis(mask, axis, 0)[number] = area(of_one, (int(rows), int(columns)), xor=is_xor)
    return mask


def _slice_axis(path: Path, name: str, outlines: list[np.ndarray]) -> int:
    """Return the axis of the grid that every outline lies at right angles to."""
    extents = np.max([np.ptp(points, axis=0) for points in outlines], axis=0)
    axis = int(np.argmin(extents))
    if extents[axis] > ON_SLICE:
        raise DataError(
            f"{path}: outlines of {name!r} cross the slices of the image; it was drawn on another "
            f"one: give that as the image"
        )
    return axis


def _slice(path: Path, name: str, place: float, count: int) -> int:
    number = round(place)
    if abs(place - number) > ON_SLICE:
        raise DataError(
            f"{path}: an outline of {name!r} lies between slices {int(np.floor(place))} and "
            f"{int(np.ceil(place))} of the image; it was drawn on another one: give that as the "
            f"image"
        )
    if not 0 <= number < count:
        raise DataError(
            f"{path}: an outline of {name!r} lies outside the image, {abs(number)} slices from its "
            f"first; give the whole image"
        )
    return number
