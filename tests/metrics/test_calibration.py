import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from medkd.metrics.calibration import (
    CalibrationBins,
    apply_temperature,
    boundary_band,
    fit_temperature,
)

SCORES = ("ece", "mce", "brier", "nll")


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
    assert merged.voxels == pooled[1].size


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


@pytest.mark.parametrize("name", SCORES)
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


def drawn(*, seed=0, cases=4000, classes=4):
    """Logits and labels that are calibrated as they stand."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(cases, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(1)


@pytest.mark.parametrize("sharpened", [0.3, 1.0, 4.0])
def test_the_temperature_that_spoilt_the_logits_is_found(sharpened):
    logits, labels = drawn()
    assert fit_temperature(logits * sharpened, labels) == pytest.approx(sharpened, rel=0.05)


def test_no_other_temperature_has_a_lower_nll():
    logits, labels = drawn(cases=300)
    logits *= 2.5
    best = fit_temperature(logits, labels)

    def nll(temperature):
        return log_loss(labels, apply_temperature(logits, temperature, axis=1), labels=range(4))

    assert all(nll(best) <= nll(best * factor) for factor in (0.2, 0.9, 0.99, 1.01, 1.1, 5.0))


def test_calibrated_logits_have_a_lower_ece_and_the_same_classes():
    logits, labels = drawn()
    logits *= 4
    before = apply_temperature(logits, 1.0, axis=1)
    after = apply_temperature(logits, fit_temperature(logits, labels), axis=1)
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
    assert counted((after.T, labels)).ece < 0.3 * counted((before.T, labels)).ece


def test_temperature_one_is_the_softmax_over_the_given_axis():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        apply_temperature(logits, 1.0, axis=0), special.softmax(logits, axis=0)
    )


@pytest.mark.parametrize("margin", [0.5, 3.0, 8.0, 60.0])
def test_logits_that_are_never_wrong_say_nothing_and_keep_temperature_1(margin):
    logits = margin * np.eye(3)[[0, 1, 2, 1]]
    assert fit_temperature(logits, np.array([0, 1, 2, 1])) == 1


@pytest.mark.usefixtures("unchecked")
def test_temperatures_and_logits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 3\), labels \(1,\)"):
        fit_temperature(np.zeros((2, 3)), np.array([0]))
    with pytest.raises(ValueError, match=r"logits \(0, 3\)"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(ValueError, match="got 3 to 3"):
        fit_temperature(np.zeros((1, 3)), np.array([3]))
    with pytest.raises(ValueError, match="got -1"):
        apply_temperature(np.zeros((1, 3)), -1.0, axis=1)


def test_the_band_equals_the_distances_of_all_pairs(blob):
    labels = blob((7, 8, 6), seed=3).astype(np.uint8)
    spacing = np.array([1.0, 1.5, 4.0])
    foreground = np.argwhere(labels) * spacing
    voxels = np.argwhere(np.ones_like(labels)) * spacing
    nearest = np.linalg.norm(voxels[:, None] - foreground[None], axis=-1).min(1)
    band = boundary_band(labels, spacing_mm=tuple(spacing), width_mm=3.1)
    np.testing.assert_array_equal(band.ravel(), nearest <= 3.1)
    assert 0 < band.mean() < 1


def test_the_band_without_foreground_is_empty():
    assert not boundary_band(np.zeros((4, 4), int), spacing_mm=(1.0, 1.0), width_mm=2.0).any()


@pytest.mark.parametrize(("spacing", "width"), [((1.0, 1.0), 0.0), ((1.0,), 2.0)])
def test_a_band_of_no_width_or_no_spacing_is_refused(spacing, width):
    with pytest.raises(ValueError, match=f"got width_mm {width}"):
        boundary_band(np.zeros((4, 4), int), spacing_mm=spacing, width_mm=width)
