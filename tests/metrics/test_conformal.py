import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin

from medkd.metrics.conformal import (
    THRESHOLDS,
    answer_sets,
    missed_shares,
    presence_threshold,
    risk_threshold,
    set_threshold,
)


def cases(number, *, seed, classes=4):
    """Return miscalibrated probabilities and labels of cases that all come from one source."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    logits = rng.normal(size=(number, classes)) + 1.5 * np.eye(classes)[labels]
    return special.softmax(3 * logits, axis=1), labels


class Said(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its answers."""

    def __init__(self, classes=4):
        self.classes = classes

    def fit(self, rows, y):
        self.classes_ = np.arange(self.classes)
        return self

    def predict_proba(self, rows):
        return rows

    def predict(self, rows):
        return rows.argmax(axis=1)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_are_mapies(coverage):
    known, labels = cases(200, seed=0)
    new, _ = cases(300, seed=1)
    mapie = SplitConformalClassifier(
        Said().fit(known, labels), confidence_level=coverage, conformity_score="lac", prefit=True
    )
    mapie.conformalize(known, labels)
    _, expected = mapie.predict_set(new)
    threshold = set_threshold(known, labels, coverage=coverage)
    np.testing.assert_array_equal(new >= threshold, expected[:, :, 0])


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("number", [25, 60])
def test_the_truth_is_covered_as_often_as_promised(coverage, number):
    """Over many draws of calibration and new cases: at least, and not much more than, promised."""
    covered = []
    for seed in range(400):
        known, labels = cases(number, seed=seed)
        new, truth = cases(50, seed=10_000 + seed)
        threshold = set_threshold(known, labels, coverage=coverage)
        covered.append((new[np.arange(50), truth] >= threshold).mean())
    assert coverage - 0.01 < np.mean(covered) < coverage + 1 / (number + 1) + 0.01


def test_too_few_cases_promise_nothing_and_every_answer_is_possible():
    known, labels = cases(8, seed=0)
    assert set_threshold(known, labels, coverage=0.9) == 0
    assert answer_sets(known, threshold=0.0).all()
    assert set_threshold(*cases(9, seed=0), coverage=0.9) > 0


def test_no_set_is_empty():
    known, _ = cases(50, seed=0)
    sets = answer_sets(known, threshold=1.0)
    np.testing.assert_array_equal(sets.sum(axis=1), 1)
    np.testing.assert_array_equal(sets.argmax(axis=1), known.argmax(axis=1))


def image(*, seed, blob):
    """Return a mask and a probability that falls off round it, more or less sure."""
    rng = np.random.default_rng(seed)
    mask = blob((12, 12, 12), seed=seed)
    sure = rng.uniform(0.5, 3)
    return special.expit(sure * (4 * mask - 2) + rng.normal(size=mask.shape)), mask


def test_the_missed_share_is_the_false_negative_rate_of_the_mask(blob):
    probability, mask = image(seed=0, blob=blob)
    shares = missed_shares(probability, mask)
    for index in (0, 250, 500, 999):
        answer = probability >= THRESHOLDS[index]
        assert shares[index] == pytest.approx(1 - answer[mask].mean())
    assert (np.diff(shares) >= 0).all()
    assert not missed_shares(probability, np.zeros_like(mask)).any()


@pytest.mark.parametrize("risk", [0.1, 0.2])
def test_new_images_miss_no_more_than_promised(blob, risk):
    shares = np.stack([missed_shares(*image(seed=seed, blob=blob)) for seed in range(300)])
    rng, missed = np.random.default_rng(0), []
    for _ in range(300):
        order = rng.permutation(len(shares))
        threshold = risk_threshold(shares[order[:30]], risk=risk)
        missed.append(shares[order[30:], np.searchsorted(THRESHOLDS, threshold)].mean())
    assert risk - 1.5 / 31 < np.mean(missed) <= risk + 0.003


def test_too_few_images_promise_nothing_and_the_mask_holds_everything(blob):
    shares = np.stack([missed_shares(*image(seed=seed, blob=blob)) for seed in range(8)])
    assert risk_threshold(shares, risk=0.1) == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_promise_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="coverage must lie"):
        set_threshold(*cases(20, seed=0), coverage=share)
    with pytest.raises(ValueError, match="risk must lie"):
        risk_threshold(np.zeros((3, len(THRESHOLDS))), risk=share)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(blob):
    known, labels = cases(20, seed=0)
    with pytest.raises(ValueError, match="one label per row"):
        set_threshold(known, labels[:-1], coverage=0.9)
    with pytest.raises(ValueError, match="there are none"):
        risk_threshold(np.zeros((0, len(THRESHOLDS))), risk=0.1)
    with pytest.raises(ValueError, match="shapes differ"):
        missed_shares(np.zeros((3, 3)), np.zeros((3, 4), bool))


def test_those_who_have_a_finding_keep_it_as_often_as_promised():
    rng = np.random.default_rng(0)

    def drawn(cases):
        positive = rng.random(cases) < 0.2
        return np.where(positive, rng.beta(3, 2, cases), rng.beta(1, 6, cases)), positive

    kept = []
    for _ in range(200):
        threshold = presence_threshold(*drawn(200), coverage=0.9)
        scores, positive = drawn(2000)
        kept.append((scores[positive] >= threshold).mean())
    assert 0.9 - 0.005 <= np.mean(kept) <= 0.9 + 1 / 40


def test_too_few_with_a_finding_promise_nothing():
    scores, positive = np.linspace(0.1, 0.9, 20), np.arange(20) >= 12
    assert presence_threshold(scores, positive, coverage=0.9) == 0
    assert presence_threshold(scores, positive, coverage=0.8) == scores[12]
    assert presence_threshold(scores, np.zeros(20, bool), coverage=0.8) == 0
