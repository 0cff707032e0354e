"""Run: train the networks of a study: teacher folds, baseline, distilled student."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medkd.config import Config, DistillOptions, StudentOptions, TeacherOptions, TrainOptions
from medkd.data import phi
from medkd.data.augment import augmentation
from medkd.data.check import Cohort, check, labelled
from medkd.data.loaders import PatchDataset, Sample, batches, load_samples
from medkd.data.splits import split_folds
from medkd.distill.features import tapped
from medkd.distill.objective import Objective
from medkd.distill.soft_targets import SoftTarget
from medkd.errors import ConfigError
from medkd.metrics.classification import auroc
from medkd.metrics.overlap import dice
from medkd.models.checkpoint import CHECKPOINT_FILE, Checkpoint, save_checkpoint
from medkd.models.cost import macs, parameters
from medkd.models.zoo import build_model
from medkd.predict.infer import predict_log_probabilities
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
from medkd.train.calibrate import fit_on_cases
from medkd.train.loop import Fit, fit
from medkd.train.soften import open_soft_targets
from medkd.train.steps import DistillStep, SupervisedStep
from medkd.types import Case, Task


def check_models(config: Config, *, task: Task | None = None) -> None:
    """Build every network, call every loss, and push an empty window through.

    Raises:
        ConfigError: the config is for another ``task``, a name or option is unknown, a network
            cannot take the window, or a loss cannot take an option's value.
    """
    if task and config.task is not task:
        raise ConfigError(f"task: {config.task}; run pipelines/{config.task}.py")
    _check_losses(config)
    augmentation(config.augment, config.preprocess, soft=True)
    window = torch.zeros(1, config.preprocess.channels, *config.preprocess.window)
    roles = {"teacher": config.teacher} if config.teacher.model else {}
    for key, role in (roles | {"student": config.student}).items():
        assert role.model is not None
        try:
            network = _build(config, role).eval()
            with torch.no_grad():
                logits = network(window)
        except ConfigError as error:
            raise ConfigError(f"{key}.model: {error}") from None
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(
                f"{key}.model: {role.model.name} cannot take preprocess.window "
                f"{list(config.preprocess.window)} ({error}); choose a window that every level of "
                f"the network can halve, or correct the model's options"
            ) from None
        space = () if config.task is Task.CLASSIFICATION else config.preprocess.window
        if logits.shape != (1, len(config.classes), *space):
            raise ConfigError(
                f"{key}.model: {role.model.name} turns preprocess.window "
                f"{list(config.preprocess.window)} into {list(logits.shape[2:])}; choose a window "
                f"that every level of the network can halve"
            )
        batch, processes = _schedule(config, key).batch, distributed.world_size()
        if batch % processes:
            raise ConfigError(
                f"{key}.train.batch: {batch} cannot be shared evenly by {processes} processes"
            )
        try:
            SupervisedStep(config, _schedule(config, key)).adapt(network)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from None


def _check_losses(config: Config) -> None:
    space = () if config.task is Task.CLASSIFICATION else config.preprocess.window
    logits = torch.zeros(1, len(config.classes), *space)
    batch = {
        "soft": logits.softmax(dim=1),
        "label": torch.zeros(1, *space, dtype=torch.int64),
        "valid": torch.ones(1, *space, dtype=torch.bool),
    }
    try:
        objective = Objective(config.distill)
        student, teacher = _layers(config, objective)
        objective.adapt(student, teacher)
        with torch.no_grad():
            objective(logits, batch, 0, student=student, teacher=teacher)
    except (ConfigError, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"distill.losses: {error}") from None


def _layers(config: Config, objective: Objective) -> tuple[dict[str, torch.Tensor], ...]:
    """Return the features that losses compare, of untrained networks and an empty window."""
    window = torch.zeros(1, config.preprocess.channels, *config.preprocess.window)
    found = []
    for role, layers in (
        (config.student, objective.student_layers),
        (config.teacher, objective.teacher_layers),
    ):
        if not layers or role.model is None:  # one that was brought along is seen when it is opened
            found.append(dict.fromkeys(layers, window))
            continue
        with torch.no_grad(), tapped(model := _build(config, role).eval(), layers) as features:
            model(window)
        found.append(features)
    return tuple(found)


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
    parts = split_folds(train, folds=folds, seed=study.config.study.seed)
    tracker.params({"folds": folds})
    with _told(cohort, tracker):
        for fold, part in enumerate(parts):
            left_out = {case.id for case in part} if folds > 1 else set()
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
    role = config.teacher if name.startswith("teacher") else config.student
    assert role.model is not None
    assert role.train is not None
    inputs: dict[str, Any] = {
        "model": role.model.model_dump(),
        "train": role.train.model_dump(exclude={"workers"}),
        "preprocess": config.preprocess.model_dump(),
        "augment": config.augment.model_dump(),
        "labels": config.data.labels,
        "seed": config.study.seed,
        "training cases": cohort.digest_of(case.id for case in cases),
        "validation cases": cohort.digest_of(cohort.split.validation),
    }
    if name == "student":
        inputs["distill"] = config.distill.model_dump(exclude={"store"})
        if config.distill.online:
            inputs["teacher"] = [study.stage_digest(stage) for stage in stages(config)]
            inputs["who is asked"] = teachers_of(study, cohort)
        else:
            inputs["soft targets"] = study.stage_digest("soft_targets")
    return inputs


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

    return study.stage(name, inputs=stage_inputs(study, cohort, name, cases), make=make)


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
    step = SupervisedStep(config, _schedule(config, name))
    job = _Job(config, name, step, samples, validation, folder, tracker)
    return replace(job, **_lesson(study, cohort, samples)) if name == "student" else job


def _lesson(study: Study, cohort: Cohort, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the step that distils, and the samples with what the teacher says of them."""
    config = study.config
    if not config.distill.online:
        targets = open_soft_targets(study, cohort)
        softened = [replace(s, soft=_within_reach(targets[s.case.id])) for s in samples]
        return {"step": DistillStep(config), "samples": softened}
    teacher = online_teacher(study, layers=Objective(config.distill).teacher_layers)
    asked = teachers_of(study, cohort)
    step = DistillStep(config, teacher=teacher)
    return {"step": step, "samples": [replace(s, asked=asked[s.case.id]) for s in samples]}


