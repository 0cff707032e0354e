"""Fingerprint: what a data set is like, by all of its cases; a plan follows from it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medkd.data.quality.examine import Examined
from medkd.errors import DataError
from medkd.types import Case, Task


@dataclass(frozen=True)
class Fingerprint:
    """What a data set is like.

    Axes run from left to right, back to front and foot to head; those of pictures as stored.

    Attributes:
        task: what is to be learned.
        cases: how many.
        patients: how many.
        channels: of most images.
        shapes: ``[cases, dims]`` voxels.
        spacings_mm: ``[cases, dims]``.
        is_byte: whether all values are stored in 8 bits.
        lows: percentile 0.5 of each image.
        highs: percentile 99.5 of each image.
        shares: of all labelled voxels, or of all cases, by class name; the background among them.
        thinnest: the edge in voxels of a cube as large as the smallest structure of a median case.
        overlapping: whether structures keep the voxels they share, or images have several findings.
    """

    task: Task
    cases: int
    patients: int
    channels: int
    shapes: np.ndarray
    spacings_mm: np.ndarray
    is_byte: bool
    lows: np.ndarray
    highs: np.ndarray
    shares: dict[str, float]
    thinnest: float
    overlapping: bool = False

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return self.shapes.shape[1]

    @property
    def is_ct(self) -> bool:
        """Whether most images reach from air to bone or contrast: Hounsfield units."""
        return self.dims == 3 and bool(np.median(self.lows) < -500 and np.median(self.highs) > 100)


def fingerprint(
    cases: Mapping[str, Case],
    examined: Mapping[str, Examined],
    labels: Mapping[str, int],
    *,
    overlapping: bool = False,
) -> Fingerprint:
    """Return the fingerprint of the cases that can be read.

    Raises:
        DataError: none can be read, or pictures and volumes are mixed.
    """
    read = [found for found in examined.values() if found.intensities]
    if not read:
        reasons = [finding.line for found in examined.values() for finding in found.findings]
        raise DataError.of(["no case can be read", *reasons[:5]])
    if not any(
        seen.voxels or isinstance(cases[name].label, int | tuple) for name, seen in examined.items()
    ):
        reasons = [finding.line for found in read for finding in found.findings]
        raise DataError.of(["no label can be read, or all are empty", *reasons[:5]])
    axes = Counter(len(found.shape) for found in read)
    if len(axes) > 1:
        raise DataError(f"pictures and volumes are mixed ({axes[2]} and {axes[3]}); separate them")
    spread = [found.intensities for found in read if found.intensities]
    has_classes = any(isinstance(case.label, int | tuple) for case in cases.values())
    return Fingerprint(
        task=Task.CLASSIFICATION if has_classes else Task.SEGMENTATION,
        cases=len(cases),
        patients=len({case.patient for case in cases.values()}),
        channels=Counter(found.channels for found in read).most_common(1)[0][0],
        shapes=np.array([found.grid[0] for found in read]),
        spacings_mm=np.array([found.grid[1] for found in read]),
        is_byte={found.stored for found in read} <= {"uint8", "bool"},
        lows=np.array([each.low for each in spread]),
        highs=np.array([each.high for each in spread]),
        shares=_of_cases(cases, labels) if has_classes else _of_voxels(read, labels),
        thinnest=_thinnest(read, labels),
        overlapping=overlapping,
    )


def _of_voxels(read: list[Examined], labels: Mapping[str, int]) -> dict[str, float]:
    counts: Counter[int] = Counter()
    for found in read:
        counts.update(found.voxels)
    total = max(sum(counts.values()), 1)
    named = sorted({"background": 0, **labels}.items(), key=lambda item: item[1])
    return {name: counts[value] / total for name, value in named}


def _of_cases(cases: Mapping[str, Case], labels: Mapping[str, int]) -> dict[str, float]:
    counts: Counter[int] = Counter()
    for case in cases.values():
        several = case.label if isinstance(case.label, tuple) else ()
        counts.update([case.label] if isinstance(case.label, int) else [labels[n] for n in several])
    total = sum(isinstance(case.label, int | tuple) for case in cases.values())
    named = sorted(labels.items(), key=lambda item: item[1])
    return {name: counts[value] / max(total, 1) for name, value in named}


def _thinnest(read: list[Examined], labels: Mapping[str, int]) -> float:
    held = [
        [found.voxels[value] for found in read if value in found.voxels]
        for value in labels.values()
    ]
    medians = [float(np.median(counts)) for counts in held if counts]
    return min(medians) ** (1 / len(read[0].shape)) if medians else float("inf")
