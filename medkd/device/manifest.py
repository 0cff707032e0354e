"""Manifest: what a release says of itself; a release that differs from it is refused."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medkd.device.guard import Guard
from medkd.errors import ReleaseError
from medkd.options import LARGEST_LABEL, CodeOptions, PostprocessOptions, PreprocessOptions
from medkd.results import Conformal, Parity, VariantResult
from medkd.study import sha256
from medkd.types import Activation, Runtime, Task, Temperature, Variant

MANIFEST = "manifest.json"
PARITY = "parity.json"  # there too where a variant was refused, and has no manifest
WEIGHTS = "model.onnx"
VERSION = 2


class Manifest(BaseModel):
    """Everything a device needs to know beside the weights.

    Attributes:
        version: of this format.
        role: which of the study's three models this is.
        variant: the form it is released in.
        runtimes: what may compute it, the default first: on each it was compared with the network
            as trained. Empty for a MONAI bundle.
        weights: the file that a runtime opens.
        task: what it answers.
        classes: names in the order of the network's channels.
        label_values: the value that stands for each class in a mask.
        codes: what classes are, by name, where the study says so.
        preprocess: from the image's grid to the network's; window and overlap.
        postprocess: rules that tidy the mask.
        activation: what makes probabilities of the network's output; by a sigmoid structures may
            overlap, there is no background among the classes, and a mask has a channel of each; or
            an image may have several findings, or none.
        temperature: the network's output is divided by it before the activation; where there is one
            a class, a softmax's log-probabilities are.
        conformal: thresholds of the calibrated probabilities that keep a promise.
        operating_points: the calibrated probability from which each finding counts as found, chosen
            on the study's validation cases; one half where there is none.
        model: name and options of the network.
        parameters: number of trainable values.
        macs: multiply-accumulates of one window.
        study: digest of the study's config, data and split.
        parity: by runtime, how far what is released is from the network as trained.
        licence: under which it may be used; None if the study does not say.
        guard: knows the images that this release was made for.
        files: SHA-256 of every file of the release by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    role: str
    variant: Variant = Variant.ONNX
    runtimes: tuple[Runtime, ...] = (Runtime.ONNXRUNTIME,)
    weights: str = WEIGHTS
    task: Task
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    codes: dict[str, CodeOptions] = {}
    preprocess: PreprocessOptions
    postprocess: PostprocessOptions = PostprocessOptions()
    activation: Activation = Activation.SOFTMAX
    temperature: Temperature
    conformal: Conformal | None = None
    operating_points: dict[str, float] = {}
    model: dict[str, Any]
    parameters: int
    macs: int
    study: dict[str, str]
    parity: dict[str, Parity] = {}
    licence: str | None = None
    guard: Guard | None = None
    files: dict[str, str]

    @model_validator(mode="after")
    def _values_fit(self) -> "Manifest":
        """Refuse what would give a wrong answer, or none, only once there is an image."""
        count, values = len(self.classes), self.label_values
        if not count or len(set(self.classes)) < count:
            raise ValueError(f"classes: {list(self.classes)} are not different names")
        if len(values) != count or len(set(values)) < count or not _are_labels(values):
            raise ValueError(
                f"label_values: {list(values)} are not {count} different values from 0 to "
                f"{LARGEST_LABEL}"
            )
        is_map, excluding = self.task is Task.SEGMENTATION, self.activation is Activation.SOFTMAX
        if is_map and (values[0] == 0) is not excluding:
            raise ValueError(f"label_values: a {self.activation} with {values[0]} for the first")
        divisors = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        if len(divisors) not in (1, count) or not all(0 < t < math.inf for t in divisors):
            raise ValueError(f"temperature: {divisors} are not positive numbers, one a class")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "Manifest":
        """Refuse what is said of a class that there is not."""
        said: dict[str, Iterable[str]] = {
            "codes": self.codes,
            "operating_points": self.operating_points,
            "postprocess.largest_component": self.postprocess.largest_component,
            "postprocess.fill_holes": self.postprocess.fill_holes,
        }
        thresholds = self.conformal.thresholds if self.conformal else {}
        if self.task is Task.SEGMENTATION or self.has_findings:
            said["conformal.thresholds"] = thresholds
        elif len(thresholds) > 1:
            raise ValueError("conformal.thresholds: a set of classes has one")
        for where, names in said.items():
            if unknown := sorted(set(names) - set(self.classes)):
                raise ValueError(f"{where}: {', '.join(unknown)} is none of the classes")
        return self

    @property
    def has_findings(self) -> bool:
        """Whether an image may be of several classes, or of none, each a question of its own."""
        return self.task is Task.CLASSIFICATION and self.activation is Activation.SIGMOID

    @property
    def structures(self) -> tuple[str, ...]:
        """What a mask is of, in the order of ``classes``."""
        return self.classes if self.activation is Activation.SIGMOID else self.classes[1:]

    def masks(self, mask: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the boolean mask of each of ``structures`` in a mask that was answered."""
        if self.activation is Activation.SIGMOID:
            yield from (channel > 0 for channel in mask)
        else:
            yield from (mask == value for value in self.label_values[1:])


def read_manifest(folder: Path) -> Manifest:
    """Read a release's manifest and verify every file it names.

    Raises:
        ReleaseError: no manifest, another version, a file that is missing or differs from its
            digest, or a name that leaves the folder.
    """
    try:
        return _read(folder)
    except (OSError, RuntimeError) as error:  # a link that leads to itself is a RuntimeError
        why = getattr(error, "strerror", None) or error
        raise ReleaseError(f"{folder}: cannot be read ({why}); copy the release again") from None


def _read(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise ReleaseError(f"{folder}: {_why_not(folder)}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("version")
        if found != VERSION:
            raise ReleaseError(
                f"{path}: format version {found}, this medkd reads {VERSION}; export it again"
            )
        manifest = Manifest.model_validate(values)
    except (ValueError, AttributeError, RecursionError, ValidationError) as error:
        raise ReleaseError(f"{path}: damaged ({error}); export the release again") from None
    for name, digest in manifest.files.items():
        _verify(folder, name, digest)
    if undigested := sorted(set(weights_files(manifest.weights)) - manifest.files.keys()):
        raise ReleaseError(
            f"{folder}: its manifest has no digest of {', '.join(undigested)}; export it again"
        )
    return manifest


def _are_labels(values: Iterable[int]) -> bool:
    return all(0 <= value <= LARGEST_LABEL for value in values)


def weights_files(weights: str) -> tuple[str, ...]:
    """Return the files that a runtime reads when it opens one.

    Example:
        >>> weights_files("model.onnx"), weights_files("model.xml")
        (('model.onnx',), ('model.xml', 'model.bin'))
    """
    if not weights.endswith(".xml"):
        return (weights,)
    return weights, weights.removesuffix(".xml") + ".bin"


def _why_not(folder: Path) -> str:
    """Say why a folder is no release."""
    try:
        result = VariantResult.model_validate_json((folder / PARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"not a release (no {MANIFEST}); medkd export makes one"
    return f"not released: {'; '.join(result.refused.values())}"


def _verify(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if "\0" in name:
        raise ReleaseError(f"{folder / MANIFEST}: {name!r} is no name of a file; refused")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ReleaseError(f"{folder / MANIFEST}: {name!r} leaves the release folder; refused")
    if not path.is_file():
        raise ReleaseError(f"{path}: the manifest names it, but it is missing; copy it again")
    if sha256(path) != digest:
        raise ReleaseError(f"{path}: differs from the SHA-256 in {MANIFEST}; copy it again")
