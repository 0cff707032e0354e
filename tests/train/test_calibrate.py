from dataclasses import replace

import numpy as np
import pytest

from medkd.data.samples import load_samples
from medkd.train.calibrate import fit_on_cases


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
