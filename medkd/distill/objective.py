"""Objective: the losses that a config names, composed into one."""

import inspect
from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from medkd.config import DistillOptions, LossOptions
from medkd.distill.divergence import TINY
from medkd.distill.losses.channel import cwd
from medkd.distill.losses.correlation import dist
from medkd.distill.losses.decoupled import dkd
from medkd.distill.losses.dice import soft_dice
from medkd.distill.losses.pixel import pixel_kd
from medkd.distill.losses.weights import voxel_weights
from medkd.errors import ConfigError, TrainingError
from medkd.registry import Registry
from medkd.types import UNLABELLED

Terms = dict[str, Tensor]
LOSSES: Registry[Terms] = Registry("distillation loss")
for _loss in (pixel_kd, soft_dice, cwd, dist, dkd):
    LOSSES.register(_loss.__name__)(_loss)

IDLE_STEPS = 100  # a term that is 0 for so long from the first step on teaches nothing


class Objective:
    """The weighted sum of a config's losses, whose weights rise linearly over the first steps."""

    def __init__(self, options: DistillOptions) -> None:
        """Compose the losses.

        Raises:
            ConfigError: an unknown loss or option.
        """
        if any(entry.options.get("sigmoid") for entry in options.losses):
            raise ConfigError("sigmoid is for multi-label networks; those of a study are softmax")
        self._warmup_steps = options.warmup_steps
        self._losses = [
            (entry, partial(LOSSES.factory(entry.name, entry.options), **entry.options))
            for entry in options.losses
        ]
        self._idle: dict[str, int] = {}

    def __call__(
        self, logits: Float[Tensor, " batch classes *space"], batch: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Terms]:
        """Return the loss, and each of its terms as it was before weight and warm-up.

        Args:
            logits: the student's.
            batch: ``soft``, the teacher's probabilities; ``label``; and, where the image has space,
                ``valid``.
            step: counted from 0.

        Raises:
            TrainingError: a term that does not depend on the student, or has always been 0.
        """
        warm = min(1.0, (step + 1) / self._warmup_steps) if self._warmup_steps else 1.0
        loss = torch.zeros((), device=logits.device)
        terms: Terms = {}
        for entry, function in self._losses:
            found = _evaluate(entry, function, logits, batch)
            self._watch(found, taught=logits.requires_grad)
            loss = loss + warm * entry.weight * torch.stack(list(found.values())).sum()
            terms |= found
        return loss, terms

    def _watch(self, terms: Terms, *, taught: bool) -> None:
        for name, term in terms.items():
            if taught and not term.requires_grad:
                raise TrainingError(
                    f"distill.losses: {name} does not depend on the student, so it would teach it "
                    f"nothing; remove it"
                )
            idle = self._idle.get(name, 0)
            self._idle[name] = idle + 1 if idle >= 0 and term.detach() == 0 else -1
            if self._idle[name] >= IDLE_STEPS:
                raise TrainingError(
                    f"distill.losses: {name} has been 0 in each of the first {IDLE_STEPS} steps; "
                    f"remove it, or correct its options"
                )


def _evaluate(
    entry: LossOptions, function: "partial[Terms]", logits: Tensor, batch: Mapping[str, Tensor]
) -> Terms:
    teacher = batch["soft"]
    weights = voxel_weights(
        teacher,
        batch["valid"] if logits.ndim > 2 else None,
        boundary=entry.boundary,
        confidence=entry.confidence,
        classes=entry.class_weights,
    )
    if entry.standardise:
        logits, teacher = standardised(logits), standardised(teacher.clamp_min(TINY).log())
        teacher = teacher.softmax(dim=1)
    more = {}
    if "label" in inspect.signature(function).parameters:
        more["label"] = batch["label"].where(batch["label"] != UNLABELLED, teacher.argmax(dim=1))
    return function(logits, teacher, weights, **more)


def standardised(
    logits: Float[Tensor, " batch classes *space"],
) -> Float[Tensor, " batch classes *space"]:
    """Give each voxel's logits mean 0 and standard deviation 1 over the classes.

    The student is then free in their size and learns their relations alone (Sun, Ren, Li, Wang,
    Cao 2024, arXiv 2403.01427). A shift by voxel changes nothing, so log-probabilities serve as
    logits.

    Raises:
        ConfigError: two classes, whose standardised logits say only which one is larger.
    """
    if logits.shape[1] < 3:
        raise ConfigError(
            "standardise needs 3 classes or more; with two it erases how sure the teacher is"
        )
    std, mean = torch.std_mean(logits.float(), dim=1, keepdim=True, correction=0)
    return (logits.float() - mean) / std.clamp_min(1e-7)
