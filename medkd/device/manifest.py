"""Manifest: what a release says of itself; a release that differs from it is refused."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd.device.guard import Guard
from medkd.errors import ReleaseError
from medkd.options import PreprocessOptions
from medkd.study import sha256
from medkd.types import Task, Temperature

MANIFEST = "manifest.json"
VERSION = 1


class Manifest(BaseModel):
    """Everything a device needs to know beside the weights.

    Attributes:
        version: of this format.
        role: which of the study's three models this is.
        task: what it answers.
        classes: names in the order of the network's channels.
        label_values: the value that stands for each class in a mask.
        preprocess: from the image's grid to the network's; window and overlap.
        temperature: the network's output is divided by it before the softmax; where there is one a
            class, its log-probabilities are.
        model: name and options of the network.
        parameters: number of trainable values.
        macs: multiply-accumulates of one window.
        study: digest of the study's config, data and split.
        parity: how far the exported network is from the trained one.
        guard: knows the images that this release was made for.
        files: SHA-256 of every file of the release by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    role: str
    task: Task
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    preprocess: PreprocessOptions
    temperature: Temperature
    model: dict[str, Any]
    parameters: int
    macs: int
    study: dict[str, str]
    parity: dict[str, float]
    guard: Guard | None = None
    files: dict[str, str]


def read_manifest(folder: Path) -> Manifest:
    """Read a release's manifest and verify every file it names.

    Raises:
        ReleaseError: no manifest, another version, a file that is missing or differs from its
            digest, or a name that leaves the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ReleaseError(f"{folder}: not a release (no {MANIFEST}); medkd export makes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("version")
        if found != VERSION:
            raise ReleaseError(
                f"{path}: format version {found}, this medkd reads {VERSION}; export it again"
            )
        manifest = Manifest.model_validate(values)
    except (ValueError, AttributeError, ValidationError) as error:
        raise ReleaseError(f"{path}: damaged ({error}); export the release again") from None
    for name, digest in manifest.files.items():
        _verify(folder, name, digest)
    return manifest


def _verify(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ReleaseError(f"{folder / MANIFEST}: {name!r} leaves the release folder; refused")
    if not path.is_file():
        raise ReleaseError(f"{path}: the manifest names it, but it is missing; copy it again")
    if sha256(path) != digest:
        raise ReleaseError(f"{path}: differs from the SHA-256 in {MANIFEST}; copy it again")
