"""Objective: the losses that a config names, composed into one."""

import inspect
from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medkd.distill.features import Adapter
from medkd.distill.losses.affinity import affinity
from medkd.distill.losses.attention import attention
from medkd.distill.losses.channel import channel_features, cwd
from medkd.distill.losses.correlation import dist
from medkd.distill.losses.decoupled import dkd
from medkd.distill.losses.dice import soft_dice
from medkd.distill.losses.hints import hint
from medkd.distill.losses.pixel import pixel_kd
from medkd.distill.losses.region import region_affinity
from medkd.distill.losses.weights import voxel_weights
from medkd.errors import ConfigError, TrainingError
from medkd.models.activation import TINY, log_probabilities
from medkd.options import DistillOptions, LossOptions
from medkd.registry import Registry
from medkd.types import UNLABELLED, Activation

Terms = dict[str, Tensor]
Features = Mapping[str, Tensor]  # by layer
LOSSES: Registry[Terms] = Registry("distillation loss")
for _loss in (pixel_kd, soft_dice, cwd, dist, dkd):
    LOSSES.register(_loss.__name__)(_loss)
FEATURE_LOSSES: Registry[Terms] = Registry("distillation loss of layers")
for _of_features in (hint, attention, affinity, region_affinity):
    FEATURE_LOSSES.register(_of_features.__name__)(_of_features)
FEATURE_LOSSES.register("cwd")(channel_features)
RELATIONS = (affinity, region_affinity)  # of answers, too: log-probabilities serve as features
for _relation in RELATIONS:
    LOSSES.register(_relation.__name__)(_relation)

ONE_CLASS_IS_RIGHT = {  # what these compare, structures that may overlap do not have
    "dkd": "the true class against all others"
}

IDLE_STEPS = 100  # a term that is 0 for so long from the first step on teaches nothing