def teachers_of(study: Study, cohort: Cohort) -> dict[str, tuple[float, ...]]:
    """Return the weight of each teacher for each training case; 0 for one that may not speak."""
    return {
        case_id: weights_among(study.config, by)
        for case_id, by in softened_by(study, cohort).items()
    }


def _within_reach(target: SoftTarget) -> SoftTarget | np.ndarray:
    """Leave maps on disk, of which patches are cut; a class's few numbers come into memory."""
    return target[...] if len(target.shape) == 1 else target


@dataclass(frozen=True)
class _Job:
    """One network to train."""

    config: Config
    name: str
    step: SupervisedStep
    samples: Sequence[Sample]
    validation: Sequence[Sample]
    folder: Path
    tracker: Tracker

    @property
    def role(self) -> TeacherOptions | StudentOptions:
        return self.config.teacher if self.name.startswith("teacher") else self.config.student

    def save(self, model: nn.Module, figures: dict[str, float], patients: Sequence[str]) -> None:
        """Calibrate the network and write its checkpoint."""
        temperature = _temperature(model.eval(), self.validation, self.config)
        steps = _schedule(self.config, self.name).steps
        self.tracker.metrics({"calibration/temperature": temperature}, step=steps)
        assert self.role.model is not None
        checkpoint = Checkpoint(
            model=self.role.model.model_dump(),
            task=self.config.task,
            in_channels=self.config.preprocess.channels,
            classes=self.config.classes,
            spatial_dims=self.config.dims,
            temperature=temperature,
            figures=figures,
            patients=tuple(patients),
            preprocess=self.config.preprocess.model_dump(mode="json"),
        )
        save_checkpoint(self.folder, model, checkpoint)

    def fit(self) -> tuple[nn.Module, dict[str, float]]:
        """Train; return the best network and its validation figures."""
        options = _schedule(self.config, self.name)
        # baseline and student start from the same weights and see the same patches
        is_teacher = self.role is self.config.teacher
        seed = derive_seed(self.config.study.seed, self.name if is_teacher else "student")
        torch.manual_seed(seed)
        model = _build(self.config, self.role)
        self.step.adapt(model)
        self.tracker.params(_parameters(self.config, self.role, model, len(self.samples)))
        if self.name == "student":
            self.tracker.params(_distillation(self.config.distill))
        dataset = PatchDataset(self.samples, self.config, options=options)
        share = distributed.share(options.batch)
        fitting = Fit(
            name=self.name,
            step=self.step,
            batches=lambda first: batches(dataset, options=options, first_step=first, share=share),
            validate=lambda network: validation_figures(network, self.validation, self.config),
            folder=self.folder,
            tracker=self.tracker,
            seed=seed,
            epoch_steps=max(1, len(self.samples) // options.batch),
            cases=lambda step: [dataset.case_of(i) for i in dataset.indices_of(step)],
        )
        return model, fit(model, options, fitting)


def validation_figures(
    model: nn.Module, samples: Sequence[Sample], config: Config
) -> dict[str, float]:
    """Score a network on validation cases; the first figure is the one that is maximised.

    Segmentation: Dice by structure on the network's grid, averaged over structures, then cases.
    Classification: AUROC. Both: NLL, averaged over voxels, then cases.
    """
    log_p = [predict_log_probabilities(model, sample.image, config) for sample in samples]
    nll = [_nll(p, sample.label) for p, sample in zip(log_p, samples, strict=True)]
    if config.task is Task.CLASSIFICATION:
        probabilities = np.exp(np.stack(log_p))
        labels = np.array([int(sample.label[0]) for sample in samples])
        return {"auroc": auroc(probabilities, labels), "nll": float(np.mean(nll))}
    per_class = {
        name: float(
            np.mean(
                [
                    dice(p.argmax(axis=0) == index, sample.label[0] == index)
                    for p, sample in zip(log_p, samples, strict=True)
                ]
            )
        )
        for index, name in enumerate(config.classes)
        if index > 0
    }
    mean = float(np.mean(list(per_class.values())))
    by_class = {f"dice/{name}": value for name, value in per_class.items()}
    return {"dice": mean, "nll": float(np.mean(nll)), **by_class}


def _temperature(model: nn.Module, samples: Sequence[Sample], config: Config) -> float:
    said = (predict_log_probabilities(model, sample.image, config) for sample in samples)
    return fit_on_cases(said, samples, config)


def _nll(log_p: np.ndarray, label: np.ndarray) -> float:
    index = label.astype(np.int64).reshape(1, *log_p.shape[1:])
    return float(-np.take_along_axis(log_p, index, axis=0).mean())


def _schedule(config: Config, name: str) -> TrainOptions:
    role = config.teacher if name.startswith("teacher") else config.student
    assert role.train is not None
    return role.train


def _build(config: Config, role: TeacherOptions | StudentOptions) -> nn.Module:
    assert role.model is not None
    return build_model(
        role.model,
        task=config.task,
        in_channels=config.preprocess.channels,
        classes=len(config.classes),
        spatial_dims=config.dims,
    )


def _parameters(
    config: Config, role: TeacherOptions | StudentOptions, model: nn.Module, cases: int
) -> dict[str, Any]:
    """Few, flat parameters: what one would sort and compare runs by."""
    window = (1, config.preprocess.channels, *config.preprocess.window)
    assert role.model is not None
    assert role.train is not None
    values = {
        "model": role.model.name,
        **{f"model.{key}": value for key, value in role.model.options.items()},
        **role.train.model_dump(exclude={"workers"}),
        "parameters": parameters(model),
        "macs": macs(model, window),
        "training_cases": cases,
        "window": "x".join(map(str, config.preprocess.window)),
        "seed": config.study.seed,
    }
    return {key: value for key, value in values.items() if value is not None}


def _distillation(options: DistillOptions) -> dict[str, Any]:
    values = options.model_dump(exclude={"losses", "store"})
    for loss in options.losses:
        values |= {f"{loss.label}.{key}": value for key, value in loss if key != "name"}
    return {f"distill.{key}": value for key, value in values.items() if value is not None}
