import numpy as np
import onnx  # noqa: TID253
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medkd.device.engine import OnnxRuntime
from medkd.export.onnx import export_onnx
from medkd.export.phases import LANES, phased
from medkd.models.students import plain_unet

LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AXES = [  # kernel, stride, padding and what is added at the end, so that a grid grows by its stride
    (size, stride, padding, more)
    for size, stride, padding, more in np.ndindex(6, 4, 3, 3)
    if stride and more < stride and size - 2 * padding + more == stride
]


def shuffled(phases, first, last, x):
    """Convolve a coarse grid with the kernels of each phase, and put the phases side by side."""
    dims = x.ndim - 2
    stride, (classes, channels) = phases.shape[:dims], phases.shape[dims : dims + 2]
    pads = [(-low, high) for low, high in zip(first, last, strict=True)]
    padded = nn.functional.pad(x, [pad for of_axis in pads[::-1] for pad in of_axis])
    out = np.zeros((len(x), classes, *(n * s for n, s in zip(x.shape[2:], stride, strict=True))))
    convolve = getattr(nn.functional, f"conv{dims}d")
    for phase in np.ndindex(*stride):
        weight = torch.tensor(phases[phase])
        places = tuple(slice(r, None, s) for r, s in zip(phase, stride, strict=True))
        out[(slice(None), slice(None), *places)] = convolve(padded, weight).numpy()
    assert channels == x.shape[1]
    return out


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(AXES), min_size=1, max_size=3), st.integers(0, 99))
def test_the_phases_side_by_side_are_the_transposed_convolution(axes, seed):
    size, stride, padding, more = (list(each) for each in zip(*axes, strict=True))
    torch.manual_seed(seed)
    layer = LAYERS[len(axes)](2, 3, size, stride, padding, more, bias=False)
    x = torch.randn(2, 2, *[4] * len(axes))
    phases, (first, last) = phased(layer.weight.detach().numpy(), stride=stride, before=padding)
    with torch.no_grad():
        expected = layer(x).numpy()
    np.testing.assert_allclose(shuffled(phases, first, last, x), expected, atol=1e-5)


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("dims", [2, 3])
def test_an_exported_network_answers_the_same_without_its_last_transposition(tmp_path, dims):
    torch.manual_seed(0)
    network = plain_unet(1, 3, dims, channels=[8, 16, 16]).eval()
    shape = (1, 16, 24, 8)[: 1 + dims]
    export_onnx(network, tmp_path / "model.onnx", shape=shape)
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    assert kinds(tmp_path / "model.onnx").count("ConvTranspose") == 1  # of 16 to 8 channels
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = network(x).numpy()
    answer = OnnxRuntime(tmp_path / "model.onnx")(x.numpy())
    np.testing.assert_allclose(answer, expected, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(2, LANES, 2, 2),
        nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
        nn.ConvTranspose2d(2, 2, 2, 2, padding=1, output_padding=1, dilation=2),
        nn.ConvTranspose2d(2, 2, 3, 2),
    ],
    ids=["many channels", "groups", "dilation", "another size"],
)
def test_other_layers_stay(tmp_path, layer):
    export_onnx(layer, tmp_path / "model.onnx", shape=(layer.in_channels, 8, 8))
    assert kinds(tmp_path / "model.onnx") == ["ConvTranspose"]


def test_a_layer_whose_bias_is_computed_stays(tmp_path):
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ConvTranspose2d(2, 2, 2, 2)

        def forward(self, x):
            bias = self.layer.bias + x.mean(dim=(0, 2, 3))
            return nn.functional.conv_transpose2d(x, self.layer.weight, bias, 2)

    export_onnx(Computed().eval(), tmp_path / "model.onnx", shape=(2, 4, 4))
    assert "ConvTranspose" in kinds(tmp_path / "model.onnx")


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_alone(tmp_path, bias):
    layer = nn.ConvTranspose3d(4, 2, 2, 2, bias=bias).eval()
    export_onnx(layer, tmp_path / "model.onnx", shape=(4, 3, 4, 5))
    assert "ConvTranspose" not in kinds(tmp_path / "model.onnx")
    x = torch.randn(2, 4, 3, 4, 5)
    answer = OnnxRuntime(tmp_path / "model.onnx")(x.numpy())
    np.testing.assert_allclose(answer, layer(x).detach().numpy(), atol=1e-5)
