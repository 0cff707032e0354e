import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sklearn

from medkd.metrics.classification import (
    Ranking,
    auroc,
    auroc_of,
    average_precision,
    balanced_accuracy,
    by_class,
    confusion_matrix,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from medkd.types import UNLABELLED


def cases(classes, *, seed=0, n=120):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[labels]
    return special.softmax(logits, axis=1), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_classes_equal_scikit_learn(dtype):
    probabilities, labels = cases(2)
    probabilities = probabilities.astype(dtype)
    score = probabilities[:, 1]
    assert auroc(probabilities, labels) == pytest.approx(sklearn.roc_auc_score(labels, score))
    assert average_precision(probabilities, labels) == pytest.approx(
        sklearn.average_precision_score(labels, score)
    )


@pytest.mark.parametrize("classes", [3, 5])
def test_more_classes_equal_scikit_learn(classes):
    probabilities, labels = cases(classes)
    assert auroc(probabilities, labels) == pytest.approx(
        sklearn.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert average_precision(probabilities, labels) == pytest.approx(
        sklearn.average_precision_score(np.eye(classes)[labels], probabilities, average="macro")
    )


def test_scores_that_are_nearly_equal_are_told_apart():
    score = 1 - np.array([1e-12, 2e-12, 3e-12, 4e-12])
    probabilities = np.stack([1 - score, score], axis=1)
    assert auroc(probabilities, np.array([1, 1, 0, 0])) == 1.0


@pytest.mark.parametrize("classes", [2, 4])
def test_decisions_equal_scikit_learn(classes):
    probabilities, labels = cases(classes)
    predictions = probabilities.argmax(1)
    np.testing.assert_array_equal(
        confusion_matrix(predictions, labels, classes=classes),
        sklearn.confusion_matrix(labels, predictions),
    )
    assert balanced_accuracy(predictions, labels, classes=classes) == pytest.approx(
        sklearn.balanced_accuracy_score(labels, predictions)
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_without_a_case_of_one_class_are_undefined(classes):
    probabilities, labels = cases(classes)
    labels[labels == 1] = 0
    assert math.isnan(auroc(probabilities, labels))
    assert math.isnan(average_precision(probabilities, labels))
    assert math.isnan(balanced_accuracy(labels, labels, classes=classes))
    assert confusion_matrix(labels, labels, classes=classes)[1].sum() == 0


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.sampled_from([np.float32, np.float64]))
def test_the_threshold_keeps_the_specificity_and_could_not_be_lower(seed, target, dtype):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 12, 40) / 11).astype(dtype)  # with ties
    positive = np.arange(40) < 15
    threshold = threshold_at_specificity(scores, positive, specificity=target)
    assert specificity(scores, positive, threshold=threshold) >= target - 1e-12
    lower = scores[scores < threshold].max()
    assert specificity(scores, positive, threshold=float(lower)) < target


def test_the_threshold_means_the_same_in_single_and_double_precision():
    scores = np.random.default_rng(0).uniform(size=200)
    positive = np.arange(200) < 80
    threshold = threshold_at_specificity(scores.astype(np.float32), positive)
    assert float(np.float32(threshold)) == threshold


def test_19_of_20_negatives_are_95_percent():
    scores = np.linspace(0, 1, 21)
    positive = np.arange(21) == 20
    threshold = threshold_at_specificity(scores, positive)
    assert specificity(scores, positive, threshold=threshold) == 0.95


def test_sensitivity_and_specificity_equal_the_rates_of_scikit_learn():
    probabilities, labels = cases(2)
    scores, positive = probabilities[:, 1], labels == 1
    for threshold in (0.2, 0.5, 0.9):
        called = scores >= threshold
        assert sensitivity(scores, positive, threshold=threshold) == pytest.approx(
            sklearn.recall_score(positive, called)
        )
        assert specificity(scores, positive, threshold=threshold) == pytest.approx(
            sklearn.recall_score(~positive, ~called)
        )


def test_rates_without_a_case_are_undefined():
    scores = np.array([0.2, 0.8])
    assert math.isnan(sensitivity(scores, np.zeros(2, bool), threshold=0.5))
    assert math.isnan(specificity(scores, np.ones(2, bool), threshold=0.5))


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((3, 2), 0.5), np.array([0, 1]), r"\(3, 2\) and labels \(2,\)"),
        (np.full((2, 2), 7.0), np.array([0, 1]), "got 7 to 7"),
        (np.full((2, 2), np.nan), np.array([0, 1]), "got nan to nan"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "classes are 0 to 1, got 0 to 2"),
        (np.full((2, 1), 0.5), np.array([0, 0]), "got probabilities of 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_scored_is_refused(metric, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, labels)


@pytest.mark.usefixtures("unchecked")
def test_decisions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"predictions \(2,\), labels \(3,\)"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), classes=2)
    with pytest.raises(ValueError, match="got 2 to 2"):
        confusion_matrix(np.full(2, 2), np.zeros(2, int), classes=2)


@pytest.mark.usefixtures("unchecked")
def test_thresholds_without_negatives_or_sense_are_refused():
    scores = np.array([0.2, 0.8])
    with pytest.raises(ValueError, match="0 negatives"):
        threshold_at_specificity(scores, np.ones(2, bool))
    with pytest.raises(ValueError, match=r"specificity 1\.5"):
        threshold_at_specificity(scores, np.zeros(2, bool), specificity=1.5)
    with pytest.raises(ValueError, match=r"int64 \(2,\)"):
        sensitivity(scores, np.array([0, 1]), threshold=0.5)
    with pytest.raises(ValueError, match="1 not finite"):
        specificity(np.array([0.2, np.nan]), np.zeros(2, bool), threshold=0.5)


class TestFindings:
    """Each finding is a question of its own, and may be judged in some cases alone."""

    @given(st.integers(0, 10_000), st.sampled_from([1, 2, 8]))
    def test_figures_equal_scikit_learn_ties_and_all(self, seed, decimals):
        rng = np.random.default_rng(seed)
        scores, labels = rng.random(40).round(decimals), rng.choice([0, 1, UNLABELLED], 40)
        labels[:2] = [1, 0]
        drawn = np.append(rng.integers(0, 40, 38), [0, 1])
        judged = drawn[labels[drawn] != UNLABELLED]
        found, truth = Ranking(scores, labels), labels[judged]
        expected = sklearn.roc_auc_score(truth, scores[judged])
        assert found.auroc(drawn) == pytest.approx(expected)
        expected = sklearn.average_precision_score(truth, scores[judged])
        assert found.average_precision(drawn) == pytest.approx(expected)

    @pytest.mark.parametrize("label", [1, 0])
    def test_a_finding_that_all_have_or_none_has_no_auroc(self, label):
        found = Ranking(np.array([0.2, 0.5]), np.full(2, label))
        assert math.isnan(found.auroc(np.arange(2)))
        assert math.isnan(found.average_precision(np.arange(2))) is not bool(label)
        assert math.isnan(found.average_precision(np.arange(0)))

    def test_each_is_measured_where_it_was_judged(self):
        p = np.array([[0.1, 0.9], [0.9, 0.2], [0.2, 0.9]])
        labels = np.array([[0, UNLABELLED], [1, 0], [UNLABELLED, 1]], np.uint8)
        assert by_class(auroc_of, p, labels).tolist() == [1.0, 1.0]
        assert by_class(lambda s, _: len(s), p, labels).tolist() == [2, 2]

    def test_scores_that_are_no_numbers_are_refused(self):
        with pytest.raises(ValueError, match="finite scores"):
            auroc_of(np.array([np.nan, 0.5]), np.array([True, False]))
