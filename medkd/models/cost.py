"""Cost: how many parameters a network has and how many multiplications a window takes."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from medkd.models.graph import OnnxNetwork

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def parameters(model: nn.Module) -> int:
    """Count trainable values; buffers such as running means are not among them.

    Example:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    brought = sum(m.values() for m in model.modules() if isinstance(m, OnnxNetwork))
    return brought + sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Count multiply-accumulates of convolutions and linear layers for an input of ``shape``.

    Args:
        model: any network.
        shape: ``[batch, channels, *space]``.

    Example:
        >>> macs(nn.Conv2d(1, 4, 3, padding=1), (1, 1, 8, 8))
        2304
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, TRANSPOSED):  # every input voxel meets every weight of its group
            voxels = inputs[0].numel() // inputs[0].shape[1]
            total += voxels * module.weight.numel()
        elif isinstance(module, CONVOLUTIONS):
            total += output.numel() // output.shape[1] * module.weight.numel()
        elif isinstance(module, nn.Linear):
            total += math.prod(output.shape[:-1]) * module.weight.numel()
        elif isinstance(module, OnnxNetwork):
            total += module.macs(inputs[0].shape)

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(
                torch.zeros(*shape, device=next(model.parameters(), torch.empty(0)).device)
            )
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total
