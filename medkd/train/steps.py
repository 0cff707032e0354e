"""Steps: from a batch to named loss terms; ``loss`` is the one that is minimised."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.config import Config
from medkd.distill.features import tapped
from medkd.distill.objective import Objective
from medkd.distill.teacher import OnlineTeacher
from medkd.train.optim import precision
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


class DistillStep(nn.Module):
    """The step that learns from labels and soft targets, stored or asked for as it goes."""

    def __init__(self, config: Config, *, teacher: OnlineTeacher | None = None) -> None:
        """Compose the losses of a config.

        Raises:
            ConfigError: an unknown loss or loss option.
        """
        super().__init__()
        self._config = config
        self.objective = Objective(config.distill)
        self.teacher = teacher

    def adapt(self, model: nn.Module) -> None:
        """Make the adapters between the layers of ``model`` and of the teacher.

        Raises:
            ConfigError: a layer that one of them does not have.
        """
        if self.teacher is None or not self.objective.teacher_layers:
            return
        preprocess = self._config.preprocess
        window = torch.zeros(1, preprocess.channels, *preprocess.window)
        here, there = (next(m.parameters(), window).device for m in (model, self.teacher))
        with torch.no_grad(), tapped(model.eval(), self.objective.student_layers) as features:
            model(window.to(here))
        asked = torch.eye(1, len(self.teacher.members), device=there)
        self.objective.adapt(features, self.teacher.said(window.to(there), asked)[1])

    def forward(self, model: nn.Module, batch: dict[str, Tensor], number: int) -> Terms:
        """Return ``loss`` and all terms it is made of."""
        network = getattr(model, "module", model)  # as it was before it was wrapped for a device
        with tapped(network, self.objective.student_layers) as student:
            logits = model(batch["image"]).float()
        teacher: dict[str, Tensor] = {}
        if self.teacher is not None:
            batch = dict(batch)
            with self._precision(logits.device):
                batch["soft"], teacher = self.teacher.said(batch["image"], batch["asked"])
        labels = _supervised(logits, batch, self._config.task)
        soft, terms = self.objective(logits, batch, number, student=student, teacher=teacher)
        supervised = self._config.distill.supervised
        loss = supervised * torch.stack(list(labels.values())).sum() + soft
        return {"loss": loss, **labels, **terms}

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Let the teacher compute as the student does."""
        is_half = precision(self._config.student.train) == "bf16-mixed"
        return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


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
