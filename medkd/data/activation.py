"""Activation: from a network's output to probabilities and back, in numpy alone.

Training and device share it. Classes are the first axis.
"""

import numpy as np

from medkd.types import Activation, Temperature

TINY = 1e-30  # a probability of 0 has no logarithm
FURTHEST = np.float32(80)  # of a logit from 0: e^88 is beyond float32
NEAREST = 1 - 2.0**-24  # the float32 below 1


def probabilities(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """Return the probability of each class, of logits or of what ``logits_of`` made."""
    return sigmoid(logits) if activation is Activation.SIGMOID else softmax(logits)


def logits_of(probabilities: np.ndarray, activation: Activation) -> np.ndarray:
    """Return logits float32 of probabilities: their logarithms, or the logarithms of their odds.

    A probability counts as 1e-30 at least, and against its absence as at most the float32 below 1.
    """
    if activation is Activation.SOFTMAX:
        return np.log(np.maximum(probabilities, TINY)).astype(np.float32)
    p = np.clip(probabilities.astype(np.float64), TINY, NEAREST)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def tempered(logits: np.ndarray, temperature: Temperature, activation: Activation) -> np.ndarray:
    """Return logits ``[classes, *space]`` whose probabilities are calibrated."""
    if isinstance(temperature, float):
        return logits / np.float32(temperature)
    values = np.asarray(temperature, np.float32).reshape(-1, *[1] * (logits.ndim - 1))
    if activation is Activation.SIGMOID:
        return logits / values
    return np.log(softmax(logits) + TINY) / values


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    exponent = logits - logits.max(axis=0, keepdims=True)
    np.exp(exponent, out=exponent)
    exponent /= exponent.sum(axis=0, keepdims=True)
    return exponent


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function, exact for small probabilities."""
    exponent = np.minimum(-logits, FURTHEST)
    np.exp(exponent, out=exponent)
    exponent += 1
    return np.reciprocal(exponent, out=exponent)


def argmax(logits: np.ndarray) -> np.ndarray:
    """Return ``logits.argmax(axis=0)`` of at most 255 classes, as bytes.

    Over few classes it takes a tenth of numpy's time: arithmetic instead of branches.
    """
    best = logits[0]
    index = np.zeros(best.shape, np.uint8)
    for number, of_class in enumerate(logits[1:], start=1):
        better = (of_class > best).view(np.uint8)
        index += better * (np.uint8(number) - index)
        best = np.maximum(best, of_class)
    return index


def decided(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """Return the answer as bytes: the likeliest class ``[*space]``, or each class that is likely.

    Args:
        logits: ``[classes, *space]``; of independent classes those from 0 on, which is a
            probability of one half, are there.
        activation: of the network.
    """
    if activation is Activation.SIGMOID:
        return (logits >= 0).view(np.uint8)
    return argmax(logits)
