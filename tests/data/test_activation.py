import numpy as np
import pytest
from scipy import special

from medkd.data.activation import (
    argmax,
    decided,
    logits_of,
    probabilities,
    sigmoid,
    softmax,
    tempered,
)
from medkd.metrics.temperature import apply_temperature
from medkd.types import Activation

BOTH = list(Activation)


def logits(*shape, size=4.0):
    return np.random.default_rng(0).normal(0, size, shape).astype(np.float32)


@pytest.mark.parametrize("temperature", [2.5, (0.5, 1.5, 3.0)])
def test_the_device_calibrates_as_was_fitted(temperature):
    given = logits(3, 5, 6)
    expected = apply_temperature(given, temperature, axis=0)
    actual = softmax(tempered(given, temperature, Activation.SOFTMAX))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [2.5, (0.5, 1.5, 3.0)])
def test_structures_that_overlap_are_calibrated_each_by_itself(temperature):
    given = logits(3, 5, 6)
    expected = special.expit(given / np.broadcast_to(temperature, 3).reshape(3, 1, 1))
    actual = probabilities(tempered(given, temperature, Activation.SIGMOID), Activation.SIGMOID)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_softmax_does_not_overflow():
    given = np.array([[1e4, -1e4], [0, 0], [-1e4, 1e4]])
    np.testing.assert_allclose(softmax(given), [[1, 0], [0, 0], [0, 1]], atol=1e-12)


def test_sigmoid_does_not_overflow_and_keeps_small_probabilities():
    given = np.array([-np.inf, -1e4, -30, -20, 0, 20, 1e4, np.inf], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        actual = sigmoid(given)
    np.testing.assert_allclose(actual, special.expit(given.astype(float)), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("activation", BOTH)
def test_logits_of_probabilities_give_them_back(activation):
    p = probabilities(logits(4, 50), activation)
    np.testing.assert_allclose(probabilities(logits_of(p, activation), activation), p, atol=1e-6)


@pytest.mark.parametrize("activation", BOTH)
def test_certainty_has_finite_logits(activation):
    assert np.isfinite(logits_of(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), activation)).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 255])
def test_argmax_is_numpys(classes):
    given = np.random.default_rng(0).integers(0, 5, (classes, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(argmax(given), given.argmax(axis=0))


def test_what_is_decided_is_one_class_or_each_that_is_as_likely_as_not():
    given = np.array([[2.0, -1.0, 0.0], [1.0, -2.0, -0.1]])
    assert decided(given, Activation.SOFTMAX).tolist() == [0, 0, 0]
    assert decided(given, Activation.SIGMOID).tolist() == [[1, 0, 1], [1, 0, 0]]
