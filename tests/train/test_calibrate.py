from dataclasses import replace

import numpy as np
import pytest

from medkd.data.samples import load_samples
from medkd.train.calibrate import fit_on_cases
from medkd.types import UNLABELLED


@pytest.fixture
def drawn(make_study):
    """Config, samples, and log-probabilities that are twice as sure as they should be."""
    study, cohort = make_study(dims=2)
    rng = np.random.default_rng(0)
    samples, answers = [], []
    for sample in load_samples(cohort.of(cohort.split.train), study.config):
        logits = rng.normal(size=(3, 60, 60))
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        label = (rng.random((60, 60)) > p.cumsum(axis=0)).sum(axis=0)
        samples.append(replace(sample, label=label[None]))
        answers.append(2 * np.log(p))
    return study.config, samples, answers


def test_overconfidence_is_undone(drawn):
    config, samples, answers = drawn
    assert fit_on_cases(answers, samples, config) == pytest.approx(2, rel=0.05)


def test_the_same_voxels_are_drawn_again(drawn):
    config, samples, answers = drawn
    assert fit_on_cases(answers, samples, config) == fit_on_cases(iter(answers), samples, config)


def test_a_certainty_of_one_is_no_infinity(drawn):
    config, samples, answers = drawn
    sure = [np.where(a == a.max(axis=0), 0.0, -np.inf) for a in answers]
    assert np.isfinite(fit_on_cases(sure, samples, config))


@pytest.mark.parametrize("by_class", [False, True])
def test_structures_that_overlap_are_calibrated_by_their_own_odds(make_study, by_class):
    study, cohort = make_study(dims=2, overlapping=True)
    rng = np.random.default_rng(0)
    spoilt = np.array([2.0, 0.5] if by_class else [2.0, 2.0]).reshape(2, 1, 1)
    samples, answers = [], []
    for sample in load_samples(cohort.of(cohort.split.train), study.config):
        logits = 2 * rng.normal(size=(2, 80, 80))
        label = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        label[1, :20] = UNLABELLED
        samples.append(replace(sample, label=label))
        answers.append(spoilt * logits)
    found = fit_on_cases(answers, samples, study.config, by_class=by_class)
    assert np.atleast_1d(found) == pytest.approx(spoilt.ravel()[: 1 + by_class], rel=0.07)
