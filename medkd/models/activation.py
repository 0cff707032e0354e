"""Activation: from a network's output to probabilities and back, in torch. Classes are axis 1."""

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.types import Activation, Temperature

TINY = 1e-30  # a probability of 0 has no logarithm
SUREST = 1 - 2.0**-24  # the float32 below 1


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Return the probability of each class."""
    return logits.sigmoid() if activation is Activation.SIGMOID else logits.softmax(dim=1)


def log_probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Return the logarithm of the probability of each class."""
    if activation is Activation.SOFTMAX:
        return logits.log_softmax(dim=1)
    return -F.softplus(-logits)  # ``logsigmoid`` is exported as the logarithm of a sigmoid


def logits_of(probabilities: Tensor, activation: Activation) -> Tensor:
    """Return logits of probabilities: their logarithms, or the logarithms of their odds."""
    if activation is Activation.SIGMOID:
        p = probabilities.clamp(TINY, SUREST)
        return p.log() - (-p).log1p()
    return probabilities.clamp_min(TINY).log()


def tempered(logits: Tensor, temperature: Temperature, activation: Activation) -> Tensor:
    """Return logits ``[batch, classes, *space]`` whose probabilities are calibrated."""
    if isinstance(temperature, float):
        return logits / temperature
    values = torch.tensor(temperature, device=logits.device).reshape(-1, *[1] * (logits.ndim - 2))
    if activation is Activation.SIGMOID:
        return logits / values
    return logits.log_softmax(dim=1) / values
