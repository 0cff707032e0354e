import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from medkd.metrics.calibration import (
    CalibrationBins,
    PooledCalibration,
    count_calibration,
    ece_of,
)
from medkd.types import UNLABELLED, Activation

SCORES = ("ece", "mce", "brier", "nll")
FURTHER = ("adaptive_ece", "class_ece", "static_ece")


def case(*, seed, classes=3, space=(6, 5, 4), sharpness=2.0):
    rng = np.random.default_rng(seed)
    probabilities = special.softmax(sharpness * rng.normal(size=(classes, *space)), axis=0)
    return probabilities, rng.integers(0, classes, space)


def counted(*cases, bins=15):
    seen = CalibrationBins(bins=bins)
    for one in cases:
        seen.update(*one)
    return seen


def scores(seen):
    return [getattr(seen, name) for name in SCORES]


def textbook(probabilities, labels, *, bins):
    """Guo et al. 2017, Brier 1950, one bin at a time."""
    p, y = probabilities.reshape(len(probabilities), -1).T, labels.ravel()
    confidence, right = p.max(1), p.argmax(1) == y
    gaps, shares = [], []
    for number in range(bins):
        inside = (confidence >= number / bins) & (
            (confidence < (number + 1) / bins) | (number == bins - 1)
        )
        if inside.any():
            gaps.append(abs(right[inside].mean() - confidence[inside].mean()))
            shares.append(inside.mean())
    truth = np.eye(p.shape[1])[y]
    brier = np.mean(((p - truth) ** 2).sum(1))
    nll = -np.mean((truth * np.log(p)).sum(1))
    return [np.dot(gaps, shares), max(gaps), brier, nll]


@pytest.mark.parametrize("space", [(200,), (9, 8), (6, 5, 4)])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_the_textbook(space, bins):
    one = case(seed=0, space=space)
    assert scores(counted(one, bins=bins)) == pytest.approx(textbook(*one, bins=bins))


def test_two_classes_equal_scikit_learn():
    rng = np.random.default_rng(0)
    positive = rng.uniform(0.5, 1, 500)  # class 1 is always the likelier: its score is confidence
    labels = rng.integers(0, 2, 500)
    seen = counted((np.stack([1 - positive, positive]), labels), bins=10)
    accuracy, confidence = calibration_curve(labels, positive, n_bins=10)
    curve = seen.curve()
    np.testing.assert_allclose(curve.accuracy, accuracy)
    np.testing.assert_allclose(curve.confidence, confidence)
    assert curve.count.sum() == seen.voxels == 500
    assert seen.brier == pytest.approx(2 * brier_score_loss(labels, positive))
    assert seen.nll == pytest.approx(log_loss(labels, positive))


@pytest.mark.parametrize("bins", [5, 15])
def test_bins_of_equal_count_are_those_of_the_sorted_confidences(bins):
    rng = np.random.default_rng(0)
    confidence = (0.5 + 0.5 * (np.arange(150) + 0.5) / 150)[rng.permutation(150)]
    labels = (rng.random(150) < 0.7).astype(int)
    p = np.stack([1 - confidence, confidence])
    order = np.argsort(confidence)
    gaps = [
        abs(labels[part].mean() - confidence[part].mean()) for part in np.array_split(order, bins)
    ]
    assert counted((p, labels), bins=bins).adaptive_ece == pytest.approx(np.mean(gaps))


def test_bins_of_equal_count_see_what_the_fullest_equal_bin_hides():
    confidence = np.concatenate([np.full(900, 0.999), np.full(100, 0.97)])
    labels = np.concatenate([np.ones(900, int), np.arange(100) % 10 > 4])  # half of them wrong
    seen = counted((np.stack([1 - confidence, confidence]), labels), bins=10)
    assert seen.ece == pytest.approx(abs(0.95 - confidence.mean()))
    assert seen.adaptive_ece == pytest.approx(0.9 * 0.001 + 0.1 * 0.47)


def test_each_class_against_the_others_equals_scikit_learn():
    p, labels = case(seed=0, classes=4, space=(500,))
    seen = counted((p, labels), bins=10)
    for index, found in enumerate(seen.class_ece):
        right, said = calibration_curve(labels == index, p[index], n_bins=10)
        counts = np.histogram(p[index], bins=10, range=(0, 1))[0]
        share = counts[counts > 0] / len(labels)
        assert found == pytest.approx(np.abs(right - said) @ share)


