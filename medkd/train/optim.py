"""Optim: AdamW, its learning rate by step, precision, and the running average of the weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from medkd.environment import cpu_flags
from medkd.errors import TrainingError
from medkd.options import TrainOptions


def adamw(trained: Iterable[nn.Parameter], options: TrainOptions) -> torch.optim.AdamW:
    """Return AdamW; biases and normalisation weights are not decayed."""
    parameters = list(trained)
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then a cosine down to a hundredth.

    Example:
        >>> options = TrainOptions(steps=100, warmup_steps=10, learning_rate=1.0)
        >>> learning_rate(0, options), learning_rate(9, options), learning_rate(10, options)
        (0.1, 1.0, 1.0)
    """
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def precision(options: TrainOptions) -> Any:  # noqa: ANN401
    """Choose bf16 where the hardware computes in it; emulated, it would be slower than fp32.

    Raises:
        TrainingError: fp16 is asked for, and there is no GPU.
    """
    if options.precision == "16-mixed" and not torch.cuda.is_available():
        raise TrainingError(
            "train.precision: 16-mixed scales the loss for a GPU, and there is none; write auto"
        )
    if options.precision != "auto":
        return options.precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "bf16-mixed" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "32-true"


class WeightAverage:
    """Exponential moving average of a network's weights and buffers.

    The decay grows from 0.1 to its final value, so that the first, random weights are forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move the average towards the weights after ``step``."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)
