"""External: networks that were trained elsewhere, opened without trusting them.

A checkpoint of medkd is safetensors and JSON, an ONNX file a graph: neither can run code. A MONAI
bundle is a config that can (``_target_`` names any Python callable, ``$`` any expression), so it is
opened only where the user says ``trust_bundle: true``.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medkd.config import Config
from medkd.errors import ConfigError, DataError
from medkd.models.activation import TINY
from medkd.models.checkpoint import load_checkpoint
from medkd.models.graph import OnnxNetwork
from medkd.options import ExternalOptions
from medkd.types import Activation

PREPROCESSING = ("channels", "orientation", "spacing_mm", "size", "intensity")


@dataclass(frozen=True)
class ExternalNetwork:
    """A network and what it says of itself.

    Attributes:
        network: takes ``[batch, channels, *window]`` and answers with logits.
        classes: of its channels in order, if it says so.
        preprocess: what it says of its input, to be compared with the study's.
        patients: keyed hashes of the patients it was trained on, if it says so.
        activation: what makes probabilities of its logits, if it says so.
    """

    network: nn.Module
    classes: tuple[str, ...] | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    patients: tuple[str, ...] | None = None
    activation: Activation | None = None


def open_external(options: ExternalOptions, path: Path, config: Config) -> ExternalNetwork:
    """Open a checkpoint, a bundle or an ONNX file.

    Raises:
        ConfigError: a bundle that nobody has said to trust.
        DataError: it is not what ``kind`` says, or was made for other input.
    """
    opened = {"checkpoint": _checkpoint, "bundle": _bundle, "onnx": _onnx}[options.kind](
        options, path, config.activation
    )
    if opened.activation not in {None, config.activation}:
        raise DataError(
            f"{path}: this teacher was trained for {opened.activation}, and data.overlapping makes "
            f"the study's {config.activation}; bring one whose structures may overlap as the "
            f"study's do"
        )
    wanted = config.preprocess.model_dump(mode="json")
    for key, said in opened.preprocess.items():
        if said != wanted[key]:
            raise DataError(
                f"{path}: this teacher expects preprocess.{key}: {said}, the study has "
                f"{wanted[key]}; make them alike, or let the teacher save its probabilities and "
                f"bring those (kind: probabilities)"
            )
    return opened


def _checkpoint(options: ExternalOptions, path: Path, activation: Activation) -> ExternalNetwork:
    del options, activation
    network, said = load_checkpoint(path)  # whose temperature is fitted anew on these cases
    expected = _comparable(said.preprocess)
    return ExternalNetwork(network, said.classes, expected, said.patients, said.activation)


def _onnx(options: ExternalOptions, path: Path, activation: Activation) -> ExternalNetwork:
    """Open an ONNX file; a manifest beside it, as a release has, says what it expects."""
    del options
    network = OnnxNetwork(path, activation)
    try:
        said = json.loads((path.parent / "manifest.json").read_text())
        return ExternalNetwork(
            network,
            tuple(said["classes"]),
            _comparable(said["preprocess"]),
            activation=Activation(said.get("activation", Activation.SOFTMAX)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ExternalNetwork(network)


def _bundle(options: ExternalOptions, path: Path, activation: Activation) -> ExternalNetwork:
    del activation
    if not options.trust_bundle:
        raise ConfigError(
            f"teacher.external: {path}: a MONAI bundle's config can run any code on this machine; "
            f"read it, and set trust_bundle: true if you trust whoever made it"
        )
    from monai.bundle.config_parser import ConfigParser

    for name in ("inference.json", "inference.yaml", "train.json", "train.yaml"):
        if (path / "configs" / name).is_file():
            break
    else:
        raise DataError(f"{path}: no configs/inference.json or train.json; not a MONAI bundle")
    logging.getLogger("monai").setLevel(logging.WARNING)
    parser = ConfigParser()
    try:
        parser.read_config(path / "configs" / name)
        parser["bundle_root"] = str(path)
        tree = dict(parser.config)  # type: ignore[call-overload]
        key = "network_def" if "network_def" in tree else "network"
        network = parser.get_parsed_content(key)
        weights = torch.load(path / "models" / "model.pt", weights_only=True, map_location="cpu")
        network.load_state_dict(weights.get("state_dict", weights))
        spacing = _spacing(parser, tree)
    except Exception as error:  # a bundle may raise anything
        raise DataError(f"{path}: its network cannot be built and loaded ({error})") from error
    return ExternalNetwork(network.eval(), _metadata(path), spacing)


class Reordered(nn.Module):
    """A network whose classes are brought to the study's order; what the study lacks is merged."""

    matrix: Tensor

    def __init__(
        self,
        network: nn.Module,
        matrix: np.ndarray,
        activation: Activation = Activation.SOFTMAX,
    ) -> None:
        """Wrap a network; ``matrix`` is ``[classes of the study, classes of the network]``."""
        super().__init__()
        self.activation = activation
        self.network = network
        self.register_buffer("matrix", torch.from_numpy(matrix.astype(np.float32)))

    def forward(self, image: Tensor) -> Tensor:
        """Return the log-probabilities of the study's classes; logits of those that overlap."""
        if self.activation is Activation.SIGMOID:
            return self.network(image).float()[:, self.matrix.argmax(dim=1)]
        probabilities = self.network(image).float().softmax(dim=1)
        merged = torch.einsum("ij,bj...->bi...", self.matrix, probabilities)
        return merged.clamp_min(TINY).log()


