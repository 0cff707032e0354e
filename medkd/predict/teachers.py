"""Teachers: all that a study learns from, and what they say of a case together.

A teacher is a fold that was trained here or something that was brought along; each has a stage in
the study's folder, ``teacher/fold-0`` or ``teacher/external-0``. A training case is softened by
the fold that never saw its patient and by all external teachers, but for those ``out_of_fold``
that have seen it; any other case by all.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medkd.config import Config, expand
from medkd.data.activation import logits_of, sigmoid
from medkd.data.check import Cohort
from medkd.data.preprocess import Grid, from_grid, to_grid
from medkd.data.probabilities import read_class_probabilities, read_probabilities, saved_files
from medkd.data.samples import Sample
from medkd.distill.teacher import FrozenTeacher, OnlineTeacher
from medkd.errors import DataError
from medkd.models.checkpoint import load_checkpoint
from medkd.models.external import Reordered, channel_matrix, open_external
from medkd.options import ExternalOptions
from medkd.predict.infer import predict_logits
from medkd.study import Study
from medkd.types import Activation, Case, Task, Temperature

SOURCE = "source.json"  # of an external teacher: what was found when it was admitted


def stages(config: Config) -> list[str]:
    """Return the stage of each teacher."""
    return [*fold_stages(config), *externals(config)]


def fold_stages(config: Config) -> list[str]:
    """Return the stages of the folds that are trained here."""
    return (
        [f"teacher/fold-{i}" for i in range(config.teacher.folds)] if config.teacher.model else []
    )


def externals(config: Config) -> dict[str, ExternalOptions]:
    """Return what was brought along, by stage."""
    return {f"teacher/external-{i}": each for i, each in enumerate(config.teacher.external)}


def is_portable(study: Study) -> bool:
    """Whether a study's teacher can be exported as one release: torch networks, or one ONNX file.

    An ONNX file can where its graph takes any number of windows, which is seen when it is admitted.
    """
    brought = externals(study.config)
    if all(options.kind in {"checkpoint", "bundle"} for options in brought.values()):
        return True
    kinds = [options.kind for options in brought.values()]
    if kinds != ["onnx"] or fold_stages(study.config):
        return False
    (stage,) = brought
    return admitted(study, stage).get("portable", False)


def parts(study: Study, cohort: Cohort) -> list[list[Case]]:
    """Return, for each fold, the training cases it softens: those whose patients it never saw."""
    train = cohort.of(cohort.split.train)
    dealt = [cohort.of(part) for part in cohort.folds(study.config)]
    home = {case.patient: number for number, part in enumerate(dealt) for case in part}
    for case in train:
        if case.label is None:  # the fold that never saw the patient; any, if none has
            dealt[home.setdefault(case.patient, len(home) % len(dealt))].append(case)
    return dealt


def softened_by(study: Study, cohort: Cohort) -> dict[str, tuple[str, ...]]:
    """Return the stages of the teachers of each training case, by case id.

    Raises:
        DataError: there are cases whose patients all teachers have seen and may not soften.
    """
    train = cohort.of(cohort.split.train)
    asked: dict[str, tuple[str, ...]] = {case.id: () for case in train}
    if folds := fold_stages(study.config):
        for stage, part in zip(folds, parts(study, cohort), strict=True):
            asked |= {case.id: (stage,) for case in part}
    for stage, options in externals(study.config).items():
        seen = set(admitted(study, stage)["seen"]) if options.out_of_fold else set()
        asked |= {case.id: (*asked[case.id], stage) for case in train if case.patient not in seen}
    if unasked := [f"{case.id} ({case.patient})" for case in train if not asked[case.id]]:
        raise DataError(
            f"teacher.external: out_of_fold: every teacher has seen the patient of "
            f"{', '.join(unasked[:5])}; bring one that has not, or let one soften in fold"
        )
    return asked


class SavedAnswers:
    """Probabilities that another system has written to files."""

    def __init__(self, path: Path, classes: Sequence[str], config: Config) -> None:
        self._path, self._classes, self._config = path, classes, config
        self._matrix = channel_matrix(classes, config)

    @cached_property
    def _by_case(self) -> dict[str, np.ndarray]:
        exclusive = self._config.activation is Activation.SOFTMAX
        return read_class_probabilities(self._path, classes=self._classes, exclusive=exclusive)

    def missing(self, cases: Iterable[Case]) -> list[str]:
        """Return what is wrong with the files of these cases, before any is read."""
        if self._config.task is Task.CLASSIFICATION:
            absent = [case.id for case in cases if case.id not in self._by_case]
            return [f"{self._path}: no row for case {case_id}; add it" for case_id in absent]
        problems: list[str] = []
        for case in cases:
            try:
                saved_files(self._path, case.id)
            except DataError as error:
                problems.append(str(error))
        return problems

    def __call__(self, case: Case, grid: Grid) -> np.ndarray:
        """Return ``[classes, *space]`` on the image's own grid, or ``[classes]``.

        Raises:
            DataError: the case has none, or they do not fit it.
        """
        if self._config.task is Task.CLASSIFICATION:
            given = self._by_case[case.id]
        else:
            given = read_probabilities(
                self._path,
                case.id,
                grid,
                channels=len(self._classes),
                exclusive=self._config.activation is Activation.SOFTMAX,
            )
        return np.tensordot(self._matrix, given, axes=1).astype(np.float32)


@dataclass(frozen=True)
class Member:
    """One network of a study, or answers that were saved.

    Attributes:
        temperature: fitted on validation.
        network: in evaluation mode.
        saved: where there is no network.
        model: what it is, with ``name``.
        patients: keyed hashes of the patients it was trained on; None if unknown.
    """

    temperature: Temperature
    network: nn.Module | None = None
    saved: SavedAnswers | None = None
    model: dict[str, object] = field(default_factory=dict)
    patients: tuple[str, ...] | None = None


Said = Callable[[Member, Sample, Config], np.ndarray]


class Teachers:
    """The teachers of a study, loaded when they are first asked."""

    def __init__(self, study: Study, *, calibrated: bool = True) -> None:
        """Load teachers that speak at their fitted temperature, or as they were trained."""
        self._study, self._config, self._calibrated = study, study.config, calibrated

    @cached_property
    def _members(self) -> dict[str, Member]:
        members = {stage: load_member(self._study, stage) for stage in stages(self._config)}
        if self._calibrated:
            return members
        return {stage: replace(member, temperature=1.0) for stage, member in members.items()}

    def logits(self, sample: Sample, *, by: Iterable[str] | None = None) -> np.ndarray:
        """Return the log of the mean probability ``[classes, *space]`` on the network's grid.

        Of structures that may overlap, it is the logarithm of its odds.

        Args:
            sample: the preprocessed case.
            by: the stages that are asked; all if None.
        """
        mean = self._mean(
            stages(self._config) if by is None else tuple(by), sample, on_network_grid
        )
        return logits_of(mean, self._config.activation)

    def probabilities(self, sample: Sample) -> np.ndarray:
        """Return the mean probability of all teachers on the image's own grid."""
        return self._mean(stages(self._config), sample, on_image_grid)

    def _mean(self, asked: Sequence[str], sample: Sample, said: Said) -> np.ndarray:
        weights = np.array(weights_among(self._config, asked))
        told = [said(self._members[stage], sample, self._config) for stage in asked]
        return np.tensordot(weights[weights > 0] / weights.sum(), np.stack(told), axes=1)


