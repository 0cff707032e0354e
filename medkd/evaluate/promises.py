"""Promises: thresholds chosen on the validation split, and how they are kept on the test split.

A mask of all voxels whose probability passes the threshold finds, on average over images, at least
the promised share of a structure; a set of all classes that pass it holds the truth as often; and
of the images that have a finding as many pass the threshold at which it is not ruled out.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_questions
from medkd.data.labels import structure_masks, truth_of
from medkd.data.reading import label_of
from medkd.evaluate.answers import Answer, classified
from medkd.metrics.classification import by_class
from medkd.metrics.conformal import (
    THRESHOLDS,
    answer_sets,
    missed_shares,
    presence_threshold,
    risk_threshold,
    set_threshold,
)
from medkd.metrics.statistics import bootstrap_mean
from medkd.progress import progress
from medkd.results import Interval, Promise
from medkd.types import UNLABELLED, Case, Task

Classified = tuple[np.ndarray, np.ndarray]  # as ``classified`` gives it


def promises(
    answer: Answer, validation: Sequence[Case], test: Sequence[Case], config: Config, *, name: str
) -> tuple[Promise, ...]:
    """Make and check the promises of one role: one a structure or finding, or one for all classes.

    The latter is for the sets of classes.
    """
    shown = [progress(cases, f"promises {name}", total=len(cases)) for cases in (validation, test)]
    if config.task is Task.SEGMENTATION:
        known, found = (
            np.stack([_shares(answer, case, config) for case in cases]) for cases in shown
        )
        return tuple(_masks(known, found, test, config))
    of_classes = _findings if config.data.overlapping else _sets
    told, asked = (classified(answer, cases, config) for cases in shown)
    return tuple(of_classes(told, asked, test, config))


def _masks(
    known: np.ndarray, found: np.ndarray, test: Sequence[Case], config: Config
) -> Iterator[Promise]:
    for index, structure in enumerate(config.structures):
        calibrated_on = known[np.isfinite(known[:, index, 0, 0]), index, 0]
        threshold = risk_threshold(calibrated_on, risk=1 - config.evaluate.promised)
        place = int(np.searchsorted(THRESHOLDS, threshold))
        missed, size = found[:, index, :, place].T
        yield Promise(
            of=structure,
            promised=config.evaluate.promised,
            kept=_mean(1 - missed, test, config),
            price=_mean(size, test, config),
            threshold=threshold,
            calibrated_on=len(calibrated_on),
        )


def _shares(answer: Answer, case: Case, config: Config) -> np.ndarray:
    """Return ``[structures, 2, thresholds]``: share missed, and relative size, of the mask.

    NaN stands for the share of what a label does not cover, and for the size beside nothing.
    """
    label = truth_of(label_of(case, config), case, config)
    probabilities = answer(case).probabilities
    assert probabilities is not None
    rows = np.full((len(config.structures), 2, len(THRESHOLDS)), np.nan)
    said = probabilities[-len(config.structures) :]  # without the background
    judged = np.broadcast_to(label != UNLABELLED, said.shape)
    masks = list(structure_masks(label, config))
    for index in np.flatnonzero(covered_questions(case, config)):
        reference, p = masks[index], said[index]
        ordered = np.sort(p[judged[index]])
        passing = ordered.size - np.searchsorted(ordered, THRESHOLDS)
        rows[index, 0] = missed_shares(p, reference)
        if there := int(reference.sum()):
            rows[index, 1] = passing / there
    return rows


def _findings(
    known: Classified, asked: Classified, test: Sequence[Case], config: Config
) -> Iterator[Promise]:
    """Promise that those who have a finding keep it; the price is how many others do."""
    (said, labels), (p, truth) = known, asked
    at = partial(presence_threshold, coverage=config.evaluate.promised)
    for index, threshold in enumerate(by_class(at, said, labels)):
        passed = (p[:, index] >= threshold).astype(np.float64)
        kept, price = (np.where(truth[:, index] == value, passed, np.nan) for value in (1, 0))
        yield Promise(
            of=config.classes[index],
            promised=config.evaluate.promised,
            kept=_mean(kept, test, config),
            price=_mean(price, test, config),
            threshold=float(threshold),
            calibrated_on=int((labels[:, index] == 1).sum()),
        )


def _sets(
    known: Classified, asked: Classified, test: Sequence[Case], config: Config
) -> Iterator[Promise]:
    (said, labels), (p, truth) = known, asked
    threshold = set_threshold(said, labels[:, 0], coverage=config.evaluate.promised)
    sets = answer_sets(p, threshold=threshold)
    yield Promise(
        of=None,
        promised=config.evaluate.promised,
        kept=_mean(sets[np.arange(len(truth)), truth[:, 0]].astype(np.float64), test, config),
        price=_mean(sets.sum(axis=1).astype(np.float64), test, config),
        threshold=threshold,
        calibrated_on=len(labels),
    )


def _mean(values: np.ndarray, cases: Sequence[Case], config: Config) -> Interval:
    """Return the mean of the finite values, one a case."""
    kept = np.isfinite(values)
    options = {"draws": config.evaluate.bootstrap, "seed": config.study.seed}
    if not kept.any():
        return Interval(value=float("nan"), cases=0, patients=0)
    patients = [case.patient for case, is_kept in zip(cases, kept, strict=True) if is_kept]
    return bootstrap_mean(values[kept], patients, **options)
