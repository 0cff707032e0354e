"""Conformal: the thresholds of a release's promise, by its own answers to the validation cases."""

from collections.abc import Sequence

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_structures
from medkd.data.labels import structure_masks, truth_of
from medkd.data.reading import image_of, label_of
from medkd.device.predictor import Predictor
from medkd.metrics.conformal import missed_shares, risk_threshold, set_threshold
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
        labels = np.array([int(str(case.label)) for case in validation])
        thresholds = {SET: set_threshold(np.stack(said), labels, coverage=promised)}
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
