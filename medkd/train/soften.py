"""Soften: the teacher writes its soft targets, once a case, out of fold where there are folds."""

from collections.abc import Sequence
from pathlib import Path

import torch

from medkd.data import phi
from medkd.data.check import Cohort
from medkd.data.loaders import load_samples
from medkd.data.splits import split_folds
from medkd.distill.soft_targets import write_soft_target
from medkd.distill.teacher import FrozenTeacher
from medkd.models.checkpoint import load_checkpoint
from medkd.predict.infer import predict_log_probabilities
from medkd.progress import progress
from medkd.study import Study
from medkd.types import Case


def soften(study: Study, cohort: Cohort) -> Path:
    """Write the soft targets of all training cases; return their folder.

    A killed run goes on with the first case that has none.
    """
    config = study.config
    folds = config.teacher.folds
    members = [study.path(f"teacher/fold-{fold}") for fold in range(folds)]
    inputs = {
        "teacher": [study.stage_digest(f"teacher/fold-{fold}") for fold in range(folds)],
        "flips": config.teacher.flip_axes,
    }

    def make(folder: Path) -> None:
        train = cohort.of(cohort.split.train)
        parts = split_folds(train, folds=folds, seed=config.study.seed)
        for member, part in zip(members, parts, strict=True):
            _soften_part(study, frozen_teacher([member]), part, folder)

    return study.stage("soft_targets", inputs=inputs, make=make)


def frozen_teacher(members: Sequence[Path]) -> FrozenTeacher:
    """Load checkpoints as one calibrated ensemble, on the GPU where there is one."""
    loaded = [load_checkpoint(member) for member in members]
    teacher = FrozenTeacher(
        [model for model, _ in loaded], temperatures=[info.temperature for _, info in loaded]
    )
    return teacher.to("cuda" if torch.cuda.is_available() else "cpu")


def soft_target_path(folder: Path, case: Case, salt: bytes) -> Path:
    """Where the soft target of a case lies; the name tells nothing about the patient."""
    return folder / f"{phi.key(case.id, salt=salt)}.npy"


def _soften_part(study: Study, teacher: FrozenTeacher, part: Sequence[Case], folder: Path) -> None:
    salt = phi.study_salt(study.folder)
    todo = [case for case in part if not soft_target_path(folder, case, salt).exists()]
    samples = load_samples(todo, study.config)
    for sample in progress(samples, "soft targets", total=len(part), done=len(part) - len(todo)):
        log_p = predict_log_probabilities(
            teacher, sample.image, study.config, flip_axes=study.config.teacher.flip_axes
        )
        write_soft_target(soft_target_path(folder, sample.case, salt), log_p)
