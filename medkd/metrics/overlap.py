"""Overlap of two masks; scores of empty masks follow ``medkd.metrics.empty``."""

import numpy as np
from jaxtyping import Bool

from medkd.metrics.empty import emptiness, empty_score


def dice(prediction: Bool[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]) -> float:
    """Return 2|P and R| / (|P| + |R|) in [0, 1] (Dice 1945).

    Raises:
        ValueError: the masks are not boolean or differ in shape.

    Example:
        >>> dice(np.array([True, True, False]), np.array([True, False, False])).__round__(3)
        0.667
    """
    replaced = empty_score(emptiness(prediction, reference))
    if replaced is not None:
        return replaced
    voxels = prediction.sum() + reference.sum()
    return float(2 * _common(prediction, reference) / voxels)


def iou(prediction: Bool[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]) -> float:
    """Return |P and R| / |P or R| in [0, 1] (Jaccard 1912).

    Raises:
        ValueError: the masks are not boolean or differ in shape.
    """
    replaced = empty_score(emptiness(prediction, reference))
    if replaced is not None:
        return replaced
    return float(_common(prediction, reference) / (prediction | reference).sum())


def sensitivity(
    prediction: Bool[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]
) -> float:
    """Return |P and R| / |R| in [0, 1]: the share of the reference that was found.

    Raises:
        ValueError: the masks are not boolean or differ in shape.
    """
    replaced = empty_score(emptiness(prediction, reference))
    if replaced is not None:
        return replaced
    return float(_common(prediction, reference) / reference.sum())


def ppv(prediction: Bool[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]) -> float:
    """Return |P and R| / |P| in [0, 1] (precision): the share of the prediction that is right.

    Raises:
        ValueError: the masks are not boolean or differ in shape.
    """
    return sensitivity(prediction=reference, reference=prediction)


def _common(prediction: np.ndarray, reference: np.ndarray) -> int:
    return int((prediction & reference).sum())
