import numpy as np
import pytest
import torch

from medkd.data import activation as of_arrays
from medkd.models import activation as of_tensors
from medkd.types import Activation


def logits():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("temperature", [1.0, 2.5, (0.5, 1.5, 3.0)])
def test_training_and_device_agree(activation, temperature):
    given = logits()
    in_torch = of_tensors.probabilities(
        of_tensors.tempered(given, temperature, activation), activation
    )
    for image, expected in zip(given.numpy(), in_torch.numpy(), strict=True):
        tempered = of_arrays.tempered(image, temperature, activation)
        actual = of_arrays.probabilities(tempered, activation)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("activation", list(Activation))
def test_logarithms_and_logits_are_of_the_probabilities(activation):
    p = of_tensors.probabilities(logits(), activation)
    log_p = of_tensors.log_probabilities(logits(), activation)
    torch.testing.assert_close(log_p.exp(), p)
    again = of_tensors.probabilities(of_tensors.logits_of(p, activation), activation)
    torch.testing.assert_close(again, p)
    assert of_tensors.logits_of(p.round(), activation).isfinite().all()
