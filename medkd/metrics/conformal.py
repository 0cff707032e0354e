"""Conformal: answers that are wrong at most as often as was promised.

A threshold is chosen on calibration cases so that the promise holds, on average over calibration
and new cases, for whatever model, if new cases come from where those came from (Angelopoulos and
Bates, arXiv 2107.07511). Voxels of an image are not exchangeable; images are, and cases of one
patient only roughly, so a promise by image is as good as patients have few.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Integer

THRESHOLDS = np.linspace(0, 1, 1001)  # of a structure's probability


def set_threshold(
    probabilities: Float[np.ndarray, "cases classes"],
    labels: Integer[np.ndarray, " cases"],
    *,
    coverage: float,
) -> float:
    """Return the least probability of a class that belongs to the set of possible answers.

    The set of a new case holds the truth with at least ``coverage`` (split conformal prediction,
    Sadinle, Lei, Wasserman, JASA 2019). Where there are too few cases to promise that, the
    threshold is 0 and every class belongs.

    Args:
        probabilities: of calibration cases.
        labels: their true classes.
        coverage: what is promised, in (0, 1).

    Raises:
        ValueError: no case, lengths differ, or ``coverage`` is out of range.
    """
    if len(probabilities) != len(labels) or not len(labels):
        raise ValueError(
            f"one label per row: probabilities {probabilities.shape}, labels {labels.shape}"
        )
    _check_share(coverage, "coverage")
    of_truth = np.sort(probabilities[np.arange(len(labels)), labels])
    allowed = math.floor((1 - coverage) * (len(labels) + 1) + 1e-9)  # may fall below the threshold
    return float(of_truth[allowed - 1]) if allowed else 0.0


def presence_threshold(
    scores: Float[np.ndarray, " cases"], positive: Bool[np.ndarray, " cases"], *, coverage: float
) -> float:
    """Return the least probability at which one finding is not ruled out.

    Of new cases that have it, at least ``coverage`` keep it (as ``set_threshold``, among the cases
    of one class; Sadinle, Lei, Wasserman, JASA 2019). Where too few have it to promise that, the
    threshold is 0 and it is never ruled out.

    Raises:
        ValueError: ``coverage`` is out of range.
    """
    if not positive.any():
        return 0.0
    having = scores[positive]
    return set_threshold(having[:, None], np.zeros(len(having), np.int64), coverage=coverage)


def answer_sets(
    probabilities: Float[np.ndarray, "cases classes"], *, threshold: float
) -> Bool[np.ndarray, "cases classes"]:
    """Return which classes are possible; the likeliest always is, so that no set is empty."""
    likeliest = np.eye(probabilities.shape[1], dtype=bool)[probabilities.argmax(axis=1)]
    return (probabilities >= threshold) | likeliest


def missed_shares(
    probability: Float[np.ndarray, " *space"], reference: Bool[np.ndarray, " *space"]
) -> Float[np.ndarray, " thresholds"]:
    """Return, for each of ``THRESHOLDS``, the share of a structure with a lower probability.

    That is the false-negative rate of the mask ``probability >= threshold``; 0 where the image
    has none of the structure.

    Raises:
        ValueError: the shapes differ.
    """
    if probability.shape != reference.shape:
        raise ValueError(f"shapes differ: {probability.shape} and {reference.shape}")
    inside = np.sort(probability[reference].astype(np.float64))
    if not len(inside):
        return np.zeros(len(THRESHOLDS))
    return np.searchsorted(inside, THRESHOLDS) / len(inside)


def risk_threshold(shares: Float[np.ndarray, "images thresholds"], *, risk: float) -> float:
    """Return the highest of ``THRESHOLDS`` whose mask misses at most ``risk`` of a structure.

    The promise is on the mean share missed in a new image (conformal risk control, Angelopoulos
    et al., arXiv 2208.02814). Where there are too few images to promise that, the threshold is 0
    and the mask holds everything.

    Args:
        shares: of calibration images, as ``missed_shares`` gives them; they rise with the
            threshold.
        risk: what is promised, in (0, 1).

    Raises:
        ValueError: no image, or ``risk`` is out of range.
    """
    _check_share(risk, "risk")
    if not len(shares):
        raise ValueError("a risk needs images to be controlled on; there are none")
    bound = (shares.sum(axis=0) + 1) / (len(shares) + 1)  # as if the new image missed everything
    kept = np.flatnonzero(bound <= risk)
    return float(THRESHOLDS[kept[-1]]) if len(kept) else 0.0


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value}")
