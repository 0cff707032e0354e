"""Calibration: does a class given 80 % turn out right 8 times of 10?

The confidence of a voxel (or a case) is the probability of its most likely class. Confidences are
sorted into narrow bins while cases stream past, so that memory stays constant; equal bins and bins
of equal count are made of them afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from medkd.types import UNLABELLED, Activation

BINS = 15  # of equal width
_FINE = 64  # narrow bins in each equal one
_HALVINGS = 16  # of the last narrow bin, towards confidence 1, where most voxels of a volume are
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)  # a surely wrong voxel costs 16 nats, not inf


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

    def __init__(self, *, bins: int = BINS) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self._bins = bins
        self._fine = np.zeros((3, bins * _FINE + _HALVINGS))  # count, confidence, number correct
        self._of_class = np.zeros((1, 3, bins))  # the same of each class against all others
        self._brier = 0.0
        self._nll = 0.0

    def update(
        self,
        probabilities: Float[np.ndarray, " classes *space"],
        labels: Integer[np.ndarray, " *space"],
        mask: Bool[np.ndarray, " *space"] | None = None,
        *,
        told: Bool[np.ndarray, " classes"] | None = None,
    ) -> None:
        """Count one case.

        Args:
            probabilities: of each class, summing to 1.
            labels: the true class index of each voxel; ``space`` may be the cases of a batch.
            mask: the voxels to count, all by default.
            told: the classes that the labels tell apart, all by default; others have probability 0
                and no calibration of their own.

        Raises:
            ValueError: the shapes do not fit, the probabilities are none, or a label is no class.
        """
        _check_shapes(probabilities, labels, mask)
        chosen = np.ones(labels.shape, bool) if mask is None else mask
        columns, truth = probabilities[:, chosen], labels[chosen].astype(np.intp)
        _check_probabilities(columns)
        check_labels(truth, len(columns))
        self._count_bins(columns, truth, told)
        self._count_costs(columns, truth)

    def update_independent(
        self,
        probabilities: Float[np.ndarray, " classes *space"],
        labels: Integer[np.ndarray, " classes *space"],
        mask: Bool[np.ndarray, " classes *space"] | None = None,
    ) -> None:
        """Count one case of classes that do not exclude each other: a question a voxel and class.

        Each question has two answers, there and not there, with the probabilities p and 1 - p; all
        figures are those of two exclusive classes, but the static calibration error, which is still
        the mean over classes.

        Args:
            probabilities: that a class is there.
            labels: 1 where it is, 0 where it is not.
            mask: the questions to count, all by default.

        Raises:
            ValueError: as ``update``.
        """
        if probabilities.shape != labels.shape:
            _check_shapes(probabilities[None], labels, mask)
        chosen = np.ones(labels.shape, bool) if mask is None else mask
        of_class = np.zeros((len(labels), 3, self._bins))
        for number, (p, truth, asked) in enumerate(zip(probabilities, labels, chosen, strict=True)):
            there, is_there = p[asked], truth[asked].astype(np.intp)
            columns = np.stack([1 - there, there])
            _check_probabilities(columns)
            check_labels(is_there, 2)
            self._count_confidence(columns, is_there)
            self._count_costs(columns, is_there)
            of_class[number] = _totals(
                _equal_index(there, self._bins), there, is_there == 1, of_class[number]
            )
        self._of_class = self._of_class + of_class

    def __add__(self, other: "CalibrationBins") -> "CalibrationBins":
        """Pool two sets of cases.

        Raises:
            ValueError: the numbers of bins differ.
        """
        if self._bins != other._bins:
            raise ValueError(f"cannot add {other._bins} bins to {self._bins}")
        total = CalibrationBins(bins=self._bins)
        for name in ("_fine", "_of_class", "_brier", "_nll"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    @property
    def voxels(self) -> int:
        """Number of voxels (or cases) seen; of independent classes, number of questions."""
        return int(self._fine[0].sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| by bin (Guo et al. 2017)."""
        return _gap(self.totals()) / self._seen()

    @property
    def adaptive_ece(self) -> float:
        """The same over bins that hold equally many voxels each (Nixon et al. 2019).

        Equal bins are ruled by the fullest one. Confidences that are closer to each other than
        1/1000, or than a tenth of their distance to 1, are not told apart.
        """
        held = self._fine[:, self._fine[0] > 0]
        middle = (np.cumsum(held[0]) - held[0] / 2) / self._seen()
        group = np.minimum((middle * self._bins).astype(np.intp), self._bins - 1)
        grouped = np.stack([np.bincount(group, row, minlength=self._bins) for row in held])
        return _gap(grouped) / self._seen()

    @property
    def class_ece(self) -> Float[np.ndarray, " classes"]:
        """ECE of each class's probability against all others; NaN where no label told it.

        A class's probability is judged wherever it is, not only where it is the highest.
        """
        self._seen()
        seen = self._of_class[:, 0].sum(axis=1)
        gaps = np.array([_gap(totals) for totals in self._of_class])
        return np.divide(gaps, seen, out=np.full(len(gaps), np.nan), where=seen > 0)

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

    @property
    def static_ece(self) -> float:
        """Mean over classes of ``class_ece`` (static calibration error, Nixon et al. 2019)."""
        return float(np.nanmean(self.class_ece))

    def totals(self) -> Float[np.ndarray, " 3 bins"]:
        """Count, summed confidence and number correct of each bin; they add up over cases."""
        narrow = self._fine[:, : self._bins * _FINE].reshape(3, self._bins, _FINE).sum(axis=2)
        narrow[:, -1] += self._fine[:, self._bins * _FINE :].sum(axis=1)
        return narrow

    def curve(self) -> ReliabilityCurve:
        """Return the reliability curve."""
        self._seen()
        count, confidence, correct = self.totals()
        held = count > 0
        count = count[held]
        return ReliabilityCurve(
            confidence[held] / count, correct[held] / count, count.astype(np.int64)
        )

    def _seen(self) -> int:
        if not self.voxels:
            raise ValueError("calibration of no voxels is undefined: nothing was counted")
        return self.voxels

    def _count_confidence(self, columns: np.ndarray, truth: np.ndarray) -> None:
        confidence = columns.max(axis=0).astype(np.float64)
        correct = columns.argmax(axis=0) == truth
        self._fine += _totals(_fine_index(confidence, self._bins), confidence, correct, self._fine)

    def _count_bins(self, columns: np.ndarray, truth: np.ndarray, told: np.ndarray | None) -> None:
        self._count_confidence(columns, truth)
        of_class = np.zeros((len(columns), 3, self._bins))
        for number, column in enumerate(columns):
            if told is not None and not told[number]:
                continue
            index = _equal_index(column, self._bins)
            of_class[number] = _totals(index, column, truth == number, of_class[number])
        self._of_class = self._of_class + of_class

    def _count_costs(self, columns: np.ndarray, truth: np.ndarray) -> None:
        of_truth = np.take_along_axis(columns, truth[None], axis=0)[0].astype(np.float64)
        squares = sum(float(np.square(column, dtype=np.float64).sum()) for column in columns)
        # sum over classes of (p - onehot)² without the one-hot array
        self._brier += squares + float((1 - 2 * of_truth).sum())
        self._nll -= float(np.log(np.maximum(of_truth, _LEAST_PROBABILITY)).sum())


