"""Figures of a classifier, from its probabilities and the true classes, or of findings.

A figure that needs a class no case belongs to is undefined, and NaN: a mean over the other classes
would look like the same figure and be another.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.stats import rankdata

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


def auroc_of(scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"]) -> float:
    """Return the area under the ROC curve of one finding; NaN where all cases have it, or none.

    It is the share of pairs of a case with and one without it that are told apart; ties count half
    (Mann and Whitney 1947).

    Raises:
        ValueError: the shapes differ or a score is not finite.

    Example:
        >>> auroc_of(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
        0.875
    """
    _check_scores(scores, positive)
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return math.nan
    least = positive.sum() * (positive.sum() + 1) / 2
    return float((rankdata(scores)[positive].sum() - least) / pairs)


def average_precision_of(
    scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"]
) -> float:
    """Return the area under the precision-recall curve of one finding, by steps.

    Returns:
        A value in [0, 1], the share of the finding for chance; NaN where no case has it.

    Raises:
        ValueError: the shapes differ or a score is not finite.

    Example:
        >>> average_precision_of(np.array([0.2, 0.4, 0.8]), np.array([False, True, True]))
        1.0
    """
    _check_scores(scores, positive)
    if not positive.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
    precision, gained = found[ends] / (ends + 1), np.diff(found[ends], prepend=0)
    return float((precision * gained).sum() / found[-1])


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
