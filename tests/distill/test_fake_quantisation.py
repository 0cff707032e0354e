import numpy as np
import pytest
import torch
from torch import nn

from medkd.distill.fake_quantisation import Rounding, fake_quantised, rounded

LAYERS = {
    "convolution": nn.Conv2d(3, 4, 3),
    "transposed": nn.ConvTranspose2d(3, 4, 3),
    "linear": nn.Linear(3, 4),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_weight_has_255_levels_of_each_output_channel(kind):
    axis = 1 if kind == "transposed" else 0
    weight = LAYERS[kind].weight.detach()
    found = Rounding(axis=axis)(weight).transpose(0, axis).reshape(4, -1).numpy()
    for given, channel in zip(weight.transpose(0, axis).reshape(4, -1).numpy(), found, strict=True):
        scale = np.abs(given).max() / 127
        np.testing.assert_allclose(channel, scale * np.rint(given / scale), rtol=1e-5, atol=1e-7)


def test_a_weight_that_is_scaled_by_channel_rounds_alike():
    """So it does not matter that export folds batch norms into weights."""
    weight, scale = torch.randn(4, 3, 3, 3), torch.tensor([1e-3, 1, 7, 300]).reshape(-1, 1, 1, 1)
    rounding = Rounding(axis=0)
    torch.testing.assert_close(rounding(scale * weight), scale * rounding(weight))


def test_activations_keep_0_and_lie_within_half_a_step():
    values = torch.cat([torch.zeros(5), 3 * torch.rand(1000) - 1])
    found = rounded(values)
    assert (found[:5] == 0).all()
    step = float(values.max() - values.min()) / 255
    assert float((found - values).abs().max()) <= 0.51 * step
    assert len(found.unique()) <= 256


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_what_is_constant_stays_itself(value):
    torch.testing.assert_close(rounded(torch.full((4,), value)), torch.full((4,), value))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_network_answers_by_rounded_weights_and_inputs_and_is_itself_again(kind):
    layer = LAYERS[kind]
    network, before = nn.Sequential(layer), layer.weight.detach().clone()
    image = torch.randn(2, 3) if kind == "linear" else torch.randn(2, 3, 8, 8)
    plain = network(image)
    with fake_quantised(network):
        answer = network(image)
        weight = layer.weight.detach()
    assert set(network.state_dict()) == {"0.weight", "0.bias"}
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=0)
    torch.testing.assert_close(network(image), plain)
    assert not torch.equal(answer, plain)
    layer.weight.data = weight
    torch.testing.assert_close(network(rounded(image)), answer)
    layer.weight.data = before


def test_the_gradient_passes_as_if_nothing_were_rounded():
    values = torch.linspace(-1, 2, 50, requires_grad=True)
    rounded(values).sum().backward()
    torch.testing.assert_close(values.grad, torch.ones(50))
    layer = nn.Conv2d(1, 1, 1, bias=False)
    with fake_quantised(layer):
        layer(torch.ones(1, 1, 2, 2)).sum().backward()
        assert float(layer.parametrizations.weight.original.grad) == pytest.approx(4, rel=1e-2)