def online_teacher(study: Study) -> OnlineTeacher:
    """Return the teachers of a study, to be asked while the student trains."""
    loaded = [load_member(study, stage) for stage in stages(study.config)]
    return OnlineTeacher(
        [member.network for member in loaded if member.network is not None],
        temperatures=[
            member.temperature if study.config.distill.calibrated else 1.0 for member in loaded
        ],
        activation=study.config.activation,
        flip_axes=study.config.teacher.flip_axes,
    )


def weights_among(config: Config, asked: Sequence[str]) -> tuple[float, ...]:
    """Return the weight of each teacher of a config among those asked; 0 for the others.

    Folds are copies of one teacher: however many of them speak, together they have its weight.
    """
    teacher, folds = config.teacher, fold_stages(config)
    speaking = max(1, len(set(folds) & set(asked)))
    given = dict.fromkeys(folds, teacher.weight / speaking)
    given |= {stage: external.weight for stage, external in externals(config).items()}
    return tuple(given[stage] if stage in asked else 0.0 for stage in stages(config))


def on_network_grid(member: Member, sample: Sample, config: Config) -> np.ndarray:
    """Return what one teacher says of a case, ``[classes, *space]`` on the network's grid."""
    if member.network is not None:
        return _said(member, sample, config)
    saved = _saved(member, sample, config)
    return saved if saved.ndim == 1 else to_grid(saved, sample.grid, order=1)


