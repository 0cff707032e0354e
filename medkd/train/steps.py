"""Steps: from a batch to named loss terms; ``loss`` is the one that is minimised."""

from collections.abc import Callable

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.config import Config
from medkd.distill.objective import Objective
from medkd.types import UNLABELLED, Task

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
    supervised, objective = config.distill.supervised, Objective(config.distill)

    def step(model: nn.Module, batch: dict[str, Tensor], number: int) -> Terms:
        logits = model(batch["image"]).float()
        labels = _supervised(logits, batch, config.task)
        soft, terms = objective(logits, batch, number)
        loss = supervised * torch.stack(list(labels.values())).sum() + soft
        return {"loss": loss, **labels, **terms}

    return step


def _supervised(logits: Tensor, batch: dict[str, Tensor], task: Task) -> Terms:
    """Return the terms of the images that have a label; 0 where none of the batch has."""
    label = batch["label"]
    has_label = (label != UNLABELLED).flatten(1).all(1) if label.ndim > 1 else label != UNLABELLED
    if not has_label.all():
        logits, label = logits[has_label], label[has_label]
    if not len(label):
        nothing = logits.sum()
        return {"cross_entropy": nothing} | (
            {} if task is Task.CLASSIFICATION else {"dice_loss": nothing}
        )
    cross_entropy = F.cross_entropy(logits, label)
    if task is Task.CLASSIFICATION:
        return {"cross_entropy": cross_entropy}
    # batch=True: a class that is absent from one patch is judged with the others
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return {"dice_loss": dice(logits, label[:, None]), "cross_entropy": cross_entropy}
