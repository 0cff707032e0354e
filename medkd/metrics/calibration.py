"""Calibration: does a class given 80 % turn out right 8 times of 10?

The confidence of a voxel (or a case) is the probability of its most likely class. Confidences are
sorted into equal bins while cases stream past, so that memory stays constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage, optimize, special

from medkd.metrics.bounding_box import bounding_box

_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)  # a surely wrong voxel costs 16 nats, not inf
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class ReliabilityCurve:
    """The bins that hold anything, by rising confidence; perfect calibration is the diagonal.

    Attributes:
        confidence: mean confidence of each bin.
        accuracy: share of each bin whose most likely class was right.
        count: voxels (or cases) in each bin.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Integer[np.ndarray, " bins"]


class CalibrationBins:
    """Calibration of all that ``update`` was shown; add two of them to pool their cases.

    Bins are closed below and open above, but the last holds confidence 1: softmax saturates.

    Example:
        >>> seen = CalibrationBins(bins=10)
        >>> seen.update(np.array([[0.75, 0.25], [0.25, 0.75]]), np.array([0, 0]))
        >>> seen.ece, seen.voxels
        (0.25, 2)
    """

    def __init__(self, *, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self._count = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)
        self._correct = np.zeros(bins)
        self._brier = 0.0
        self._nll = 0.0

    def update(
        self,
        probabilities: Float[np.ndarray, " classes *space"],
        labels: Integer[np.ndarray, " *space"],
        mask: Bool[np.ndarray, " *space"] | None = None,
    ) -> None:
        """Count one case.

        Args:
            probabilities: of each class, summing to 1.
            labels: the true class index of each voxel; ``space`` may be the cases of a batch.
            mask: the voxels to count, all by default.

        Raises:
            ValueError: the shapes do not fit, the probabilities are none, or a label is no class.
        """
        _check_shapes(probabilities, labels, mask)
        chosen = np.ones(labels.shape, bool) if mask is None else mask
        columns, truth = probabilities[:, chosen], labels[chosen].astype(np.intp)
        _check_probabilities(columns)
        _check_labels(truth, len(columns))
        self._count_bins(columns, truth)
        self._count_costs(columns, truth)

    def __add__(self, other: "CalibrationBins") -> "CalibrationBins":
        """Pool two sets of cases.

        Raises:
            ValueError: the numbers of bins differ.
        """
        if len(self._count) != len(other._count):
            raise ValueError(f"cannot add {len(other._count)} bins to {len(self._count)}")
        total = CalibrationBins(bins=len(self._count))
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    @property
    def voxels(self) -> int:
        """Number of voxels (or cases) seen."""
        return int(self._count.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| by bin (Guo et al. 2017)."""
        return float(np.abs(self._correct - self._confidence).sum() / self._seen())

    @property
    def mce(self) -> float:
        """Maximum calibration error: the |accuracy - confidence| of the worst bin."""
        curve = self.curve()
        return float(np.abs(curve.accuracy - curve.confidence).max())

    @property
    def brier(self) -> float:
        """Squared error summed over classes, averaged over voxels, in [0, 2] (Brier 1950)."""
        return self._brier / self._seen()

    @property
    def nll(self) -> float:
        """Mean of -log probability of the true class in nats, each at most 16."""
        return self._nll / self._seen()

    def totals(self) -> Float[np.ndarray, " 3 bins"]:
        """Count, summed confidence and number correct of each bin; they add up over cases."""
        return np.stack([self._count, self._confidence, self._correct])

    def curve(self) -> ReliabilityCurve:
        """Return the reliability curve."""
        self._seen()
        held = self._count > 0
        count = self._count[held]
        return ReliabilityCurve(self._confidence[held] / count, self._correct[held] / count, count)

    def _seen(self) -> int:
        if not self.voxels:
            raise ValueError("calibration of no voxels is undefined: nothing was counted")
        return self.voxels

    def _count_bins(self, columns: np.ndarray, truth: np.ndarray) -> None:
        confidence = columns.max(axis=0).astype(np.float64)
        last = len(self._count) - 1
        index = np.clip((confidence * (last + 1)).astype(np.intp), 0, last)
        correct = columns.argmax(axis=0) == truth
        self._count += np.bincount(index, minlength=last + 1)
        self._confidence += np.bincount(index, confidence, minlength=last + 1)
        self._correct += np.bincount(index, correct, minlength=last + 1)

    def _count_costs(self, columns: np.ndarray, truth: np.ndarray) -> None:
        of_truth = np.take_along_axis(columns, truth[None], axis=0)[0].astype(np.float64)
        squares = sum(float(np.square(column, dtype=np.float64).sum()) for column in columns)
        # sum over classes of (p - onehot)² without the one-hot array
        self._brier += squares + float((1 - 2 * of_truth).sum())
        self._nll -= float(np.log(np.maximum(of_truth, _LEAST_PROBABILITY)).sum())


def fit_temperature(
    logits: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases"]
) -> float:
    """Find the temperature in [0.05, 20] that minimises the mean NLL (Guo et al. 2017).

    Above 1 the logits were overconfident. Logits that are never wrong have no best temperature:
    the lower, the better. They say nothing about their calibration and keep temperature 1.

    Raises:
        ValueError: no case, numbers of cases differ, or a label is no class.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"one label per row: logits {logits.shape}, labels {labels.shape}")
    _check_labels(labels, logits.shape[1])
    exact, rows = logits.astype(np.float64), np.arange(len(labels))
    if (exact.argmax(axis=1) == labels).all():
        return 1.0

    def nll(log_temperature: float) -> float:
        scaled = exact / np.exp(log_temperature)
        return float((special.logsumexp(scaled, axis=1) - scaled[rows, labels]).mean())

    low, high = np.log(_TEMPERATURES)
    best = optimize.minimize_scalar(
        nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x))


def apply_temperature(
    logits: Float[np.ndarray, " ..."], temperature: float, *, axis: int
) -> Float[np.ndarray, " ..."]:
    """Return softmax(logits / temperature) in float32 over the axis of classes.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return special.softmax(logits.astype(np.float32) / np.float32(temperature), axis=axis)


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


def _check_shapes(probabilities: np.ndarray, labels: np.ndarray, mask: np.ndarray | None) -> None:
    shapes = {probabilities.shape[1:], labels.shape, labels.shape if mask is None else mask.shape}
    if len(shapes) > 1:
        raise ValueError(
            f"shapes do not fit: probabilities {probabilities.shape}, labels {labels.shape}, "
            f"mask {None if mask is None else mask.shape}"
        )


def _check_probabilities(columns: np.ndarray) -> None:
    if not columns.size:
        return
    sums = columns.sum(axis=0, dtype=np.float32)
    ends = float(columns.min()), float(columns.max()), float(sums.min()), float(sums.max())
    # Half precision, as soft targets are stored, sums to 1 within 1 %. NaN fails every comparison.
    if not (ends[0] >= 0 and ends[1] <= 1.01 and ends[2] >= 0.99 and ends[3] <= 1.01):
        raise ValueError(
            f"probabilities lie in [0, 1] and sum to 1; these lie in [{ends[0]:g}, {ends[1]:g}] "
            f"and sum to [{ends[2]:g}, {ends[3]:g}]"
        )


def _check_labels(labels: np.ndarray, classes: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels must lie in [0, {classes - 1}], got {labels.min()} to {labels.max()}"
        )
