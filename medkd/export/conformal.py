"""Conformal: a release's thresholds, by its own answers to the validation cases.

Those that keep a promise, and those from which findings count as found.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_structures
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


def conformal_thresholds(
    predictor: Predictor, validation: Sequence[Case], config: Config
) -> Conformal:
    """Return the thresholds that keep ``evaluate.promised``.

    Args:
        predictor: of the calibrated release.
        validation: cases that it was not trained on.
        config: of the study.
    """
    shown = progress(validation, "conformal thresholds", total=len(validation))
    said = [_told(predictor, case, config) for case in shown]
    promised = config.evaluate.promised
    if config.task is Task.CLASSIFICATION:
        labels = np.stack([class_of(case, config) for case in validation])
        if config.has_findings:
            return _of_findings(np.stack(said), labels, config)
        thresholds = {SET: set_threshold(np.stack(said), labels[:, 0], coverage=promised)}
    else:
        shares = np.stack(said)
        told = np.array([covered_structures(case, config) for case in validation])
        thresholds = {
            name: risk_threshold(shares[told[:, index], index], risk=1 - promised)
            for index, name in enumerate(config.structures)
        }
        return Conformal(
            promised=promised, thresholds=thresholds, cases=int(told.sum(axis=0).min())
        )
    return Conformal(promised=promised, thresholds=thresholds, cases=len(validation))


def _of_findings(p: np.ndarray, labels: np.ndarray, config: Config) -> Conformal:
    promised = config.evaluate.promised
    found = by_class(partial(presence_threshold, coverage=promised), p, labels)
    thresholds = {name: float(t) for name, t in zip(config.classes, found, strict=True)}
    having = (labels == 1).sum(axis=0)
    return Conformal(promised=promised, thresholds=thresholds, cases=int(having.min()))


def operating_points(
    predictor: Predictor, validation: Sequence[Case], config: Config
) -> dict[str, float]:
    """Return the probability from which each finding counts as found, at ``evaluate.specificity``.

    Nothing of classes or structures: one is the likeliest, or more likely there than not.
    """
    if not config.has_findings:
        return {}
    shown = progress(validation, "operating points", total=len(validation))
    said = np.stack([_told(predictor, case, config) for case in shown])
    labels = np.stack([class_of(case, config) for case in validation])
    at = partial(threshold_at_specificity, specificity=config.evaluate.specificity)
    points = by_class(at, said, labels)
    return {name: float(point) for name, point in zip(config.classes, points, strict=True)}


def _told(predictor: Predictor, case: Case, config: Config) -> np.ndarray:
    """Return the probabilities ``[classes]``, or the shares missed ``[structures, thresholds]``."""
    image = image_of(case, config)
    probabilities = predictor.predict(image, with_probabilities=True).probabilities
    assert probabilities is not None
    if config.task is Task.CLASSIFICATION:
        return probabilities
    truth = truth_of(label_of(case, config), case, config)
    told = probabilities[-len(config.structures) :]  # without the background
    masks = structure_masks(truth, config)
    return np.stack([missed_shares(p, mask) for p, mask in zip(told, masks, strict=True)])
