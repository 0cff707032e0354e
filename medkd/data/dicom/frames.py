"""Frames: where each picture of a series lies, classic and enhanced multi-frame alike.

A classic file holds one frame and says of it what an enhanced one (PS3.3 C.7.6.16) says in its
functional groups: of all frames in the shared one, of each in one of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from medkd.data.dicom.series import Series
from medkd.errors import DataError

FARTHEST_MM = 1e6
FINEST_MM = 1e-6
TOLD_APART_BY = (  # what differs between pictures of one place
    *("TemporalPositionIdentifier", "EchoTime", "AcquisitionNumber", "DiffusionBValue"),
    *("TriggerTime", "ImageType", "InstanceNumber"),
)


@dataclass(frozen=True)
class Place:
    """Where a frame lies, in the patient's LPS millimetres.

    Attributes:
        position_mm: centre of its first pixel.
        axes: ``[2, 3]``: the direction in which its columns are counted, and that of its rows.
        spacing_mm: between neighbouring rows, and between neighbouring columns.
    """

    position_mm: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """One picture of a series.

    Attributes:
        file: that holds it.
        index: which of the file's frames it is.
        groups: where its attributes may be, the most particular first.
        place: None for a picture without a place in space, as of ultrasound or projection.
    """

    file: Path
    index: int
    groups: tuple[Dataset, ...]
    place: Place | None

    def get(self, keyword: str) -> Any:  # noqa: ANN401
        """Return an attribute of the frame; None where it has none."""
        return _first(self.groups, keyword)


def frames_of(series: Series) -> list[Frame]:
    """Return all frames of a series, in the order of its files.

    Raises:
        DataError: an attribute that places a frame is damaged.
    """
    return [
        frame
        for file, header in zip(series.files, series.headers, strict=True)
        for frame in frames_in(file, header)
    ]


def count_of(file: Path, header: Dataset) -> int:
    """Return how many frames a file says it has.

    Raises:
        DataError: what it says is no number.
    """
    value = header.get("NumberOfFrames")
    if value is None or value == "":
        return 1
    try:
        return max(1, int(value))
    except (TypeError, ValueError):
        raise DataError(f"{file}: NumberOfFrames is not a number; copy it again") from None


def frames_in(file: Path, header: Dataset) -> Iterator[Frame]:
    """Yield the frames of one file.

    Raises:
        DataError: as ``frames_of``.
    """
    count = count_of(file, header)
    shared = _flat(header.get("SharedFunctionalGroupsSequence") or [])
    of_each = header.get("PerFrameFunctionalGroupsSequence") or []
    if of_each and len(of_each) != count:
        raise DataError(
            f"{file}: says it has {count} frames and describes {len(of_each)}; copy it again"
        )
    for index in range(count):
        own = _flat([of_each[index]]) if of_each else []
        groups = (*own, *shared, header)
        yield Frame(file, index, groups, _place(file, groups, of_many=count > 1))


def _flat(groups: Any) -> list[Dataset]:  # noqa: ANN401
    """Return the items of all sequences of a functional group: what they say counts as one."""
    return [
        item
        for group in groups
        for element in group
        if element.VR == "SQ"
        for item in element.value[:1]
    ]


def _first(groups: tuple[Dataset, ...], keyword: str) -> Any:  # noqa: ANN401
    return next((group[keyword].value for group in groups if keyword in group), None)


def _place(file: Path, groups: tuple[Dataset, ...], *, of_many: bool) -> Place | None:
    # The frames of a classic multi-frame file share a header that places at most the first.
    groups = groups[:-1] if of_many else groups
    position, axes, spacing = (
        _numbers(file, groups, keyword, length)
        for keyword, length in (
            ("ImagePositionPatient", 3),
            ("ImageOrientationPatient", 6),
            ("PixelSpacing", 2),
        )
    )
    if position is None or axes is None:
        return None
    if spacing is None:
        raise DataError(f"{file}: has a place in space but no PixelSpacing; export it again")
    if not (spacing > FINEST_MM).all():
        raise DataError(f"{file}: PixelSpacing is {spacing.tolist()}; export it again")
    axes = axes.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise DataError(
            f"{file}: ImageOrientationPatient is not two perpendicular directions "
            f"{axes.ravel().tolist()}; export it again"
        )
    return Place(position, axes, (float(spacing[0]), float(spacing[1])))


def _numbers(
    file: Path, groups: tuple[Dataset, ...], keyword: str, length: int
) -> np.ndarray | None:
    value = _first(groups, keyword)
    if value is None or value == "":
        return None
    try:
        numbers = np.array([float(v) for v in value])
    except (TypeError, ValueError):
        numbers = np.array([])
    if numbers.shape != (length,) or not (np.abs(numbers) < FARTHEST_MM).all():  # nor NaN
        raise DataError(f"{file}: {keyword} is not {length} numbers; export it again")
    return numbers
