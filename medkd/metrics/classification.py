"""Figures of a classifier, from its probabilities and the true classes, or of findings.

A figure that needs a class no case belongs to is undefined, and NaN: a mean over the other classes
would look like the same figure and be another.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from medkd.types import UNLABELLED


def auroc(
    probabilities: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases"]
) -> float:
    """Return the area under the ROC curve: of class 1, or the mean over more than two classes.

    Each of more than two classes is set against the rest (macro one-vs-rest).

    Returns:
        A value in [0, 1], 0.5 for chance; NaN if a class has no case.

    Raises:
        ValueError: the shapes do not fit, a probability is outside [0, 1], or a label is no class.
    """
    from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

    if _absent(probabilities, labels):
        return math.nan
    scores, target = _tensors(probabilities, labels)
    if probabilities.shape[1] == 2:
        return float(binary_auroc(scores[:, 1], target))
    return float(multiclass_auroc(scores, target, num_classes=scores.shape[1], average="macro"))


def average_precision(
    probabilities: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases"]
) -> float:
    """Return the area under the precision-recall curve, by steps; classes as in ``auroc``.

    Returns:
        A value in [0, 1], the share of the class for chance; NaN if a class has no case.

    Raises:
        ValueError: the shapes do not fit, a probability is outside [0, 1], or a label is no class.
    """
    from torchmetrics.functional.classification import (
        binary_average_precision,
        multiclass_average_precision,
    )

    if _absent(probabilities, labels):
        return math.nan
    scores, target = _tensors(probabilities, labels)
    if probabilities.shape[1] == 2:
        return float(binary_average_precision(scores[:, 1], target))
    return float(multiclass_average_precision(scores, target, num_classes=scores.shape[1]))


class Ranking:
    """The cases of one finding by their scores, sorted once for any choice of cases.

    Example:
        >>> scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])
        >>> Ranking(scores, labels).auroc(np.arange(4))
        0.875
    """

    def __init__(
        self, scores: Float[np.ndarray, " cases"], labels: Integer[np.ndarray, " cases"]
    ) -> None:
        """Sort cases.

        Args:
            scores: finite.
            labels: 1 where it is there, 0 where it is not, or ``UNLABELLED``: left out.

        Raises:
            ValueError: the shapes differ or a score is not finite.
        """
        _check_scores(scores, labels == 1)
        self._labels = labels
        self._distinct, self._place = np.unique(scores, return_inverse=True)

    def auroc(self, indices: Integer[np.ndarray, " drawn"]) -> float:
        """Return the area under the ROC curve; NaN where all of the cases have it, or none.

        It is the share of pairs of a case with and one without it that are told apart; ties count
        half (Mann and Whitney 1947).
        """
        having, lacking = self._counts(indices)
        pairs = having.sum() * lacking.sum()
        below = np.cumsum(lacking) - lacking / 2
        return float((having * below).sum() / pairs) if pairs else math.nan

    def average_precision(self, indices: Integer[np.ndarray, " drawn"]) -> float:
        """Return the area under the precision-recall curve, by steps; NaN where no case has it.

        The share of the cases that have it is what chance would give.
        """
        having, lacking = (counts[::-1] for counts in self._counts(indices))
        found, said = np.cumsum(having), np.cumsum(having + lacking)
        if not found[-1:].any():
            return math.nan
        return float((having * found / np.maximum(said, 1)).sum() / found[-1])

    def _counts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the cases with and without it at each distinct score, which rise."""
        place, labels = self._place[indices], self._labels[indices]
        places = len(self._distinct)
        having, lacking = (np.bincount(place[labels == v], minlength=places) for v in (1, 0))
        return having, lacking


