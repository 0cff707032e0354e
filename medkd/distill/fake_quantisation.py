"""Fake quantisation: a network that answers as if in int8, and can be trained all the same.

Weights and inputs of convolutions and linear layers are rounded as OpenVINO rounds them, and the
gradient passes as if they were not (Jacob et al. 2018, arXiv 1712.05877). A batch norm that export
folds into a convolution scales its channels, which have scales of their own: folding changes
nothing of the rounding. A last layer that export splits into phases (``export.phases``) has a scale
a phase there and one for all of them here, which rounds a little more.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

TINY = 1e-12  # the scale of what is 0 everywhere
LEVELS = 127  # of a weight, to either side of 0
BYTE = 255
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@contextmanager
def fake_quantised(network: nn.Module) -> Iterator[None]:
    """Let a network answer as if in int8 while the block runs; its weights stay floats."""
    layers = [m for m in network.modules() if isinstance(m, CONVOLUTIONS + TRANSPOSED)]
    for layer in layers:
        rounding = Rounding(axis=1 if isinstance(layer, TRANSPOSED) else 0)
        parametrize.register_parametrization(layer, "weight", rounding)
    hooks = [layer.register_forward_pre_hook(_round_inputs) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class Rounding(nn.Module):
    """Round a weight to 8 bits: symmetric, with a scale for each output channel."""

    def __init__(self, *, axis: int) -> None:
        """Take the axis of the output channels."""
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight."""
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        scale = weight.detach().abs().amax(dim=others).clamp_min(TINY) / LEVELS
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zero, self.axis, -LEVELS, LEVELS
        )


def rounded(values: Tensor) -> Tensor:
    """Round activations to 8 bits: one scale, from the least to the largest of the batch.

    0 is one of the levels, so padding stays what it is.
    """
    found = values.detach()
    low, high = found.amin().clamp_max(0), found.amax().clamp_min(0)
    scale = (high - low).clamp_min(TINY) / BYTE
    zero = (-low / scale).round().clamp(0, BYTE).int()
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, BYTE)


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del layer
    return rounded(inputs[0].float()), *inputs[1:]
