"""Release: a folder a device can run: weights, and a manifest with the SHA-256 of every file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medkd.config import Config, shareable
from medkd.data.check import Cohort
from medkd.device.manifest import MANIFEST, Manifest, sha256
from medkd.device.predictor import WEIGHTS
from medkd.distill.teacher import FrozenTeacher
from medkd.export.guard import guard_of
from medkd.export.onnx import export_onnx, parity
from medkd.models.cost import macs, parameters
from medkd.predict.teachers import Member, load_member, stages, weights_among
from medkd.progress import console
from medkd.study import Study, digest, write_atomic
from medkd.types import Role


def export(study: Study, cohort: Cohort, *, role: Role) -> Path | None:
    """Write ``releases/<role>``; return the folder, or None for a teacher without a network.

    Raises:
        StudyError: the role has not been trained yet.
        ReleaseError: the exported network answers differently from the trained one.
    """
    if role is Role.TEACHER and not study.config.teacher.is_portable:
        return None
    members = stages(study.config) if role is Role.TEACHER else [str(role)]
    inputs: dict[str, object] = {
        "weights": [study.stage_digest(member) for member in members],
        "labels": study.config.data.labels,
        "preprocess": study.config.preprocess.model_dump(),
        "images": [cohort.images[i] for i in (*cohort.split.train, *cohort.split.validation)],
    }
    if role is Role.TEACHER and len(members) > 1:
        inputs["weight of each"] = weights_among(study.config, members)

    def make(folder: Path) -> None:
        _write(study, cohort, role, members, folder)

    return study.stage(f"releases/{role}", inputs=inputs, make=make)


def _write(study: Study, cohort: Cohort, role: Role, members: Sequence[str], folder: Path) -> None:
    config = study.config
    loaded = [load_member(study, member) for member in members]
    # temperature 1 inside the graph: a single network's temperature is the manifest's business
    single = len(loaded) == 1
    network = FrozenTeacher(
        [member.network.cpu() for member in loaded if member.network],
        temperatures=[1.0 if single else member.temperature for member in loaded],
        weights=None if single else weights_among(config, members),
    )
    console.print(f"export {role}")
    write_release(
        folder,
        network,
        config,
        role=role,
        model=loaded[0].model | ({} if single else {"members": len(loaded)}),
        said={
            "temperature": loaded[0].temperature if single else 1.0,
            "study": _provenance(study, cohort, loaded),
            "guard": guard_of(study, cohort),
        },
    )


def write_release(
    folder: Path,
    network: nn.Module,
    config: Config,
    *,
    role: str,
    model: Mapping[str, object],
    said: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and manifest of a network into ``folder``.

    Args:
        folder: the release's.
        network: in evaluation mode; it puts out logits.
        config: of the study.
        role: which of the three models it is.
        model: its name and options.
        said: what else the manifest says; it is calibrated by nothing unless told.

    Raises:
        ReleaseError: the exported network answers differently from the one given.
    """
    shape = (config.preprocess.channels, *config.preprocess.window)
    export_onnx(network, folder / WEIGHTS, shape=shape)
    manifest = Manifest(
        role=role,
        task=config.task,
        classes=config.classes,
        label_values=config.label_values,
        preprocess=config.preprocess,
        model=dict(model),
        parameters=parameters(network),
        macs=macs(network, (1, *shape)),
        parity=parity(network, folder / WEIGHTS, shape=shape),
        files={WEIGHTS: sha256(folder / WEIGHTS)},
        **{"temperature": 1.0, "study": {}, **(said or {})},
    )
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1))


def _provenance(study: Study, cohort: Cohort, trained: Sequence[Member]) -> dict[str, str]:
    """What the release was made from, as digests; no name and no id."""
    split = cohort.split
    return {
        "name": study.config.study.name,
        "config": digest(shareable(study.config)),
        "train": cohort.digest_of(split.train),
        "validation": cohort.digest_of(split.validation),
        "test": cohort.digest_of(split.test),
        "training_patients": digest([member.patients for member in trained]),
    }
