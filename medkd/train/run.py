"""Run: train the networks of a study: teacher folds, baseline, distilled student."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from medkd.config import Config
from medkd.data import phi
from medkd.data.check import Cohort, check, labelled
from medkd.data.loaders import PatchDataset, batches
from medkd.data.samples import Sample, load_samples
from medkd.distill.fake_quantisation import fake_quantised
from medkd.distill.soft_targets import within_reach
from medkd.models.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from medkd.models.cost import macs, parameters
from medkd.models.zoo import build_for
from medkd.options import DistillOptions, TrainOptions
from medkd.predict.teachers import (
    online_teacher,
    softened_by,
    stages,
    weights_among,
)
from medkd.seeding import derive_seed
from medkd.study import Study
from medkd.track.tracker import NullTracker, Prefixed, Tracker
from medkd.train import distributed
from medkd.train.admit import admit
from medkd.train.loop import Fit, fit
from medkd.train.preview import draw_preview, is_shown
from medkd.train.remarks import made_or_kept
from medkd.train.soften import open_soft_targets, soft_targets_digest
from medkd.train.steps import DistillStep, SupervisedStep
from medkd.train.validate import fitted_temperature, validation_figures
from medkd.types import Case, Role, Task, temperatures

STUDENTS = ("baseline", "student")
QUANTISED = "quantised/"  # before the stage whose network is trained on as if in int8
RETRAINING_RATE = 0.5  # of the learning rate: the network knows its task already
WHERE_MADE = {"workers", "augment_on"}  # of batches: they are the same but for rounding
_log = logging.getLogger(__name__)


def train_teacher(study: Study, cohort: Cohort, *, tracker: Tracker) -> list[Path]:
    """Examine the external teachers, then train the folds; return the folders of all.

    With one fold the teacher learns from all training cases and its soft targets are in fold.
    With more, fold i never sees the patients of part i, and gives them their soft targets.
    """
    folders = admit(study, cohort)
    if study.config.teacher.model is None:
        return folders
    train = labelled(cohort.of(cohort.split.train))
    folds = study.config.teacher.folds
    tracker.params({"folds": folds})
    with _told(cohort, tracker):
        for fold, part in enumerate(cohort.folds(study.config)):
            left_out = set(part) if folds > 1 else set()
            cases = [case for case in train if case.id not in left_out]
            told = tracker if folds == 1 else Prefixed(tracker, f"fold-{fold}")
            folders.append(_train(study, cohort, f"teacher/fold-{fold}", cases, told))
    return folders


def train_baseline(study: Study, cohort: Cohort, *, tracker: Tracker) -> Path:
    """Train the student's network on labels alone; return its checkpoint folder."""
    with _told(cohort, tracker):
        return _train(study, cohort, "baseline", labelled(cohort.of(cohort.split.train)), tracker)


def distill(study: Study, cohort: Cohort, *, tracker: Tracker) -> Path:
    """Train the student on labels and soft targets; return its checkpoint folder."""
    with _told(cohort, tracker):
        return _train(study, cohort, "student", cohort.of(cohort.split.train), tracker)


def retrain(study: Study, cohort: Cohort, role: Role) -> Path:
    """Train the student (or baseline) on as if in int8; return its checkpoint folder.

    It learns from what it learned from before, for ``export.retrain_steps``.
    """
    train = cohort.of(cohort.split.train)
    cases = train if role is Role.STUDENT else labelled(train)
    study = replace(study, config=_retraining(study.config))
    return _train(study, cohort, f"{QUANTISED}{role}", cases, NullTracker())