class Objective(nn.Module):
    """The weighted sum of a config's losses, whose weights rise linearly over the first steps.

    Its parameters are adapters between layers: trained with the student, never exported.
    """

    def __init__(
        self,
        options: DistillOptions,
        activation: Activation = Activation.SOFTMAX,
        *,
        steps: int = IDLE_STEPS,
    ) -> None:
        """Compose the losses.

        Args:
            options: which, and how much each counts.
            activation: of student and teacher.
            steps: of the whole training, which may be a short one.

        Raises:
            ConfigError: an unknown loss or option, or one that makes no sense for structures that
                may overlap.
        """
        super().__init__()
        self._warmup_steps = options.warmup_steps
        self._activation = activation
        self._losses = [(entry, _function(entry, activation)) for entry in options.losses]
        self._idle_steps = min(IDLE_STEPS, steps)
        self.idle: dict[str, int] = {}  # steps from the first on in which a term was 0; else -1
        self.adapters = nn.ModuleDict()

    @property
    def student_layers(self) -> list[str]:
        """The layers of the student that are compared."""
        return [entry.layers[0] for entry, _ in self._losses if entry.layers]

    @property
    def teacher_layers(self) -> list[str]:
        """The layers of the teacher that are compared."""
        return [entry.layers[1] for entry, _ in self._losses if entry.layers]

    def adapt(self, student: Features, teacher: Features) -> None:
        """Make the adapters that these features need.

        Raises:
            ConfigError: a layer whose output is no map of features.
        """
        for number, (entry, _) in enumerate(self._losses):
            if entry.layers is None:
                continue
            q, p = student.get(entry.layers[0]), teacher.get(entry.layers[1])
            for layer, maps in zip(entry.layers, (q, p), strict=True):
                if not isinstance(maps, Tensor) or maps.ndim < 2:
                    raise ConfigError(
                        f"{entry.name}: layer {layer!r} puts out no features "
                        f"[batch, channels, *space] when the network answers; choose another"
                    )
            assert q is not None
            assert p is not None
            if entry.has_adapter:
                self.adapters[str(number)] = Adapter(q.shape, p.shape)

    def forward(
        self,
        logits: Float[Tensor, " batch classes *space"],
        batch: Mapping[str, Tensor],
        step: int,
        *,
        student: Features | None = None,
        teacher: Features | None = None,
    ) -> tuple[Tensor, Terms]:
        """Return the loss, and each of its terms as it was before weight and warm-up.

        Args:
            logits: the student's.
            batch: ``soft``, the teacher's probabilities; ``label``; and, where the image has space,
                ``valid``.
            step: counted from 0.
            student: features of its layers that losses name.
            teacher: likewise.

        Raises:
            TrainingError: a term that does not depend on the student, or has always been 0.
        """
        warm, taught = self._warmth(step), logits.requires_grad
        loss = torch.zeros((), device=logits.device)
        terms: Terms = {}
        for number, (entry, function) in enumerate(self._losses):
            if entry.layers is None:
                found = self._compared(entry, function, logits, batch)
            else:
                assert student is not None
                assert teacher is not None
                q, p = student[entry.layers[0]].float(), teacher[entry.layers[1]].float()
                # before the adapter, which is trained and would have a gradient all the same
                _refuse_untaught(f"{entry.name}/{entry.student_layer}", q, taught)
                weights = self._of_places(entry, batch, q)
                if str(number) in self.adapters:
                    q = self.adapters[str(number)](q, p.shape[2:])
                label = _label(function, batch, batch["soft"])
                found = function(q, p, weights=weights, **label)
                found = {f"{name}/{entry.student_layer}": term for name, term in found.items()}
            self._watch(found, step, taught=taught)
            loss = loss + warm * entry.weight * torch.stack(list(found.values())).sum()
            terms |= found
        return loss, terms

    def of_answers(
        self, logits: Float[Tensor, " batch classes *space"], batch: Mapping[str, Tensor], step: int
    ) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses that compare answers, for a further head."""
        loss = torch.zeros((), device=logits.device)
        for entry, function in self._losses:
            if entry.layers is None:
                terms = self._compared(entry, function, logits, batch)
                loss = loss + self._warmth(step) * entry.weight * sum(terms.values())
        return loss

    def _compared(
        self,
        entry: LossOptions,
        function: "partial[Terms]",
        logits: Tensor,
        batch: Mapping[str, Tensor],
    ) -> Terms:
        teacher = batch["soft"]
        label = _label(function, batch, teacher)
        independent = self._activation is Activation.SIGMOID
        weights = voxel_weights(
            teacher,
            batch["valid"] if logits.ndim > 2 else None,
            boundary=entry.boundary,
            confidence=entry.confidence,
            classes=None if independent else entry.class_weights,
            sigmoid=independent,
        )
        if entry.standardise:
            logits, teacher = standardised(logits), standardised(teacher.clamp_min(TINY).log())
            teacher = teacher.softmax(dim=1)
        if function.func in RELATIONS:
            logits = log_probabilities(logits, self._activation)
            teacher = teacher.clamp_min(TINY).log()
        return function(logits, teacher, weights=weights, **label)

    def _of_places(
        self, entry: LossOptions, batch: Mapping[str, Tensor], features: Tensor
    ) -> Tensor | None:
        """Return how much each voxel counts where features are compared; None if all alike."""
        valid = batch.get("valid")
        if features.ndim < 3 or valid is None:
            return None
        return voxel_weights(
            batch["soft"],
            None if bool(valid.all()) else valid,
            boundary=entry.boundary,
            confidence=entry.confidence,
            sigmoid=self._activation is Activation.SIGMOID,
        )

    def _warmth(self, step: int) -> float:
        return min(1.0, (step + 1) / self._warmup_steps) if self._warmup_steps else 1.0

    def _watch(self, terms: Terms, step: int, *, taught: bool) -> None:
        for name, term in terms.items():
            _refuse_untaught(name, term, taught)
            # of a run that goes on and does not say, it may have taught something before
            idle = self.idle.get(name, -1 if step else 0)
            self.idle[name] = idle + 1 if idle >= 0 and term.detach() == 0 else -1
            if self.idle[name] >= self._idle_steps:
                raise TrainingError(
                    f"distill.losses: {name} has been 0 in each of the first {self._idle_steps} "
                    f"steps; remove it, or correct its options"
                )


def _refuse_untaught(name: str, of_student: Tensor, taught: bool) -> None:
    if taught and not of_student.requires_grad:
        raise TrainingError(
            f"distill.losses: {name} does not depend on the student, so it would teach it nothing; "
            f"remove it, or name another layer"
        )


def _function(entry: LossOptions, activation: Activation) -> "partial[Terms]":
    if "sigmoid" in entry.options:
        raise ConfigError(f"{entry.name}: sigmoid follows from data.overlapping; leave it out")
    independent = activation is Activation.SIGMOID
    if independent and entry.name in ONE_CLASS_IS_RIGHT:
        raise ConfigError(
            f"{entry.name} compares {ONE_CLASS_IS_RIGHT[entry.name]}, and with data.overlapping "
            f"structures do not exclude each other; use pixel_kd, soft_dice, cwd or dist"
        )
    if independent and entry.standardise:
        raise ConfigError(
            f"{entry.name}: standardise brings the classes of a voxel to one scale, and with "
            f"data.overlapping each is a question of its own; leave it out"
        )
    if entry.layers is None and entry.name in {*FEATURE_LOSSES} - {*LOSSES}:
        raise ConfigError(f"{entry.name} compares layers; give it student_layer and teacher_layer")
    registry = FEATURE_LOSSES if entry.layers else LOSSES
    function = partial(registry.factory(entry.name, entry.options), **entry.options)
    if not independent:
        return function
    takes = inspect.signature(function).parameters
    if entry.class_weights and "class_weights" not in takes:
        raise ConfigError(
            f"{entry.name}: class_weights are of classes, and it compares places; leave them out"
        )
    if entry.class_weights:
        function = partial(function, class_weights=entry.class_weights)
    return partial(function, sigmoid=True) if "sigmoid" in takes else function


def _label(
    function: "partial[Terms]", batch: Mapping[str, Tensor], teacher: Tensor
) -> dict[str, Tensor]:
    """Return the label for a loss that takes it; the teacher's answer stands in where none is."""
    if "label" not in inspect.signature(function).parameters:
        return {}
    label = batch["label"]
    if label.ndim == teacher.ndim:  # structures that may overlap, 0 or 1 each
        return {"label": label.where(label != UNLABELLED, (teacher >= 0.5).to(label))}
    stand_in = teacher.argmax(dim=1)
    if "covered" in batch:  # background may be whatever the label does not cover: which, of these
        told = batch["covered"].reshape(*batch["covered"].shape, *[1] * (teacher.ndim - 2))
        told = torch.cat([torch.zeros_like(told[:, :1]), told[:, 1:]], dim=1)
        label = label.where(label != 0, teacher.masked_fill(told, -1.0).argmax(dim=1))
    return {"label": label.where(batch["label"] != UNLABELLED, stand_in)}


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
