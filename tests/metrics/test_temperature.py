import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from medkd.metrics.calibration import CalibrationBins
from medkd.metrics.temperature import (
    apply_temperature,
    fit_class_temperatures,
    fit_drawn,
    fit_independent_temperature,
    fit_independent_temperatures,
    fit_temperature,
)
from medkd.types import UNLABELLED


def ece(probabilities, labels):
    seen = CalibrationBins()
    seen.update(probabilities, labels)
    return seen.ece


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
    assert ece(after.T, labels) < 0.3 * ece(before.T, labels)


def test_temperature_one_is_the_softmax_over_the_given_axis():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        apply_temperature(logits, 1.0, axis=0), special.softmax(logits, axis=0)
    )


@pytest.mark.parametrize("margin", [0.5, 3.0, 8.0, 60.0])
def test_logits_that_are_never_wrong_say_nothing_and_keep_temperature_1(margin):
    logits = margin * np.eye(3)[[0, 1, 2, 1]]
    assert fit_temperature(logits, np.array([0, 1, 2, 1])) == 1
    assert fit_class_temperatures(logits, np.array([0, 1, 2, 1])) == (1, 1, 1)


def test_the_temperatures_that_spoilt_the_classes_are_found():
    rng = np.random.default_rng(0)
    log_p = special.log_softmax(1.5 * rng.normal(size=(20000, 3)), axis=1)
    spoilt = np.array([0.5, 1.0, 2.0])
    q = special.softmax(log_p / spoilt, axis=1)
    labels = (rng.random((20000, 1)) > q.cumsum(axis=1)).sum(axis=1)
    assert fit_class_temperatures(log_p, labels) == pytest.approx(spoilt, rel=0.05)


def test_temperatures_of_classes_are_never_worse_than_one_of_all():
    logits, labels = drawn(cases=500)
    logits = logits * np.array([1, 2, 3, 0.5]) + 7  # a constant says nothing

    def nll(temperature):
        return log_loss(labels, apply_temperature(logits, temperature, axis=1), labels=range(4))

    one, by_class = fit_temperature(logits, labels), fit_class_temperatures(logits, labels)
    assert nll(by_class) < nll(one)
    for factor in np.exp(0.1 * np.random.default_rng(0).normal(size=(20, 4))):
        assert nll(by_class) <= nll(tuple(factor * by_class))


def test_equal_temperatures_of_classes_are_one_of_all():
    logits, _ = drawn(cases=10)
    np.testing.assert_allclose(
        apply_temperature(logits, (1.7,) * 4, axis=1),
        apply_temperature(logits, 1.7, axis=1),
        rtol=1e-5,
    )


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
    with pytest.raises(ValueError, match="2 for 3 classes"):
        apply_temperature(np.zeros((1, 3)), (1.0, 2.0), axis=1)


@pytest.mark.parametrize("fit", [fit_temperature, fit_class_temperatures])
def test_a_label_that_may_stand_for_several_classes_is_their_sum(fit):
    logits, labels = drawn()
    logits = 3 * logits
    possible = np.eye(4, dtype=bool)[labels]
    assert fit(logits, labels, possible=possible) == pytest.approx(fit(logits, labels), rel=1e-3)
    coarse = np.where(labels == 3, 0, labels)  # 0 may be 3 as well
    possible = np.eye(4, dtype=bool)[coarse]
    possible[coarse == 0, 3] = True
    np.testing.assert_allclose(fit(logits, coarse, possible=possible), 3.0, rtol=0.2)


def independent(*, seed=0, cases=20_000, classes=3):
    """Logits of classes that do not exclude each other, calibrated as they stand."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(cases, classes))
    return logits, (rng.random(logits.shape) < special.expit(logits)).astype(np.int64)


@pytest.mark.parametrize("sharpened", [0.3, 1.0, 4.0])
def test_the_temperature_of_independent_classes_is_found(sharpened):
    logits, labels = independent()
    found = fit_independent_temperature(logits * sharpened, labels)
    assert found == pytest.approx(sharpened, rel=0.05)


def test_each_independent_class_has_its_own_temperature():
    logits, labels = independent()
    spoilt = np.array([0.4, 1.0, 3.0])
    found = fit_independent_temperatures(logits * spoilt, labels)
    np.testing.assert_allclose(found, spoilt, rtol=0.06)


def test_what_nobody_knows_of_a_class_plays_no_part():
    logits, labels = independent(cases=3000)
    hidden = labels.copy()
    hidden[::2, 0] = UNLABELLED
    hidden[:, 2] = UNLABELLED
    found = fit_drawn(logits, hidden, by_class=True)
    each = [(logits[1::2, :1], labels[1::2, :1]), (logits[:, [1]], labels[:, [1]])]
    assert found == (*(fit_independent_temperature(*of_one) for of_one in each), 1.0)


def test_one_independent_class_is_calibrated_as_two_that_exclude_each_other():
    logits, labels = independent(classes=1)
    two = np.concatenate([0 * logits, 1.7 * logits], axis=1)
    expected = fit_temperature(two, labels[:, 0])
    assert fit_drawn(1.7 * logits, labels, by_class=False) == expected
    itself = np.eye(2, dtype=bool)[labels[:, 0]]
    assert fit_drawn(two, labels, by_class=False, possible=itself) == expected