def test_confidence_one_falls_in_the_last_bin():
    # the example of torchmetrics#3510, whose phantom bin gives 0.525
    positive, labels = np.array([0.95, 1.0]), np.array([0, 1])
    seen = counted((np.stack([1 - positive, positive]), labels), bins=10)
    assert seen.ece == pytest.approx(0.475)
    assert seen.curve().count.tolist() == [2]


def test_perfect_calibration_scores_nothing():
    positive = np.repeat([0.6, 0.9], 100)
    labels = np.concatenate([np.arange(100) < 60, np.arange(100) < 90]).astype(int)
    seen = counted((np.stack([1 - positive, positive]), labels))
    assert [seen.ece, seen.mce] == pytest.approx([0, 0], abs=1e-12)


def test_a_saturated_mistake_costs_a_finite_nll():
    seen = counted((np.array([[1.0], [0.0]]), np.array([1])))
    assert seen.nll == pytest.approx(15.94, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_short_floats_lose_little(dtype):
    probabilities, labels = case(seed=0, space=(40, 40, 10))
    exact, short = counted((probabilities, labels)), counted((probabilities.astype(dtype), labels))
    assert [short.ece, short.brier, short.nll] == pytest.approx(
        [exact.ece, exact.brier, exact.nll], abs=1e-3
    )


@given(st.permutations(range(4)), st.integers(1, 3))
def test_streaming_and_adding_in_any_order_are_pooling(order, cut):
    cases = [case(seed=seed) for seed in range(4)]
    streamed = [cases[number] for number in order]
    merged = counted(*streamed[:cut]) + counted(*streamed[cut:])
    pooled = tuple(np.concatenate(parts, axis=-1) for parts in zip(*cases, strict=True))
    assert scores(merged) == pytest.approx(scores(counted(pooled)))
    for name in FURTHER:
        assert getattr(merged, name) == pytest.approx(getattr(counted(pooled), name))
    assert merged.voxels == pooled[1].size


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_a_choice_of_cases_is_what_counting_them_together_gives(indices):
    cases = [case(seed=seed, space=(5 + seed,)) for seed in range(4)]
    pooled = PooledCalibration([counted(one) for one in cases]).of(np.array(indices))
    expected = counted(*(cases[index] for index in indices))
    assert pooled.voxels == expected.voxels
    for name in SCORES + FURTHER:
        assert getattr(pooled, name) == pytest.approx(getattr(expected, name))


def test_adding_leaves_the_parts_alone():
    one, other = counted(case(seed=0)), counted(case(seed=1))
    before = scores(one)
    total = one + other
    total.update(*case(seed=2))
    assert scores(one) == before


def test_a_mask_counts_its_voxels_only():
    probabilities, labels = case(seed=0)
    mask = labels > 0
    masked = CalibrationBins()
    masked.update(probabilities, labels, mask)
    assert scores(masked) == pytest.approx(scores(counted((probabilities[:, mask], labels[mask]))))
    empty = CalibrationBins()
    empty.update(probabilities, labels, np.zeros_like(mask))
    assert empty.voxels == 0


@pytest.mark.parametrize("name", SCORES + FURTHER)
def test_nothing_seen_is_refused(name):
    with pytest.raises(ValueError, match="nothing was counted"):
        getattr(CalibrationBins(), name)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((2, 4), 0.5), np.zeros(3, int), r"probabilities \(2, 4\), labels \(3,\)"),
        (np.full((2, 3), 0.5), np.full(3, 2), r"\[0, 1\], got 2 to 2"),
        (np.full((2, 3), 3.0), np.zeros(3, int), r"these lie in \[3, 3\]"),
        (np.full((2, 3), 0.2), np.zeros(3, int), r"sum to \[0.4, 0.4\]"),
        (np.full((2, 3), np.nan), np.zeros(3, int), "nan"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_probability_or_no_label_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        CalibrationBins().update(probabilities, labels)


def test_bins_that_cannot_be_added_are_refused():
    with pytest.raises(ValueError, match="cannot add 10 bins to 15"):
        CalibrationBins() + CalibrationBins(bins=10)
    with pytest.raises(ValueError, match="got 0"):
        CalibrationBins(bins=0)


def test_a_class_is_judged_by_the_cases_that_tell_it():
    p = np.array([[0.7, 0.2], [0.1, 0.7], [0.2, 0.1]])
    whole, part = CalibrationBins(), CalibrationBins()
    whole.update(p, np.array([0, 1]))
    part.update(
        np.stack([p[0] + p[2], p[1], 0 * p[2]]), np.array([0, 1]), told=np.array([1, 1, 0], bool)
    )
    assert part.class_ece[:2] == pytest.approx([(0.1 + 0.3) / 2, (0.1 + 0.3) / 2])
    assert np.isnan(part.class_ece[2])
    assert part.static_ece == pytest.approx(0.2)
    pooled = whole + part
    assert pooled.class_ece[2] == pytest.approx(whole.class_ece[2])
    assert PooledCalibration([whole, part]).of(np.array([0, 1])).static_ece == pooled.static_ece


class TestIndependent:
    """Classes that do not exclude each other."""

    def drawn(self, *, classes=3, seed=0):
        rng = np.random.default_rng(seed)
        p = rng.random((classes, 20, 30))
        return p, (rng.random(p.shape) < p**1.5).astype(int)

    def test_one_is_as_two_that_exclude_each_other(self):
        p, labels = self.drawn(classes=1)
        alone, pair = CalibrationBins(), CalibrationBins()
        alone.update_independent(p, labels)
        pair.update(np.concatenate([1 - p, p]), labels[0])
        np.testing.assert_allclose(scores(alone), scores(pair))
        assert alone.adaptive_ece == pytest.approx(pair.adaptive_ece)
        assert alone.class_ece[0] == pytest.approx(pair.class_ece[1])

    def test_several_are_pooled_and_the_static_error_is_their_mean(self):
        p, labels = self.drawn()
        together = CalibrationBins()
        together.update_independent(p, labels)
        each = [CalibrationBins() for _ in p]
        for seen, one, truth in zip(each, p, labels, strict=True):
            seen.update(np.stack([1 - one, one]), truth)
        pooled = each[0] + each[1] + each[2]
        np.testing.assert_allclose(scores(together), scores(pooled))
        assert together.voxels == p.size
        np.testing.assert_allclose(together.class_ece, [seen.class_ece[1] for seen in each])
        assert together.static_ece == pytest.approx(np.mean(together.class_ece))

    def test_what_nobody_has_judged_is_not_counted(self):
        p, labels = self.drawn()
        hidden = labels.copy()
        hidden[0, :5], hidden[2] = UNLABELLED, UNLABELLED
        near = np.zeros(p.shape[1:], bool)
        near[3:12] = True
        seen, expected = CalibrationBins(), CalibrationBins()
        count_calibration(seen, p, hidden, Activation.SIGMOID, near)
        mask = (hidden != UNLABELLED) & near
        expected.update_independent(p, labels, mask)
        assert seen.voxels == mask.sum()
        np.testing.assert_allclose(scores(seen), scores(expected))
        np.testing.assert_allclose(seen.class_ece, expected.class_ece)
        assert np.isnan(seen.class_ece[2])

    def test_what_is_no_answer_or_no_probability_is_refused(self):
        p, labels = self.drawn()
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\]"):
            CalibrationBins().update_independent(p, labels + 1)
        with pytest.raises(ValueError, match="probabilities lie in"):
            CalibrationBins().update_independent(p + 1, labels)


def test_exclusive_classes_are_counted_where_they_are_judged():
    p, labels = case(seed=0)
    hidden = labels.copy()
    hidden[0] = UNLABELLED
    seen, expected = CalibrationBins(), CalibrationBins()
    count_calibration(seen, p, hidden, Activation.SOFTMAX)
    expected.update(p[:, 1:], labels[1:])
    assert scores(seen) == scores(expected)


def test_the_error_of_one_probability_is_that_of_its_class():
    rng = np.random.default_rng(0)
    p = rng.random((3, 200))
    labels = (rng.random((3, 200)) < p**2).astype(np.uint8)
    bins = CalibrationBins()
    bins.update_independent(p, labels)
    found = [ece_of(own, truth == 1) for own, truth in zip(p, labels, strict=True)]
    np.testing.assert_allclose(found, bins.class_ece)
    assert np.isnan(ece_of(p[0, :0], labels[0, :0] == 1))
