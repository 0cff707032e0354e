"""Soften: the teacher writes its soft targets, once a case, out of fold where there are folds."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import special

from medkd.config import Config, expand
from medkd.data import phi
from medkd.data.check import Cohort, labelled
from medkd.data.loaders import load_samples
from medkd.data.splits import split_folds
from medkd.distill.soft_targets import SCHEMA, SoftTarget, SoftTargetStore
from medkd.distill.teacher import FrozenTeacher
from medkd.models.checkpoint import load_checkpoint
from medkd.predict.infer import predict_log_probabilities
from medkd.progress import progress
from medkd.study import Study, digest, write_atomic
from medkd.types import Case

STORE = "targets.zarr"


def soften(study: Study, cohort: Cohort) -> Path:
    """Write the soft targets of all training cases; return their folder.

    A killed run goes on with the first case that has none.
    """
    config = study.config
    inputs = {
        "teacher": [study.stage_digest(member) for member in _members(config)],
        "flips": config.teacher.flip_axes,
        "store": config.distill.store,
        "training cases": cohort.digest_of(cohort.split.train),
        "preprocess": config.preprocess.model_dump(),
    }

    def make(folder: Path) -> None:
        store = SoftTargetStore(_location(study) or str(folder / STORE))
        for member, part in _parts(study, cohort):
            _soften_part(study, cohort, store, frozen_teacher([study.path(member)]), part)
        # the identity of this stage, wherever the store lies
        write_atomic(folder / "keys.json", json.dumps(sorted(_keys(study, cohort).values())))

    return study.stage("soft_targets", inputs=inputs, make=make)


def open_soft_targets(study: Study, cohort: Cohort) -> dict[str, SoftTarget]:
    """Open the soft targets of all training cases, by case id.

    Raises:
        StudyError: one is missing, or was made from something else.
    """
    store = SoftTargetStore(_location(study) or str(study.path("soft_targets") / STORE))
    names = _names(study, cohort)
    return {
        case_id: store.read(names[case_id], key=key)
        for case_id, key in _keys(study, cohort).items()
    }


def verify(study: Study, cohort: Cohort, *, cases: int) -> float:
    """Compute the soft targets of some cases anew; return the largest difference of a probability.

    Raises:
        StudyError: a soft target is missing or was made from something else.
    """
    drawn = set(random.sample(cohort.split.train, min(cases, len(cohort.split.train))))
    targets, largest = open_soft_targets(study, cohort), 0.0
    for member, part in _parts(study, cohort):
        teacher = frozen_teacher([study.path(member)])
        for sample in load_samples([case for case in part if case.id in drawn], study.config):
            stored = special.log_softmax(targets[sample.case.id][...], axis=0)  # as it is read
            said = _said(teacher, sample.image, study.config)
            largest = max(largest, float(np.abs(np.exp(stored) - np.exp(said)).max()))
    return largest


def frozen_teacher(members: Sequence[Path]) -> FrozenTeacher:
    """Load checkpoints as one calibrated ensemble, on the GPU where there is one."""
    loaded = [load_checkpoint(member) for member in members]
    teacher = FrozenTeacher(
        [model for model, _ in loaded], temperatures=[info.temperature for _, info in loaded]
    )
    return teacher.to("cuda" if torch.cuda.is_available() else "cpu")


def _location(study: Study) -> str | None:
    """Where the config puts the store; None for the stage's own folder."""
    store = study.config.distill.store
    if store is None or "://" in store:
        return store
    return str(expand(store, key="distill.store"))


def _members(config: Config) -> list[str]:
    return [f"teacher/fold-{fold}" for fold in range(config.teacher.folds)]


def _parts(study: Study, cohort: Cohort) -> list[tuple[str, list[Case]]]:
    """Return each fold of the teacher with the cases it softens: those it never saw, if any."""
    train, config = cohort.of(cohort.split.train), study.config
    parts = split_folds(labelled(train), folds=config.teacher.folds, seed=config.study.seed)
    home = {case.patient: number for number, part in enumerate(parts) for case in part}
    for case in train:
        if case.label is None:  # the fold that never saw the patient; any, if none has
            parts[home.setdefault(case.patient, len(home) % len(parts))].append(case)
    return list(zip(_members(config), parts, strict=True))


def _names(study: Study, cohort: Cohort) -> dict[str, str]:
    """By case id; a name tells nothing about the patient."""
    salt = phi.study_salt(study.folder)
    return {case_id: phi.key(case_id, salt=salt) for case_id in cohort.split.train}


def _keys(study: Study, cohort: Cohort) -> dict[str, str]:
    """Identity of all that each soft target is made from, by case id."""
    config = study.config
    common = [SCHEMA, config.teacher.flip_axes, config.preprocess.model_dump()]
    return {
        case.id: digest(*common, study.stage_digest(member), cohort.digests[case.id])
        for member, part in _parts(study, cohort)
        for case in part
    }


def _soften_part(
    study: Study,
    cohort: Cohort,
    store: SoftTargetStore,
    teacher: FrozenTeacher,
    part: Sequence[Case],
) -> None:
    names, keys = _names(study, cohort), _keys(study, cohort)
    todo = [case for case in part if not store.holds(names[case.id], key=keys[case.id])]
    samples = load_samples(todo, study.config)
    for sample in progress(samples, "soft targets", total=len(part), done=len(part) - len(todo)):
        said = _said(teacher, sample.image, study.config)
        store.write(names[sample.case.id], said, key=keys[sample.case.id])


def _said(teacher: FrozenTeacher, image: np.ndarray, config: Config) -> np.ndarray:
    flips = config.teacher.flip_axes
    return predict_log_probabilities(teacher, image, config, flip_axes=flips)
