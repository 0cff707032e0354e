"""Steps: from a batch to named loss terms; ``loss`` is the one that is minimised.

What a step brings along (heads for deep supervision, adapters between layers) is trained with the
network and stays behind when the network is saved.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.config import Config
from medkd.distill.features import tapped
from medkd.distill.objective import Objective
from medkd.distill.teacher import OnlineTeacher
from medkd.errors import ConfigError
from medkd.options import TrainOptions
from medkd.train.independent import independent
from medkd.train.optim import precision
from medkd.train.supervised import Terms, supervised
from medkd.types import Activation

Step = Callable[[nn.Module, dict[str, Tensor], int], Terms]  # (model, batch, step number)

CONVOLUTIONS = {4: nn.Conv2d, 5: nn.Conv3d}  # by the axes of [batch, channels, *space]
POOLS = {4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


class SupervisedStep(nn.Module):
    """The step that learns from labels alone: Dice + cross-entropy, or the latter."""

    def __init__(self, config: Config, options: TrainOptions) -> None:
        """Make the step; ``adapt`` follows once the network is there."""
        super().__init__()
        self.config, self.options = config, options
        self.heads = nn.ModuleDict()
        given = options.class_weights
        weights = torch.tensor([given.get(name, 1.0) for name in config.classes]) if given else None
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def layers(self) -> list[str]:
        """The layers of the network that the step looks at."""
        return list(self.options.deep_supervision)

    def adapt(self, model: nn.Module) -> None:
        """Give each layer of ``train.deep_supervision`` a head of its own.

        Raises:
            ConfigError: the network has no such layer, or it puts out no features.
        """
        try:
            features = self._features(model, self.options.deep_supervision)
        except ConfigError as error:
            raise ConfigError(f"train.deep_supervision: {error}") from None
        for number, layer in enumerate(self.options.deep_supervision):
            maps = features.get(layer)
            if not isinstance(maps, Tensor) or maps.ndim not in CONVOLUTIONS:
                raise ConfigError(
                    f"train.deep_supervision: layer {layer!r} puts out no features "
                    f"[batch, channels, *space] when the network answers; choose another"
                )
            convolution = CONVOLUTIONS[maps.ndim]
            self.heads[str(number)] = convolution(maps.shape[1], len(self.config.classes), 1)

    def forward(self, model: nn.Module, batch: dict[str, Tensor], number: int) -> Terms:
        """Return ``loss`` and all terms it is made of.

        Each head learns from labels and soft targets that are brought to its grid; the first one
        counts half as much as the network's own answer, each further one half as much again.
        """
        network = getattr(model, "module", model)  # as it was before it was wrapped for a device
        with tapped(network, self.layers) as features:
            logits = _by_class(model(batch["image"]))
        batch = self._informed(batch)
        loss, terms = self._loss(logits, batch, number, features)
        for index, layer in enumerate(self.options.deep_supervision):
            deep = _by_class(self.heads[str(index)](features[layer].float()))
            resized = _resized(batch, deep.shape[2:])
            terms[f"deep_supervision/{layer}"] = self._deep_loss(deep, resized, number)
            loss = loss + 0.5 ** (index + 1) * terms[f"deep_supervision/{layer}"]
        return {"loss": loss, **terms}

    def _features(self, model: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return what layers put out for an empty window."""
        window = (1, self.config.preprocess.channels, *self.config.preprocess.window)
        device = next(model.parameters(), torch.empty(0)).device
        with torch.no_grad(), tapped(model.eval(), layers) as features:
            if layers:
                model(torch.zeros(window, device=device))
        return features

    def _informed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch

    def _loss(
        self, logits: Tensor, batch: dict[str, Tensor], number: int, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Terms]:
        del number, features
        terms = self._of_labels(logits, batch)
        return torch.stack(list(terms.values())).sum(), terms

    def _of_labels(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Terms:
        if self.config.activation is Activation.SIGMOID:
            return independent(logits, batch, self.class_weights, task=self.config.task)
        return supervised(logits, batch, self.config.task, self.class_weights)

    def _deep_loss(self, logits: Tensor, batch: dict[str, Tensor], number: int) -> Tensor:
        return self._loss(logits, batch, number, {})[0]


class DistillStep(SupervisedStep):
    """The step that learns from labels and soft targets, stored or asked for as it goes."""

    def __init__(self, config: Config, *, teacher: OnlineTeacher | None = None) -> None:
        """Compose the losses of a config.

        Raises:
            ConfigError: an unknown loss or loss option.
        """
        super().__init__(config, config.student.train)
        steps = config.student.train.steps
        self.objective = Objective(config.distill, config.activation, steps=steps)
        self.teacher = teacher
        self._said: dict[str, Tensor] = {}

    @property
    def idle(self) -> dict[str, int]:
        """How long each term has been 0, which a run that goes on must know."""
        return self.objective.idle

    @property
    def layers(self) -> list[str]:
        """The layers of the network that heads or losses look at."""
        return super().layers + self.objective.student_layers

    def adapt(self, model: nn.Module) -> None:
        """Make the heads, and the adapters between the layers of ``model`` and of the teacher.

        Raises:
            ConfigError: a layer that one of them does not have, or that puts out no features.
        """
        super().adapt(model)
        if self.teacher is None or not self.objective.teacher_layers:
            return
        window = (1, self.config.preprocess.channels, *self.config.preprocess.window)
        device = next(self.teacher.parameters(), torch.empty(0)).device
        asked = torch.eye(1, len(self.teacher.members), device=device)
        layers = self.objective.teacher_layers
        _, said = self.teacher.said(torch.zeros(window, device=device), asked, layers=layers)
        self.objective.adapt(self._features(model, self.objective.student_layers), said)

    def _informed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Ask the teacher, computing as the student does."""
        if self.teacher is None:
            return batch
        is_half = precision(self.options) == "bf16-mixed"
        half: AbstractContextManager[object] = torch.autocast(
            batch["image"].device.type, torch.bfloat16, enabled=is_half
        )
        with half:
            soft, self._said = self.teacher.said(
                batch["image"], batch["asked"], layers=self.objective.teacher_layers
            )
        return batch | {"soft": soft}

    def _loss(
        self, logits: Tensor, batch: dict[str, Tensor], number: int, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Terms]:
        labels = self._of_labels(logits, batch)
        soft, terms = self.objective(logits, batch, number, student=features, teacher=self._said)
        weight = self.config.distill.supervised
        return weight * torch.stack(list(labels.values())).sum() + soft, labels | terms

    def _deep_loss(self, logits: Tensor, batch: dict[str, Tensor], number: int) -> Tensor:
        labels = self._of_labels(logits, batch)
        soft = self.objective.of_answers(logits, batch, number)
        return self.config.distill.supervised * torch.stack(list(labels.values())).sum() + soft


def _by_class(logits: Tensor) -> Tensor:
    """Return logits as losses are computed: in float32, a class's voxels side by side."""
    return logits.contiguous().float()


def _resized(batch: Mapping[str, Tensor], space: torch.Size) -> dict[str, Tensor]:
    """Bring labels and soft targets to a coarser grid; probabilities stay probabilities."""
    resized = {}
    for name in {"label", "valid"} & batch.keys():
        has_channels = batch[name].ndim == batch["image"].ndim  # of structures that may overlap
        voxels = batch[name].float() if has_channels else batch[name][:, None].float()
        voxels = F.interpolate(voxels, size=space, mode="nearest-exact").to(batch[name].dtype)
        resized[name] = voxels if has_channels else voxels[:, 0]
    resized |= {name: batch[name] for name in {"covered"} & batch.keys()}
    if "soft" in batch:
        resized["soft"] = POOLS[len(space) + 2](batch["soft"], list(space))  # type: ignore[arg-type]
    return resized
