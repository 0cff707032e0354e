"""Reference: a DICOM SEG or RTSTRUCT as the label map of the image it was drawn on."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medkd.data.dicom import rtstruct, segmentation
from medkd.data.dicom.files import dicom_of, files_in, refusal
from medkd.data.dicom.header import read_dataset, refusing
from medkd.data.memory import refuse_larger, smallest_type
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Volume

MASKS = 4  # bytes a voxel: of a structure's mask, and of what it is compared with


def reference_in(path: Path) -> Path | None:
    """Return the SEG or RTSTRUCT that a path is, or that its folder holds; None where none is.

    Raises:
        DataError: a damaged DICOM file, or a folder that holds several.
    """
    files, unreadable = dicom_of(files_in(path) if path.is_dir() else [path])
    if unreadable and path.is_dir():
        raise DataError(f"{path}: {refusal(unreadable)}")
    found = [file for file in files if _is_reference(file)]
    if len(found) > 1:
        raise DataError(
            f"{path}: holds {len(found)} SEG or RTSTRUCT; name the file that is meant as the label"
        )
    return found[0] if found else None


def _is_reference(file: Path) -> bool:
    """Whether a DICOM file says which voxels are what, rather than how bright they are."""
    header = read_dataset(file, memory_bytes=ReadingOptions().memory_bytes)
    return str(header.get("Modality", "")) in {"SEG", "RTSTRUCT"}


def read_reference(
    path: Path,
    grid: Volume,
    labels: Mapping[str, int],
    options: ReadingOptions | None = None,
    *,
    overlapping: bool = False,
) -> Volume:
    """Return the label map ``[1, *space]`` of the structures that ``labels`` name, on ``grid``.

    Names are compared without case and with anything but letters and digits alike: ``left lung``
    is ``Left_Lung``. Structures that ``labels`` do not name are left out.

    Args:
        path: a SEG or RTSTRUCT file.
        grid: of the image; its values are not looked at.
        labels: name of each structure, and its value in the map.
        options: memory, and what becomes of voxels that two structures share.
        overlapping: return ``[structures, *space]`` by rising value, 0 or 1: voxels are shared.

    Raises:
        DataError: neither of the two, of another frame of reference, without any structure that
            is named, off the grid, larger than it may be, or with voxels that two structures share.
    """
    options = options or ReadingOptions()
    with refusing(path):
        header = read_dataset(path, memory_bytes=options.memory_bytes)
        of_outlines = str(header.get("Modality", "")) == "RTSTRUCT"
        kind = rtstruct if of_outlines else segmentation
        _refuse_elsewhere(path, kind.frame_uids(header), grid)
        values = _values(path, kind.names_of(header), labels)
        channels = sorted(labels.values()) if overlapping else []
        dtype = smallest_type(0, 1 if overlapping else max(values.values()))
        voxel = MASKS + dtype.itemsize * max(1, len(channels))
        size, voxels = voxel * math.prod(grid.shape), "x".join(map(str, grid.shape))
        refuse_larger(path, size, memory_bytes=options.memory_bytes, of=f"drawn on {voxels} voxels")
        if of_outlines:
            found = rtstruct.masks(path, header, grid, set(values))
        else:
            found = segmentation.masks(
                path, header, grid, set(values), memory_bytes=options.memory_bytes
            )
        if overlapping:
            array = np.zeros((len(channels), *grid.shape), dtype)
            for number, mask in found:
                array[channels.index(values[number])][mask] = 1
        else:
            order = list(labels.values()) if options.overlap == "last" else None
            array = np.zeros((1, *grid.shape), dtype)
            _merge(path, found, array[0], values, order=order)
    return Volume(array, grid.affine, frame_uid=grid.frame_uid)


def _refuse_elsewhere(path: Path, uids: set[str], grid: Volume) -> None:
    if uids and grid.frame_uid and grid.frame_uid not in uids:
        raise DataError(
            f"{path}: lies in another frame of reference than its image, so their places cannot be "
            f"compared; give the image it was drawn on"
        )


def _values(path: Path, names: Mapping[int, str], labels: Mapping[str, int]) -> dict[int, int]:
    """Return the value of each structure that ``labels`` name, by the structure's number."""
    known = {plain(name): value for name, value in labels.items()}
    values = {number: known[plain(n)] for number, n in names.items() if plain(n) in known}
    if not values:
        listed = ", ".join(repr(name) for name in names.values()) or "nothing"
        raise DataError(
            f"{path}: holds {listed}, and data.labels asks for {', '.join(map(repr, labels))}; "
            f"name the structures as the file does",
            private=(listed,),
        )
    return values


def plain(name: str) -> str:
    """Return a structure's name as it is compared.

    Example:
        >>> plain("Left_Lung "), plain("left-lung")
        ('left lung', 'left lung')
    """
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _merge(
    path: Path,
    found: Iterator[tuple[int, np.ndarray]],
    array: np.ndarray,
    values: Mapping[int, int],
    *,
    order: Sequence[int] | None,
) -> None:
    """Put masks into one map; of two values the later in ``order`` wins, without it neither."""
    for number, mask in found:
        value = values[number]
        shared = mask & (array > 0) & (array != value)
        if order is None and shared.any():
            other = int(array[shared][0])
            raise DataError(
                f"{path}: {int(shared.sum())} voxels belong to the structures of value {other} and "
                f"{value}; set preprocess.reading.overlap: last to give them to the one that comes "
                f"later in data.labels, or data.overlapping: true to keep both"
            )
        later = order[order.index(value) + 1 :] if order else ()
        array[mask & ~np.isin(array, later)] = value