def portable_graph(network: nn.Module, shape: Sequence[int]) -> Any:  # noqa: ANN401
    """Return the ONNX graph that a release of a network brought as ONNX holds; None without one.

    Args:
        network: any; only one that is an ``OnnxNetwork``, reordered or not, has one.
        shape: ``[channels, *window]``.
    """
    matrix = network.matrix.cpu().numpy() if isinstance(network, Reordered) else None
    inner = network.network if isinstance(network, Reordered) else network
    return inner.portable(shape, matrix=matrix) if isinstance(inner, OnnxNetwork) else None


def channel_matrix(classes: Sequence[str], config: Config) -> np.ndarray:
    """Return the 0/1 matrix ``[classes of the study, channels]`` that sorts a teacher's channels.

    A structure that the study does not know counts as background; where structures may overlap it
    is left out, as a finding is.

    Raises:
        ConfigError: a class of the study is not among the channels, or a classifier has more.
    """
    said = [name.lower() for name in classes]
    wanted = [name.lower() for name in config.classes]
    missing = [name for name in wanted if name not in said]
    more = [name for name in said if name not in wanted]
    if missing or (more and not config.questions):
        raise ConfigError(
            f"teacher.external: its channels are {', '.join(classes)}; the study's classes are "
            f"{', '.join(config.classes)}; list the channels in order under classes, by the "
            f"study's names"
        )
    matrix = np.zeros((len(wanted), len(said)), np.float32)
    for channel, name in enumerate(said):
        if name in wanted or config.activation is Activation.SOFTMAX:
            matrix[wanted.index(name) if name in wanted else 0, channel] = 1
    return matrix


def _comparable(said: dict[str, Any]) -> dict[str, Any]:
    return {key: said[key] for key in PREPROCESSING if key in said}


def _metadata(path: Path) -> tuple[str, ...] | None:
    """Return the classes that a bundle's metadata names, in channel order."""
    try:
        metadata = json.loads((path / "configs" / "metadata.json").read_text())
        outputs = metadata["network_data_format"]["outputs"]
        named = next(iter(outputs.values()))["channel_def"]
        return tuple(str(named[str(i)]) for i in range(len(named)))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, AttributeError):
        return None


def _spacing(parser: Any, tree: Any, *place: str) -> dict[str, Any]:  # noqa: ANN401
    """Return the spacing that a bundle's preprocessing resamples to, if it says so."""
    from monai.bundle.utils import ID_SEP_KEY

    if isinstance(tree, dict):
        target = str(tree.get("_target_", ""))
        if target.endswith(("Spacingd", "Spacing")) and "pixdim" in tree:
            said = parser.get_parsed_content(ID_SEP_KEY.join([*place, "pixdim"]))
            return {"spacing_mm": np.atleast_1d(said).astype(float).tolist()}
        branches = list(tree.items())
    else:
        branches = list(enumerate(tree)) if isinstance(tree, list) else []
    found = (_spacing(parser, branch, *place, str(name)) for name, branch in branches)
    return next(filter(None, found), {})
