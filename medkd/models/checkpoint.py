"""Checkpoint: a folder that explains itself: weights as safetensors, the rest as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import nn

from medkd.errors import DataError
from medkd.models.zoo import build_model
from medkd.options import NamedOptions
from medkd.study import write_atomic
from medkd.types import Activation, Task, Temperature

CHECKPOINT_FILE = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a network is and how good it was; everything but its weights.

    Attributes:
        model: the entry of the config, with ``name``.
        task: what it answers.
        in_channels: of its input.
        classes: class names in channel order.
        spatial_dims: 2 or 3.
        temperature: divides its logits, or one a class its log-probabilities; fitted on validation.
        figures: validation figures by name.
        patients: keyed hashes of the patients it was trained on.
        preprocess: the options that its input was made with.
        activation: what makes probabilities of its output.
    """

    model: dict[str, object]
    task: Task
    in_channels: int
    classes: tuple[str, ...]
    spatial_dims: int
    temperature: Temperature = 1.0
    figures: dict[str, float] = field(default_factory=dict)
    patients: tuple[str, ...] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)
    activation: Activation = Activation.SOFTMAX

    def build(self) -> nn.Module:
        """Return the network, untrained."""
        return build_model(
            NamedOptions.model_validate(self.model),
            task=self.task,
            in_channels=self.in_channels,
            classes=len(self.classes),
            spatial_dims=self.spatial_dims,
        )


def save_checkpoint(folder: Path, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Write ``weights.safetensors`` and then ``checkpoint.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_unshared(model.cpu().state_dict()), folder / "weights.safetensors")
    write_atomic(folder / CHECKPOINT_FILE, json.dumps(asdict(checkpoint), indent=1))


def load_checkpoint(folder: Path) -> tuple[nn.Module, Checkpoint]:
    """Read what ``save_checkpoint`` wrote; the network comes in evaluation mode.

    Raises:
        DataError: the folder is not a checkpoint, or weights and description disagree.
    """
    try:
        values = json.loads((folder / CHECKPOINT_FILE).read_text())
        values["classes"], values["patients"] = tuple(values["classes"]), tuple(values["patients"])
        if isinstance(values.get("temperature"), list):
            values["temperature"] = tuple(values["temperature"])
        values["activation"] = Activation(values.get("activation", Activation.SOFTMAX))
        checkpoint = Checkpoint(**values | {"task": Task(values["task"])})
        model = checkpoint.build()
        load_model(model, folder / "weights.safetensors")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a checkpoint of medkd ({error})") from None
    return model.eval(), checkpoint


def _unshared(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep each tensor once, under its first name, so that the same weights give the same file."""
    kept: dict[int, str] = {}
    for name in sorted(weights):
        kept.setdefault(weights[name].data_ptr(), name)
    return {name: weights[name].contiguous() for name in kept.values()}
