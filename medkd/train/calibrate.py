"""Calibrate: the temperature of a network or teacher, fitted on the validation split."""

from collections.abc import Iterable, Sequence

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered, stands_for
from medkd.data.samples import Sample
from medkd.metrics.temperature import fit_class_temperatures, fit_temperature
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED, Temperature

VOXELS = 200_000  # drawn over all cases


def fit_on_cases(
    log_probabilities: Iterable[np.ndarray],
    samples: Sequence[Sample],
    config: Config,
    *,
    by_class: bool = False,
) -> Temperature:
    """Fit the temperature that minimises NLL on validation cases, or one a class.

    Where a label does not cover all structures, the probabilities of the background and of those
    are summed: NLL is then of what it tells.

    Voxels are drawn evenly over cases (seeded), so that memory does not grow with their size.

    Args:
        log_probabilities: ``[classes, *space]`` of each sample, or ``[classes]``.
        samples: the validation cases.
        config: for the seed.
        by_class: whether each class has its own.
    """
    rng = np.random.default_rng(derive_seed(config.study.seed, "calibration"))
    per_case = max(1, VOXELS // len(samples))
    logits, labels, possible = [], [], []
    for log_p, sample in zip(log_probabilities, samples, strict=True):
        flat, truth = log_p.reshape(log_p.shape[0], -1).T, sample.label.reshape(-1)
        drawn = rng.permutation(np.flatnonzero(truth != UNLABELLED))[:per_case]
        logits.append(np.maximum(flat[drawn], np.log(1e-12)))
        labels.append(truth[drawn].astype(np.int64))
        possible.append(stands_for(covered(sample.case, config))[labels[-1]])
    told = np.concatenate(possible)
    is_one = (told.sum(axis=1) == 1).all()
    fit = fit_class_temperatures if by_class else fit_temperature
    return fit(np.concatenate(logits), np.concatenate(labels), possible=None if is_one else told)
