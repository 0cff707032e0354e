"""Steps: from a batch to named loss terms; ``loss`` is the one that is minimised."""

from collections.abc import Callable
from functools import partial

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.config import Config
from medkd.distill.losses import LOSSES
from medkd.types import Task

Terms = dict[str, Tensor]
Step = Callable[[nn.Module, dict[str, Tensor], int], Terms]  # (model, batch, step number)


def supervised_step(task: Task) -> Step:
    """Return the step that learns from labels alone: Dice + cross-entropy, or the latter."""

    def step(model: nn.Module, batch: dict[str, Tensor], number: int) -> Terms:
        del number
        terms = _supervised(model(batch["image"]).float(), batch, task)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    return step


def distill_step(config: Config) -> Step:
    """Return the step that learns from labels and soft targets.

    Raises:
        ConfigError: an unknown loss or loss option.
    """
    options = config.distill
    losses = {
        entry.name: (partial(LOSSES.factory(entry.name, entry.options), **entry.options), entry)
        for entry in options.losses
    }

    def step(model: nn.Module, batch: dict[str, Tensor], number: int) -> Terms:
        logits = model(batch["image"]).float()
        terms = _supervised(logits, batch, config.task)
        loss = options.supervised * torch.stack(list(terms.values())).sum()
        warm = min(1.0, (number + 1) / options.warmup_steps) if options.warmup_steps else 1.0
        valid = batch["valid"] if logits.ndim > 2 else None
        for name, (function, entry) in losses.items():
            terms[name] = function(logits, batch["soft"], valid)
            loss = loss + warm * entry.weight * terms[name]
        return {"loss": loss, **terms}

    return step


def _supervised(logits: Tensor, batch: dict[str, Tensor], task: Task) -> Terms:
    cross_entropy = F.cross_entropy(logits, batch["label"])
    if task is Task.CLASSIFICATION:
        return {"cross_entropy": cross_entropy}
    # batch=True: a class that is absent from one patch is judged with the others
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return {"dice_loss": dice(logits, batch["label"][:, None]), "cross_entropy": cross_entropy}
