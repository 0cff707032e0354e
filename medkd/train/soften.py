"""Soften: the teacher writes its soft targets, once a case, out of fold where there are folds."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medkd import __version__
from medkd.config import expand
from medkd.data.activation import probabilities
from medkd.data.check import Cohort
from medkd.data.samples import load_samples
from medkd.distill.soft_targets import SCHEMA, SoftTarget, SoftTargetStore
from medkd.errors import ConfigError, DataError
from medkd.predict.teachers import Teachers, softened_by, stages, weights_among
from medkd.progress import progress
from medkd.study import Study, digest, sha256, write_atomic
from medkd.train.remarks import made_or_kept

STAGE = "soft_targets"
STORE, KEYS = "targets.zarr", "keys.json"


def soften(study: Study, cohort: Cohort) -> Path | None:
    """Write the soft targets of all training cases; return their folder.

    A killed run goes on with the first case that has none. A teacher that is asked while the
    student trains (``distill.online``) writes none.
    """
    config = study.config
    if config.distill.online:
        return None
    inputs = {
        "teacher": _identity(study, stages(config)),
        "flips": config.teacher.flip_axes,
        "calibrated": config.distill.calibrated,
        "store": config.distill.store,
        "training cases": cohort.digest_of(cohort.split.train),
        "preprocess": config.preprocess.model_dump(),
        "classes": config.classes,
        "made by": [SCHEMA, __version__],
    }
    if config.data.overlapping:
        inputs["overlapping"] = True

    def make(folder: Path) -> None:
        store = SoftTargetStore(_location(study) or str(folder / STORE))
        _soften_all(study, cohort, store, cohort.split.train)
        write_atomic(folder / KEYS, json.dumps(sorted(_keys(study, cohort).values())))

    return made_or_kept(study, STAGE, inputs=inputs, make=make)


def soft_targets_digest(study: Study) -> str:
    """Return the identity of a study's soft targets, wherever they lie: that of their keys.

    Raises:
        StudyError: there are none yet.
    """
    study.stage_digest(STAGE)
    return sha256(study.path(STAGE) / KEYS)


def soften_part(study: Study, cohort: Cohort, *, part: int, parts: int) -> None:
    """Write the soft targets of every ``parts``-th training case, from the ``part``-th on.

    Processes that each write another part, here or on other machines, need no word from each other.
    ``soften`` then finds what is there and ends the stage.

    Raises:
        ConfigError: they would not lie where all of them see them.
        StudyError: there is no teacher yet.
    """
    config, location = study.config, _location(study)
    if location is None or config.distill.online:
        raise ConfigError(
            "distill.store: parts are written to a store that all processes see; set it to a "
            "folder or an address, and distill.online to false"
        )
    _soften_all(study, cohort, SoftTargetStore(location), cohort.split.train[part - 1 :: parts])


def open_soft_targets(study: Study, cohort: Cohort) -> dict[str, SoftTarget]:
    """Open the soft targets of all training cases, by case id.

    Raises:
        StudyError: one is missing, or was made from something else.
    """
    store = SoftTargetStore(_location(study) or str(study.path(STAGE) / STORE))
    return {case_id: store.read(key) for case_id, key in _keys(study, cohort).items()}


def verify(study: Study, cohort: Cohort, *, cases: int) -> float:
    """Compute the soft targets of some cases anew; return the largest difference of a probability.

    Raises:
        ConfigError: the teacher is asked in every step, and stores none.
        StudyError: a soft target is missing or was made from something else.
    """
    if study.config.distill.online:
        raise ConfigError("distill.online: no soft targets are stored that could be verified")
    drawn = random.sample(cohort.split.train, min(cases, len(cohort.split.train)))
    targets, largest = open_soft_targets(study, cohort), 0.0
    teachers, by = _teachers(study), softened_by(study, cohort)
    for sample in load_samples(cohort.of(drawn), study.config):
        read, said = targets[sample.case.id][...], teachers.logits(sample, by=by[sample.case.id])
        p, q = (probabilities(logits, study.config.activation) for logits in (read, said))
        largest = max(largest, float(np.abs(p - q).max()))
    return largest


def _teachers(study: Study) -> Teachers:
    return Teachers(study, calibrated=study.config.distill.calibrated)


def _location(study: Study) -> str | None:
    """Where the config puts the store; None for the stage's own folder."""
    store = study.config.distill.store
    if store is None or "://" in store:
        return store
    return str(expand(store, key="distill.store"))


def _keys(study: Study, cohort: Cohort) -> dict[str, str]:
    """Identity of all that each soft target is made from, by case id."""
    config = study.config
    common = [SCHEMA, __version__, config.teacher.flip_axes, config.distill.calibrated]
    common += [list(config.classes), config.preprocess.model_dump()]
    common += ["overlapping"] if config.data.overlapping else []
    told_by = softened_by(study, cohort)
    teachers = {by: _identity(study, by) for by in set(told_by.values())}
    return {
        case_id: digest(*common, teachers[by], cohort.images[case_id])
        for case_id, by in told_by.items()
    }


def _identity(study: Study, asked: Sequence[str]) -> list[object]:
    """What teachers are, and how much each counts."""
    weights = weights_among(study.config, asked) if len(asked) > 1 else ()
    return [[study.stage_digest(stage) for stage in asked], *weights]


def _soften_all(study: Study, cohort: Cohort, store: SoftTargetStore, cases: Sequence[str]) -> None:
    keys = _keys(study, cohort)
    teachers, by = _teachers(study), softened_by(study, cohort)
    train = cohort.of(cases)
    todo = [case for case in train if not store.holds(keys[case.id])]
    samples = load_samples(todo, study.config)
    done = len(train) - len(todo)
    for sample in progress(samples, "soft targets", total=len(train), done=done):
        said = teachers.logits(sample, by=by[sample.case.id])
        if not np.isfinite(said).all():
            raise DataError(
                f"{sample.case.id}: {', '.join(by[sample.case.id])} answers with values that are "
                f"no numbers; look at the image, and at the teacher's own files"
            )
        store.write(keys[sample.case.id], said, study.config.activation)