def _retraining(config: Config) -> Config:
    student, steps = config.student, config.export.retrain_steps
    train = student.train.model_copy(
        update={
            "steps": steps,
            "learning_rate": RETRAINING_RATE * student.train.learning_rate,
            "warmup_steps": steps // 10,
            "validate_every": max(1, steps // 4),
            "patience": None,
            "minutes": None,
            "deep_supervision": (),
        }
    )
    return config.model_copy(
        update={
            "student": student.model_copy(update={"train": train}),
            "distill": config.distill.model_copy(update={"warmup_steps": 0}),
        }
    )


@contextmanager
def _told(cohort: Cohort, tracker: Tracker) -> Iterator[None]:
    """Say first which data a role sees, and at the end that it is trained."""
    for part in ("train", "validation"):
        digest = cohort.digest_of(getattr(cohort.split, part))
        tracker.dataset(cohort.name, digest=digest, context=part)
    yield
    tracker.status("FINISHED")


def stage_inputs(study: Study, cohort: Cohort, name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Return all that the weights of stage ``name`` depend on."""
    config = study.config
    model, train = config.trained_in(name)
    inputs: dict[str, Any] = {
        "model": model.model_dump(),
        "train": _that_shape_weights(train),
        "preprocess": config.preprocess.model_dump(),
        "augment": config.augment.model_dump(),
        "labels": config.data.labels,
        "seed": config.study.seed,
        "training cases": cohort.digest_of(case.id for case in cases),
        "validation cases": cohort.digest_of(cohort.split.validation),
    }
    if config.data.ignore is not None:
        inputs["ignore"] = config.data.ignore
    if config.data.overlapping:
        inputs["overlapping"] = config.data.includes
    role = name.removeprefix(QUANTISED)
    if role != name:
        inputs["weights"] = study.stage_digest(role)
    if role in STUDENTS and config.student.temperature != "one":
        inputs["temperature"] = config.student.temperature
    if role == "student":
        inputs["distill"] = config.distill.model_dump(exclude={"store"})
        if config.distill.online:
            inputs["teacher"] = [study.stage_digest(stage) for stage in stages(config)]
            inputs["who is asked"] = teachers_of(study, cohort)
        else:
            inputs["soft targets"] = soft_targets_digest(study)
    return inputs


def _that_shape_weights(train: TrainOptions) -> dict[str, Any]:
    """Return options of a training; without class weights as they were when there were none."""
    unused = set() if train.class_weights else {"class_weights"}
    return train.model_dump(exclude={*WHERE_MADE, *unused})


def _train(
    study: Study, cohort: Cohort, name: str, cases: Sequence[Case], tracker: Tracker
) -> Path:
    validation = cohort.of(cohort.split.validation)
    salt = phi.study_salt(study.folder)
    patients = sorted({phi.key(case.patient, salt=salt, kind="patient") for case in cases})

    def make(folder: Path) -> None:
        if not (folder / CHECKPOINT_FILE).exists():  # written last: a kill may have come after it
            samples = load_samples(validation, study.config)
            job = _job(study, cohort, name, cases, samples, folder, tracker)
            with distributed.shared(_announcement(study, name, cases, folder)):
                model, figures = job.fit()
            job.save(model, figures, patients)
        # what served to resume, or was being written when a run was killed
        for leftover in [*folder.glob("*.pt"), *folder.glob("*.partial")]:
            leftover.unlink()

    return made_or_kept(study, name, inputs=stage_inputs(study, cohort, name, cases), make=make)


def _announcement(study: Study, name: str, cases: Sequence[Case], folder: Path) -> dict[str, Any]:
    """What other processes need to know to take part in a job."""
    return {
        "config": study.config.model_dump(mode="json"),
        "config_path": str(study.config_path),
        "name": name,
        "cases": [case.id for case in cases],
        "folder": str(folder.resolve()),
    }


def take_part(job: Mapping[str, Any]) -> None:
    """Train with the process that runs the study, on this one's share of every batch."""
    study = Study(Config.model_validate(job["config"]), Path(job["config_path"]))
    cohort = check(study)
    cases, folder = cohort.of(job["cases"]), Path(job["folder"])
    _job(study, cohort, job["name"], cases, [], folder, NullTracker()).fit()


def _job(
    study: Study,
    cohort: Cohort,
    name: str,
    cases: Sequence[Case],
    validation: Sequence[Sample],
    folder: Path,
    tracker: Tracker,
) -> "_Job":
    samples, config = load_samples(cases, study.config), study.config
    step = SupervisedStep(config, config.trained_in(name)[1])
    job = _Job(config, name, step, samples, validation, folder, tracker)
    role = name.removeprefix(QUANTISED)
    if role != name:
        job = replace(job, origin=study.path(role))
    return replace(job, **_lesson(study, cohort, samples)) if role == "student" else job


def _lesson(study: Study, cohort: Cohort, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the step that distils, and the samples with what the teacher says of them."""
    config = study.config
    if not config.distill.online:
        targets = within_reach(open_soft_targets(study, cohort))
        softened = [replace(s, soft=targets[s.case.id]) for s in samples]
        return {"step": DistillStep(config), "samples": softened}
    asked = teachers_of(study, cohort)
    step = DistillStep(config, teacher=online_teacher(study))
    return {"step": step, "samples": [replace(s, asked=asked[s.case.id]) for s in samples]}


def teachers_of(study: Study, cohort: Cohort) -> dict[str, tuple[float, ...]]:
    """Return the weight of each teacher for each training case; 0 for one that may not speak."""
    return {
        case_id: weights_among(study.config, by)
        for case_id, by in softened_by(study, cohort).items()
    }


@dataclass(frozen=True)
class _Job:
    """One network to train; one that has an origin starts there, and trains as if in int8."""

    config: Config
    name: str
    step: SupervisedStep
    samples: Sequence[Sample]
    validation: Sequence[Sample]
    folder: Path
    tracker: Tracker
    origin: Path | None = None

    def save(self, model: nn.Module, figures: dict[str, float], patients: Sequence[str]) -> None:
        """Calibrate the network and write its checkpoint."""
        described, train = self.config.trained_in(self.name)
        is_student = self.name.removeprefix(QUANTISED) in STUDENTS
        by_class = is_student and self.config.student.temperature == "by_class"
        temperature = fitted_temperature(
            model.eval(), self.validation, self.config, by_class=by_class
        )
        told = temperatures(temperature, self.config.classes, "calibration/temperature")
        told |= {f"best/{name}": value for name, value in figures.items()}
        self.tracker.metrics(told, step=train.steps)
        checkpoint = Checkpoint(
            model=described.model_dump(),
            task=self.config.task,
            in_channels=self.config.preprocess.channels,
            classes=self.config.classes,
            spatial_dims=self.config.dims,
            temperature=temperature,
            figures=figures,
            patients=tuple(patients),
            preprocess=self.config.preprocess.model_dump(mode="json"),
            activation=self.config.activation,
        )
        save_checkpoint(self.folder, model, checkpoint)

    def fit(self) -> tuple[nn.Module, dict[str, float]]:
        """Train; return the best network and its validation figures."""
        described, options = self.config.trained_in(self.name)
        # baseline and student start from the same weights and see the same patches
        place = "student" if self.name == "baseline" else self.name
        seed = derive_seed(self.config.study.seed, place)
        torch.manual_seed(seed)
        origin = load_checkpoint(self.origin)[0] if self.origin else None
        model = origin or build_for(self.config, described)
        self.step.adapt(model)
        self.tracker.params(_parameters(self.config, self.name, model, len(self.samples)))
        if self.name == "student":
            self.tracker.params(_distillation(self.config.distill))
        dataset = PatchDataset(self.samples, self.config, options=options)
        making = partial(
            batches,
            dataset,
            options=options,
            share=distributed.share(options.batch),
            workers=distributed.workers(options.workers),
        )
        fitting = Fit(
            name=self.name,
            step=self.step,
            batches=lambda first, device: making(first_step=first, device=device),
            validate=lambda network: validation_figures(network, self.validation, self.config),
            folder=self.folder,
            tracker=self.tracker,
            seed=seed,
            epoch_steps=max(1, len(self.samples) // options.batch),
            cases=lambda step: [dataset.case_of(i) for i in dataset.indices_of(step)],
            show=self._show,
        )
        with fake_quantised(model) if self.origin else nullcontext():
            return model, fit(model, options, fitting)

    def _show(self, network: nn.Module, step: int) -> None:
        """Track a picture of what the network answers; one that fails costs no training."""
        train = self.config.trained_in(self.name)[1]
        is_drawn = self.config.task is Task.SEGMENTATION and not self.origin
        if not is_drawn or not is_shown(step, train):
            return
        path = self.config.folder / "previews" / self.name / f"{step:07d}.png"
        try:
            draw_preview(path, network, self.validation, self.config)
        except Exception as error:  # noqa: BLE001 - whatever it is, training is worth more
            _log.warning("%s: not drawn: %s: %s", path, type(error).__name__, error)
            return
        self.tracker.image(path.relative_to(self.config.folder), name="validation", step=step)


def _parameters(config: Config, name: str, model: nn.Module, cases: int) -> dict[str, Any]:
    """Few, flat parameters: what one would sort and compare runs by."""
    window = (1, config.preprocess.channels, *config.preprocess.window)
    described, train = config.trained_in(name)
    values = {
        "model": described.name,
        **{f"model.{key}": value for key, value in described.options.items()},
        **_telling(train, exclude=WHERE_MADE),
        "parameters": parameters(model),
        "macs": macs(model, window),
        "training_cases": cases,
        "window": "x".join(map(str, config.preprocess.window)),
        "seed": config.study.seed,
    }
    return {key: value for key, value in values.items() if value is not None}


def _distillation(options: DistillOptions) -> dict[str, Any]:
    values = _telling(options, exclude={"losses", "store"})
    for loss in options.losses:
        said = _telling(loss, exclude={"name"})
        values |= {f"{loss.label}.{key}": value for key, value in said.items()}
    return {f"distill.{key}": value for key, value in values.items()}


def _telling(options: BaseModel, *, exclude: set[str]) -> dict[str, Any]:
    """Return options but for what is off: switches at their default, and nought that nobody set."""
    defaults = {name: field.default for name, field in type(options).model_fields.items()}
    return {
        name: value
        for name, value in options
        if name not in exclude and value is not None
        if value != defaults.get(name) or (value and not isinstance(value, bool))
    }
