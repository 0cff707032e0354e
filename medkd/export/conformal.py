"""Conformal: a release's thresholds, by its own answers to the validation cases.

Those that keep a promise, and those from which findings count as found.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_questions
from medkd.data.labels import class_of, structure_masks, truth_of
from medkd.data.reading import image_of, label_of
from medkd.device.predictor import Predictor
from medkd.metrics.classification import by_class, threshold_at_specificity
from medkd.metrics.conformal import (
    missed_shares,
    presence_threshold,
    risk_threshold,
    set_threshold,
)
from medkd.progress import progress
from medkd.results import Conformal
from medkd.types import Case, Task

SET = "set"  # the one threshold of a classifier


def told(predictor: Predictor, validation: Sequence[Case], config: Config) -> np.ndarray:
    """Ask a release for its validation cases.

    Args:
        predictor: of the calibrated release.
        validation: cases that it was not trained on.
        config: of the study.

    Returns:
        Probabilities ``[cases, classes]``, or the shares that masks miss ``[cases, structures,
        thresholds]``.
    """
    shown = progress(validation, "thresholds", total=len(validation))
    return np.stack([_of_case(predictor, case, config) for case in shown])


def conformal_thresholds(said: np.ndarray, validation: Sequence[Case], config: Config) -> Conformal:
    """Return the thresholds that keep ``evaluate.promised``, by what was ``told``."""
    promised, cases = config.evaluate.promised, len(validation)
    if config.task is Task.SEGMENTATION:
        covers = np.array([covered_questions(case, config) for case in validation])
        cases = int(covers.sum(axis=0).min())
        thresholds = {
            name: risk_threshold(said[covers[:, index], index], risk=1 - promised)
            for index, name in enumerate(config.structures)
        }
    elif config.has_findings:
        labels = np.stack([class_of(case, config) for case in validation])
        cases = int((labels == 1).sum(axis=0).min())
        thresholds = _by_name(partial(presence_threshold, coverage=promised), said, labels, config)
    else:
        labels = np.concatenate([class_of(case, config) for case in validation])
        thresholds = {SET: set_threshold(said, labels, coverage=promised)}
    return Conformal(promised=promised, thresholds=thresholds, cases=cases)


def operating_points(
    said: np.ndarray, validation: Sequence[Case], config: Config
) -> dict[str, float]:
    """Return the probability from which each finding counts as found, at ``evaluate.specificity``.

    Nothing of classes or structures: one is the likeliest, or more likely there than not.
    """
    if not config.has_findings:
        return {}
    labels = np.stack([class_of(case, config) for case in validation])
    at = partial(threshold_at_specificity, specificity=config.evaluate.specificity)
    return _by_name(at, said, labels, config)


def _by_name(
    threshold: Callable[..., float], said: np.ndarray, labels: np.ndarray, config: Config
) -> dict[str, float]:
    found = by_class(threshold, said, labels)
    return {name: float(value) for name, value in zip(config.classes, found, strict=True)}


def _of_case(predictor: Predictor, case: Case, config: Config) -> np.ndarray:
    image = image_of(case, config)
    probabilities = predictor.answer(image, with_probabilities=True).probabilities
    assert probabilities is not None
    if config.task is Task.CLASSIFICATION:
        return probabilities
    truth = truth_of(label_of(case, config), case, config)
    of_structures = probabilities[-len(config.structures) :]  # without the background
    masks = structure_masks(truth, config)
    return np.stack([missed_shares(p, mask) for p, mask in zip(of_structures, masks, strict=True)])
