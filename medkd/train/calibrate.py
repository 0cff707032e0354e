"""Calibrate: the temperature of a network or teacher, fitted on the validation split."""

from collections.abc import Iterable, Sequence

import numpy as np

from medkd.config import Config
from medkd.data.annotated import possible_of
from medkd.data.samples import Sample
from medkd.metrics.temperature import fit_drawn
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED, Temperature

VOXELS = 200_000  # drawn over all cases


def fit_on_cases(
    said: Iterable[np.ndarray],
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
        said: log-probabilities ``[classes, *space]`` of each sample, or ``[classes]``; logits of
            structures that may overlap.
        samples: the validation cases.
        config: for the seed.
        by_class: whether each class has its own.
    """
    rng = np.random.default_rng(derive_seed(config.study.seed, "calibration"))
    per_case = max(1, VOXELS // len(samples))
    logits, labels, of_case = [], [], []
    for answer, sample in zip(said, samples, strict=True):
        flat = answer.reshape(answer.shape[0], -1).T
        truth = sample.label.reshape(sample.label.shape[0], -1).T  # a question a column
        drawn = rng.permutation(np.flatnonzero((truth != UNLABELLED).any(axis=1)))[:per_case]
        logits.append(flat[drawn])
        labels.append(truth[drawn].astype(np.int64))
        of_case.append((labels[-1], sample.case))
    return fit_drawn(
        np.concatenate(logits),
        np.concatenate(labels),
        by_class=by_class,
        possible=possible_of(of_case, config),
    )