def count_calibration(
    bins: CalibrationBins,
    probabilities: np.ndarray,
    labels: np.ndarray,
    activation: Activation,
    mask: np.ndarray | None = None,
    *,
    told: np.ndarray | None = None,
) -> None:
    """Count one case of exclusive or of independent classes, but for what nobody has judged.

    Args:
        bins: that it is counted in.
        probabilities: ``[classes, *space]``.
        labels: class indices ``[*space]``, or ``[classes, *space]``, 0 or 1; or ``UNLABELLED``.
        activation: which of the two.
        mask: the voxels ``[*space]`` to count, all by default.
        told: of exclusive classes, those that the labels tell apart; see ``update``.
    """
    judged = labels != UNLABELLED
    known = np.where(judged, labels, 0).astype(np.intp)
    counted = judged if mask is None else judged & mask
    if activation is Activation.SIGMOID:
        bins.update_independent(probabilities, known, counted)
    else:
        bins.update(probabilities, known, counted, told=told)


def ece_of(scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"]) -> float:
    """Return the ECE of the probability of one class, as ``class_ece``; NaN without a case.

    Raises:
        ValueError: the shapes differ.
    """
    if scores.shape != positive.shape:
        raise ValueError(f"one boolean a score: {scores.shape} and {positive.shape}")
    index, bins = _equal_index(scores, BINS), np.empty((3, BINS))
    return _gap(_totals(index, scores, positive, bins)) / len(scores) if len(scores) else np.nan


def _gap(totals: np.ndarray) -> float:
    """Return the sum over bins of |number correct - summed confidence|."""
    _, confidence, correct = totals
    return float(np.abs(correct - confidence).sum())


def _totals(
    index: np.ndarray, confidence: np.ndarray, correct: np.ndarray, like: np.ndarray
) -> np.ndarray:
    """Return count, summed confidence and number correct of each bin."""
    size = like.shape[-1]
    weights = (None, confidence, correct)
    return np.stack([np.bincount(index, each, minlength=size) for each in weights])


def _equal_index(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidence * bins).astype(np.intp), bins - 1)


def _fine_index(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Number the narrow bins; the last of them is halved again and again towards 1."""
    narrow = bins * _FINE
    index = np.clip((confidence * narrow).astype(np.intp), 0, narrow - 1)
    last = index == narrow - 1
    gap = np.maximum((1 - confidence[last]) * narrow, 2.0**-_HALVINGS)
    index[last] += np.clip(-np.log2(gap), 0, _HALVINGS).astype(np.intp)
    return index


class PooledCalibration:
    """Calibration of any choice of cases that were counted apart, fast enough to bootstrap."""

    def __init__(self, cases: Sequence[CalibrationBins]) -> None:
        """Stack what was counted.

        Raises:
            ValueError: no case, or their bins or classes differ.
        """
        whole = sum(cases[1:], cases[0])  # refuses what cannot be pooled
        self._bins = whole._bins
        shape = whole._of_class.shape
        self._fine = np.stack([case._fine for case in cases])
        self._of_class = np.stack([np.broadcast_to(case._of_class, shape) for case in cases])
        self._costs = np.array([[case._brier, case._nll] for case in cases])

    def of(self, indices: Integer[np.ndarray, " drawn"]) -> CalibrationBins:
        """Return what was counted in the cases at these indices; one may come several times."""
        times = np.bincount(indices, minlength=len(self._fine)).astype(np.float64)
        pooled = CalibrationBins(bins=self._bins)
        pooled._fine = np.tensordot(times, self._fine, axes=1)
        pooled._of_class = np.tensordot(times, self._of_class, axes=1)
        pooled._brier, pooled._nll = times @ self._costs
        return pooled


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


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Refuse labels that are no class index, with a ValueError."""
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels must lie in [0, {classes - 1}], got {labels.min()} to {labels.max()}"
        )
