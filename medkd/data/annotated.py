"""Annotated: partially labelled cases, whose label maps cover some of the structures.

Where such a map holds the background, there may be a structure that it does not cover. A network is
taught and judged there by what the map can tell: background and all that it does not cover count as
one class, whose probability is their sum (the marginal loss of Shi et al., Medical Image Analysis
2021). Leaving those voxels out instead would choose voxels by their labels: what remains is
foreground, and every network would look too unsure.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from medkd.config import Config
from medkd.types import UNLABELLED, Case


def covered(case: Case, config: Config) -> Bool[np.ndarray, " classes"]:
    """Return which of ``config.classes`` a case's label tells apart; the background always is."""
    told = np.ones(len(config.classes), bool)
    if case.annotated is not None:
        first = len(config.classes) - len(config.questions)
        told[first:] = [name in case.annotated for name in config.questions]
    return told


def covered_questions(case: Case, config: Config) -> Bool[np.ndarray, " structures"]:
    """Return which of ``config.questions``, structures or findings, a case's label covers."""
    return covered(case, config)[len(config.classes) - len(config.questions) :]


def as_judged(masks: np.ndarray, case: Case, config: Config) -> np.ndarray:
    """Return masks of structures that may overlap, ``UNLABELLED`` where the label covers none.

    Or the findings of an image.
    """
    told = covered_questions(case, config)
    if told.all():
        return masks
    judged = masks.copy()
    judged[~told] = UNLABELLED
    return judged


def in_label_terms(probabilities: np.ndarray, case: Case, config: Config) -> np.ndarray:
    """Return ``merged`` probabilities of exclusive classes; structures that overlap stay apart."""
    if config.data.overlapping:
        return probabilities
    return merged(probabilities, covered(case, config))


def possible_of(drawn: Sequence[tuple[np.ndarray, Case]], config: Config) -> np.ndarray | None:
    """Return the classes that each drawn label may stand for; None where structures may overlap.

    Args:
        drawn: labels ``[voxels, 1]`` of cases.
        config: of the study.
    """
    if config.data.overlapping:
        return None
    return np.concatenate([stands_for(covered(c, config))[labels[:, 0]] for labels, c in drawn])


def merged(
    probabilities: Float[np.ndarray, " classes *space"], told: Bool[np.ndarray, " classes"]
) -> Float[np.ndarray, " classes *space"]:
    """Return probabilities in a label's terms: what it does not cover is added to the background.

    Example:
        >>> merged(np.array([0.5, 0.125, 0.375]), np.array([True, True, False])).tolist()
        [0.875, 0.125, 0.0]
    """
    if told.all():
        return probabilities
    found = probabilities.copy()
    found[0] += probabilities[~told].sum(axis=0)
    found[~told] = 0
    return found


def merged_log(
    log_p: Float[np.ndarray, " classes *space"], told: Bool[np.ndarray, " classes"]
) -> Float[np.ndarray, " classes *space"]:
    """Return log-probabilities in a label's terms, as ``merged`` does."""
    if told.all():
        return log_p
    found = log_p.copy()
    found[0] = np.logaddexp.reduce(log_p[stands_for(told)[0]], axis=0)
    found[~told] = -np.inf
    return found


def stands_for(told: Bool[np.ndarray, " classes"]) -> Bool[np.ndarray, "classes classes"]:
    """Return the classes that each index of a label map may stand for, a row an index.

    Example:
        >>> stands_for(np.array([True, True, False]))[0].tolist()
        [True, False, True]
    """
    classes = np.eye(len(told), dtype=bool)
    classes[0] |= ~told
    return classes


def in_terms_of(
    answer: Integer[np.ndarray, " *space"], told: Bool[np.ndarray, " classes"]
) -> Integer[np.ndarray, " *space"]:
    """Return class indices in a label's terms: what it does not cover becomes background."""
    return answer if told.all() else np.where(told[answer], answer, 0).astype(answer.dtype)
