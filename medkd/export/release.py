"""Release: a folder a device can run: weights, and a manifest with the SHA-256 of every file."""

from collections.abc import Sequence
from pathlib import Path

from medkd.config import shareable
from medkd.data.check import Cohort
from medkd.device.manifest import MANIFEST, Manifest, sha256
from medkd.device.predictor import WEIGHTS
from medkd.distill.teacher import FrozenTeacher
from medkd.export.onnx import export_onnx, parity
from medkd.models.checkpoint import Checkpoint, load_checkpoint
from medkd.models.cost import macs, parameters
from medkd.progress import console
from medkd.study import Study, digest, write_atomic
from medkd.types import Role


def export(study: Study, cohort: Cohort, *, role: Role) -> Path:
    """Write ``releases/<role>``; return the folder.

    Raises:
        StudyError: the role has not been trained yet.
        ReleaseError: the exported network answers differently from the trained one.
    """
    members = _members(study, role)
    inputs = {
        "weights": [study.stage_digest(member) for member in members],
        "labels": study.config.data.labels,
        "preprocess": study.config.preprocess.model_dump(),
    }

    def make(folder: Path) -> None:
        _write(study, cohort, role, members, folder)

    return study.stage(f"releases/{role}", inputs=inputs, make=make)


def _members(study: Study, role: Role) -> list[str]:
    if role is Role.TEACHER:
        return [f"teacher/fold-{fold}" for fold in range(study.config.teacher.folds)]
    return [str(role)]


def _write(study: Study, cohort: Cohort, role: Role, members: Sequence[str], folder: Path) -> None:
    config = study.config
    loaded = [load_checkpoint(study.path(member)) for member in members]
    # temperature 1 inside the graph: a single network's temperature is the manifest's business
    single = len(loaded) == 1
    temperatures = [1.0 if single else info.temperature for _, info in loaded]
    network = FrozenTeacher([model for model, _ in loaded], temperatures=temperatures)
    shape = (config.preprocess.channels, *config.preprocess.window)
    console.print(f"export {role}")
    export_onnx(network, folder / WEIGHTS, shape=shape)
    manifest = Manifest(
        role=role,
        task=config.task,
        classes=config.classes,
        label_values=config.label_values,
        preprocess=config.preprocess,
        temperature=loaded[0][1].temperature if single else 1.0,
        model=loaded[0][1].model | ({"members": len(loaded)} if not single else {}),
        parameters=parameters(network),
        macs=macs(network, (1, *shape)),
        study=_provenance(study, cohort, [info for _, info in loaded]),
        parity=parity(network, folder / WEIGHTS, shape=shape),
        files={WEIGHTS: sha256(folder / WEIGHTS)},
    )
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1))


def _provenance(study: Study, cohort: Cohort, trained: Sequence[Checkpoint]) -> dict[str, str]:
    """What the release was made from, as digests; no name and no id."""
    split = cohort.split
    return {
        "name": study.config.study.name,
        "config": digest(shareable(study.config)),
        "train": cohort.digest_of(split.train),
        "validation": cohort.digest_of(split.validation),
        "test": cohort.digest_of(split.test),
        "training_patients": digest([info.patients for info in trained]),
    }
