"""Empty masks: one policy for every figure, so that a missed organ never improves a mean.

============  ==========  =========  ==========================  =========================
emptiness     prediction  reference  Dice, IoU, NSD, …           distances
============  ==========  =========  ==========================  =========================
neither       has voxels  has voxels  as computed                as computed
both          empty       empty      1: rightly nothing          0
miss          empty       has voxels  0                          the volume's diagonal, mm
false_alarm   has voxels  empty      0                           the volume's diagonal, mm
============  ==========  =========  ==========================  =========================

The same replacement by the best or the worst value is recommended by Metrics Reloaded
(Maier-Hein et al., Nature Methods 2024); misses and false alarms are also counted apart.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from jaxtyping import Bool


class Emptiness(StrEnum):
    """Which of the two masks has no voxel."""

    NEITHER = "neither"
    BOTH = "both"
    MISS = "miss"  # the reference has voxels, the prediction none
    FALSE_ALARM = "false_alarm"  # the prediction has voxels, the reference none


def emptiness(
    prediction: Bool[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]
) -> Emptiness:
    """Classify a pair of masks.

    Raises:
        ValueError: the masks are not boolean or differ in shape.

    Example:
        >>> emptiness(np.zeros((2, 2), dtype=bool), np.ones((2, 2), dtype=bool)).value
        'miss'
    """
    _check_pair(prediction, reference)
    found, there = bool(prediction.any()), bool(reference.any())
    if found and there:
        return Emptiness.NEITHER
    if not found and not there:
        return Emptiness.BOTH
    return Emptiness.MISS if there else Emptiness.FALSE_ALARM


def empty_score(kind: Emptiness) -> float | None:
    """Return a score's value for empty masks, None where the masks decide."""
    if kind is Emptiness.NEITHER:
        return None
    return 1.0 if kind is Emptiness.BOTH else 0.0


def empty_distance(kind: Emptiness, *, diagonal_mm: float) -> float | None:
    """Return a distance's value for empty masks in mm, None where the masks decide."""
    if kind is Emptiness.NEITHER:
        return None
    return 0.0 if kind is Emptiness.BOTH else diagonal_mm


def volume_diagonal(shape: Sequence[int], *, spacing_mm: Sequence[float]) -> float:
    """Return the length in mm from corner to corner of a grid: no distance in it is longer.

    Raises:
        ValueError: one positive spacing per axis is needed.

    Example:
        >>> volume_diagonal((30, 20), spacing_mm=(1.0, 2.0))
        50.0
    """
    if len(shape) != len(spacing_mm) or not all(0 < s < math.inf for s in spacing_mm):
        raise ValueError(
            f"spacing_mm needs one positive number per axis: shape {tuple(shape)}, "
            f"spacing_mm {tuple(spacing_mm)}"
        )
    return math.hypot(*(n * s for n, s in zip(shape, spacing_mm, strict=True)))


def _check_pair(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.dtype != bool or reference.dtype != bool:
        raise ValueError(
            f"masks are boolean; got prediction {prediction.dtype}, reference {reference.dtype}"
        )
    if prediction.shape != reference.shape:
        raise ValueError(
            f"masks differ in shape: prediction {prediction.shape}, reference {reference.shape}"
        )
