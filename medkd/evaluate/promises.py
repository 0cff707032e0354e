"""Promises: thresholds chosen on the validation split, and how they are kept on the test split.

A mask of all voxels whose probability passes the threshold finds, on average over images, at least
the promised share of a structure; a set of all classes that pass it holds the truth as often.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medkd.config import Config
from medkd.data.labels import class_indices
from medkd.data.reading import label_of
from medkd.evaluate.answers import Answer
from medkd.metrics.conformal import (
    THRESHOLDS,
    answer_sets,
    missed_shares,
    risk_threshold,
    set_threshold,
)
from medkd.metrics.statistics import bootstrap_mean
from medkd.progress import progress
from medkd.results import Interval, Promise
from medkd.types import UNLABELLED, Case, Task


def promises(
    answer: Answer, validation: Sequence[Case], test: Sequence[Case], config: Config, *, name: str
) -> tuple[Promise, ...]:
    """Make and check the promises of one role: one a structure, or one for the sets of classes."""
    shown = [progress(cases, f"promises {name}", total=len(cases)) for cases in (validation, test)]
    if config.task is Task.SEGMENTATION:
        return tuple(_masks(answer, shown[0], test, shown[1], config))
    return (_sets(answer, shown[0], test, shown[1], config),)


def _masks(
    answer: Answer,
    validation: Iterable[Case],
    test: Sequence[Case],
    shown: Iterable[Case],
    config: Config,
) -> Iterator[Promise]:
    known = np.stack([_shares(answer, case, config) for case in validation])
    found = np.stack([_shares(answer, case, config) for case in shown])
    for index, structure in enumerate(config.classes[1:]):
        threshold = risk_threshold(known[:, index, 0], risk=1 - config.evaluate.promised)
        place = int(np.searchsorted(THRESHOLDS, threshold))
        missed, size = found[:, index, :, place].T
        yield Promise(
            of=structure,
            promised=config.evaluate.promised,
            kept=_mean(1 - missed, test, config),
            price=_mean(
                size, [c for c, s in zip(test, size, strict=True) if np.isfinite(s)], config
            ),
            threshold=threshold,
            calibrated_on=len(known),
        )


def _shares(answer: Answer, case: Case, config: Config) -> np.ndarray:
    """Return ``[structures, 2, thresholds]``: share missed, and relative size, of the mask."""
    label = class_indices(label_of(case, config).array[0], config)
    probabilities = answer(case).probabilities
    assert probabilities is not None
    rows = []
    judged = label != UNLABELLED
    for index in range(1, len(config.classes)):
        reference = label == index
        ordered = np.sort(probabilities[index][judged])
        passing = ordered.size - np.searchsorted(ordered, THRESHOLDS)
        there = int(reference.sum())
        size = passing / there if there else np.full(len(THRESHOLDS), np.nan)
        rows.append([missed_shares(probabilities[index], reference), size])
    return np.array(rows)


def _sets(
    answer: Answer,
    validation: Iterable[Case],
    test: Sequence[Case],
    shown: Iterable[Case],
    config: Config,
) -> Promise:
    known, labels = _classified(answer, validation)
    threshold = set_threshold(known, labels, coverage=config.evaluate.promised)
    probabilities, truth = _classified(answer, shown)
    sets = answer_sets(probabilities, threshold=threshold)
    return Promise(
        of=None,
        promised=config.evaluate.promised,
        kept=_mean(sets[np.arange(len(truth)), truth].astype(np.float64), test, config),
        price=_mean(sets.sum(axis=1).astype(np.float64), test, config),
        threshold=threshold,
        calibrated_on=len(labels),
    )


def _classified(answer: Answer, cases: Iterable[Case]) -> tuple[np.ndarray, np.ndarray]:
    said = [(answer(case).probabilities, case.label) for case in cases]
    return np.stack([p for p, _ in said if p is not None]), np.array([label for _, label in said])


def _mean(values: np.ndarray, cases: Sequence[Case], config: Config) -> Interval:
    finite = values[np.isfinite(values)]
    options = {"draws": config.evaluate.bootstrap, "seed": config.study.seed}
    if not len(finite):
        return Interval(value=float("nan"), cases=0, patients=0)
    return bootstrap_mean(finite, [case.patient for case in cases], **options)