def auroc_of(scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"]) -> float:
    """Return the ``auroc`` of all cases of a ``Ranking``.

    Raises:
        ValueError: the shapes differ or a score is not finite.
    """
    return Ranking(scores, positive.astype(np.uint8)).auroc(np.arange(len(scores)))


def by_class(
    figure: Callable[[np.ndarray, np.ndarray], float],
    probabilities: Float[np.ndarray, " cases classes"],
    labels: Integer[np.ndarray, " cases classes"],
) -> Float[np.ndarray, " classes"]:
    """Return a figure of each class or finding by itself, over the cases in which it was judged.

    Args:
        figure: of scores and of who has it, such as ``auroc_of``.
        probabilities: of each, or other scores that rise with them.
        labels: 1 where it is there, 0 where it is not, or ``UNLABELLED``.
    """
    found = [
        figure(p[truth != UNLABELLED], truth[truth != UNLABELLED] == 1)
        for p, truth in zip(probabilities.T, labels.T, strict=True)
    ]
    return np.array(found, np.float64)


def confusion_matrix(
    predictions: Integer[np.ndarray, " cases"],
    labels: Integer[np.ndarray, " cases"],
    *,
    classes: int,
) -> Integer[np.ndarray, " classes classes"]:
    """Count cases: a row for each true class, a column for each predicted one.

    Raises:
        ValueError: the shapes differ, or a prediction or label is no class.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), classes=2)
        array([[1, 1],
               [0, 1]])
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions {predictions.shape}, labels {labels.shape} differ in shape")
    _check_classes(predictions, classes)
    _check_classes(labels, classes)
    pairs = labels.astype(np.intp) * classes + predictions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(
    predictions: Integer[np.ndarray, " cases"],
    labels: Integer[np.ndarray, " cases"],
    *,
    classes: int,
) -> float:
    """Return the mean over classes of the share recognised, in [0, 1]; NaN if one has no case.

    Raises:
        ValueError: the shapes differ, or a prediction or label is no class.
    """
    matrix = confusion_matrix(predictions, labels, classes=classes)
    cases = matrix.sum(axis=1)
    return float((matrix.diagonal() / cases).mean()) if cases.all() else math.nan


def threshold_at_specificity(
    scores: Float[np.ndarray, " cases"],
    positive: Bool[np.ndarray, " cases"],
    *,
    specificity: float = 0.95,
) -> float:
    """Find the lowest threshold at which enough negatives score below it.

    Choose it on the validation split and read ``sensitivity`` and ``specificity`` off on the test
    split: a threshold chosen on the test split flatters.

    Returns:
        The least float32 above the last negative that must be excluded; a case is called positive
        when its score is at least that.

    Raises:
        ValueError: shapes differ, no case is negative, or ``specificity`` is not in (0, 1].
    """
    _check_scores(scores, positive)
    negatives = np.sort(scores[~positive])
    if not len(negatives) or not 0 < specificity <= 1:
        raise ValueError(
            f"a specificity in (0, 1] of at least one negative case is needed; "
            f"got specificity {specificity} and {len(negatives)} negatives"
        )
    # 0.95 of 20 negatives are 19, though 0.95 * 20 may round to a little more
    excluded = math.ceil(specificity * len(negatives) * (1 - 1e-12))
    return float(np.nextafter(np.float32(negatives[excluded - 1]), np.float32(np.inf)))


def sensitivity(
    scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"], *, threshold: float
) -> float:
    """Return the share of the positive cases that score at least ``threshold``; NaN without any.

    Raises:
        ValueError: the shapes differ or a score is not finite.
    """
    _check_scores(scores, positive)
    return float((scores[positive] >= threshold).mean()) if positive.any() else math.nan


def specificity(
    scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"], *, threshold: float
) -> float:
    """Return the share of the negative cases that score below ``threshold``; NaN without any.

    Raises:
        ValueError: the shapes differ or a score is not finite.
    """
    _check_scores(scores, positive)
    return float((scores[~positive] < threshold).mean()) if not positive.all() else math.nan


def _tensors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    import torch

    # in float64, for rounding would make ties
    scores = torch.from_numpy(probabilities.astype(np.float64))
    return scores, torch.from_numpy(labels.astype(np.int64))


def _absent(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Check the arguments; tell whether a class has no case."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"shapes do not fit: {probabilities.shape} and labels {labels.shape}")
    classes = probabilities.shape[1]
    if classes < 2:
        raise ValueError(f"two classes or more are needed, got probabilities of {classes}")
    # torchmetrics takes values beyond [0, 1] for logits and squashes them, silently
    if probabilities.size and not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"probabilities lie in [0, 1], got {probabilities.min():g} to {probabilities.max():g}"
        )
    _check_classes(labels, classes)
    return len(np.unique(labels)) < classes


def _check_classes(labels: np.ndarray, classes: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"classes are 0 to {classes - 1}, got {labels.min()} to {labels.max()}")


def _check_scores(scores: np.ndarray, positive: np.ndarray) -> None:
    if scores.shape != positive.shape or positive.dtype != bool or not np.isfinite(scores).all():
        raise ValueError(
            f"finite scores {scores.shape} and one boolean each are needed, "
            f"got {positive.dtype} {positive.shape} and {(~np.isfinite(scores)).sum()} not finite"
        )