def on_image_grid(member: Member, sample: Sample, config: Config) -> np.ndarray:
    """Return what one teacher says of a case, ``[classes, *space]`` on the image's own grid."""
    if member.network is None:
        return _saved(member, sample, config)
    said = _said(member, sample, config)
    return said if said.ndim == 1 else from_grid(said, sample.grid, order=1)


def looking_once(config: Config) -> Config:
    """Return a config by which a network is asked for its own view alone, and none is flipped."""
    teacher = config.teacher.model_copy(update={"flip_axes": ()})
    return config.model_copy(update={"teacher": teacher})


def _said(member: Member, sample: Sample, config: Config) -> np.ndarray:
    assert member.network is not None
    activation, flips = config.activation, config.teacher.flip_axes
    teacher = FrozenTeacher(
        [member.network], temperatures=[member.temperature], activation=activation
    )
    logits = predict_logits(teacher, sample.image, config, flip_axes=flips)
    return sigmoid(logits) if activation is Activation.SIGMOID else np.exp(logits)


def _saved(member: Member, sample: Sample, config: Config) -> np.ndarray:
    assert member.saved is not None
    given = member.saved(sample.case, sample.grid)
    return tempered(given, member.temperature, config.activation)


def load_member(study: Study, stage: str) -> Member:
    """Load what a stage made: a teacher or a student; on the GPU where there is one."""
    if stage in externals(study.config):
        found = admitted(study, stage)
        options = externals(study.config)[stage]
        member = open_member(study.config, options, classes=found["classes"])
        return replace(member, temperature=found["temperature"])
    network, said = load_checkpoint(study.path(stage))
    return Member(
        temperature=said.temperature,
        network=_placed(network),
        model=said.model,
        patients=said.patients,
    )


def open_member(config: Config, options: ExternalOptions, *, classes: Sequence[str]) -> Member:
    """Open an external teacher whose channels are these classes; its temperature is not fitted."""
    path, model = external_path(options), {"name": f"external {options.kind}"}
    if options.kind == "probabilities":
        saved = SavedAnswers(path, classes, config)
        return Member(1.0, saved=saved, model=dict(model))
    network = open_external(options, path, config).network
    matrix = channel_matrix(classes, config)
    if not np.array_equal(matrix, np.eye(len(config.classes))):
        network = Reordered(network, matrix, config.activation)
    return Member(1.0, network=_placed(network.eval()), model=dict(model))


def external_path(options: ExternalOptions) -> Path:
    """Return where an external teacher lies; relative to the working directory, as data.root is."""
    return expand(options.path, key="teacher.external.path")


def admitted(study: Study, stage: str) -> dict[str, Any]:
    """Return what was found when an external teacher was admitted."""
    return json.loads((study.path(stage) / SOURCE).read_text())


def frozen_teacher(members: Sequence[Path]) -> FrozenTeacher:
    """Load checkpoints as one calibrated ensemble, on the GPU where there is one."""
    loaded = [load_checkpoint(member) for member in members]
    teacher = FrozenTeacher(
        [model for model, _ in loaded], temperatures=[info.temperature for _, info in loaded]
    )
    return _placed(teacher)


def tempered(
    probabilities: np.ndarray,
    temperature: Temperature,
    activation: Activation = Activation.SOFTMAX,
) -> np.ndarray:
    """Return the probabilities, classes first, of their logits over the temperature."""
    if temperature == 1:
        return probabilities
    shape = (-1, *[1] * (probabilities.ndim - 1))
    if activation is Activation.SIGMOID:
        return sigmoid(logits_of(probabilities, activation) / np.reshape(temperature, shape))
    powered = probabilities ** (1 / np.asarray(temperature).reshape(shape))
    return powered / powered.sum(axis=0, keepdims=True)


def _placed(network: Any) -> Any:  # noqa: ANN401
    return network.to("cuda" if torch.cuda.is_available() else "cpu")
