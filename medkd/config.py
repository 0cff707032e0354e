"""Config: a whole study; ``load`` reads it from a YAML file and checks it.

A config holds values only: no import paths, no expressions. Unknown keys are refused with a
suggestion. ``budgets`` names alternative values ("quick" for two CPU cores, "full" for a GPU) that
are merged over the rest before it is checked. ``medkd.options`` explains every option.
"""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from medkd.errors import ConfigError
from medkd.options import (
    COSTS,
    LARGEST_LABEL,
    AugmentOptions,
    DataOptions,
    DistillOptions,
    EvaluateOptions,
    ExportOptions,
    GateOptions,
    LatencyOptions,
    NamedOptions,
    Options,
    PostprocessOptions,
    PreprocessOptions,
    StudentOptions,
    StudyOptions,
    TeacherOptions,
    TrackOptions,
    TrainOptions,
)
from medkd.registry import did_you_mean
from medkd.types import NO_FINDING, SEPARATOR, UNLABELLED, Activation, Task, Variant


class Config(Options):
    """A whole study."""

    study: StudyOptions
    task: Task = Task.SEGMENTATION
    card: str | None = None  # the data card, relative to the config
    statement: str | None = None  # what only people know; CONFIG.report.yaml if left out
    data: DataOptions
    preprocess: PreprocessOptions
    postprocess: PostprocessOptions = PostprocessOptions()
    augment: AugmentOptions = AugmentOptions()
    teacher: TeacherOptions
    student: StudentOptions
    distill: DistillOptions
    export: ExportOptions = ExportOptions()
    evaluate: EvaluateOptions = EvaluateOptions()
    latency: LatencyOptions = LatencyOptions()
    track: TrackOptions = TrackOptions()
    gates: tuple[GateOptions, ...] = ()

    @field_validator("data")
    @classmethod
    def _labels_are_distinct(cls, data: DataOptions) -> DataOptions:
        if len(set(data.labels.values())) != len(data.labels):
            raise ValueError("two labels share one value")
        return data

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> "Config":
        values = sorted(self.data.labels.values())
        is_class = self.task is Task.CLASSIFICATION and not self.data.overlapping
        if is_class and values != list(range(len(values))):
            raise ValueError(f"data.labels: class indices must be 0, 1, 2, …; got {values}")
        if is_class and len(values) < 2:
            raise ValueError("data.labels: a classifier tells two classes or more apart")
        if self.task is Task.SEGMENTATION and values[:1] <= [0]:
            raise ValueError("data.labels: 0 is the background and is not listed")
        if self.data.ignore is not None and self.task is Task.CLASSIFICATION:
            remedy = "leave its label empty" if is_class else "data.annotated names those judged"
            raise ValueError(f"data.ignore: a class is of the whole image; {remedy}")
        if self.data.ignore in values:
            raise ValueError(f"data.ignore: {self.data.ignore} is one of data.labels")
        return self

    @model_validator(mode="after")
    def _structures_are_annotated(self) -> "Config":
        column, data = self.data.annotated, self.data
        if column is None:
            return self
        if self.task is Task.CLASSIFICATION and not data.overlapping:
            raise ValueError("data.annotated: a class is of the whole image; leave its label empty")
        if data.source == "phantom" or data.source.endswith(".npz"):
            raise ValueError(f"data.annotated: the source {data.source} has no such column")
        others = {"case", "image", "label", data.case, data.patient, data.series, data.split.column}
        if column in others | set(self.preprocess.modalities):
            raise ValueError(f"data.annotated: {column!r} is another column; rename it")
        if split := sorted(name for name in data.labels if ";" in name):
            raise ValueError(f"data.annotated: {split} hold the `;` that separates names")
        return self

    @model_validator(mode="after")
    def _weights_are_of_classes(self) -> "Config":
        for role in ("teacher", "student"):
            train = getattr(self, role).train
            if train and (unknown := sorted(train.class_weights.keys() - set(self.classes))):
                raise ValueError(
                    f"{role}.train.class_weights: {unknown} are no classes; known: "
                    f"{', '.join(self.classes)}"
                )
        return self

    @model_validator(mode="after")
    def _images_are_augmented_by_workers(self) -> "Config":
        for role in ("teacher", "student"):
            train = getattr(self, role).train
            if train and train.augment_on == "device" and self.dims == 2:
                raise ValueError(
                    f"{role}.train.augment_on: images are augmented on the CPU alone, by workers"
                )
        return self

    @model_validator(mode="after")
    def _structures_may_overlap(self) -> "Config":
        data = self.data
        if not data.overlapping:
            if data.includes:
                raise ValueError("data.includes: is for structures that overlap; set overlapping")
            return self
        if list(data.labels.values()) != sorted(data.labels.values()):
            raise ValueError(
                "data.labels: with overlapping, name the structures by rising value; that is the "
                "order of the channels in labels and masks"
            )
        if self.task is Task.CLASSIFICATION:
            return self
        if data.ignore == 1:
            raise ValueError("data.ignore: with overlapping, 1 says that a voxel is of a structure")
        if self.preprocess.reading.overlap != "refuse":
            raise ValueError("preprocess.reading.overlap: with data.overlapping voxels are shared")
        if self.dims == 2 and Variant.BUNDLE in self.export.variants:
            raise ValueError("export.variants: a bundle writes pictures, which hold one structure")
        return self

    @model_validator(mode="after")
    def _findings_can_be_listed(self) -> "Config":
        if not self.has_findings:
            return self
        names, values = list(self.data.labels), list(self.data.labels.values())
        if values != list(range(1, len(values) + 1)):
            raise ValueError(
                f"data.labels: with overlapping, findings have the values 1, 2, 3, …, none of them "
                f"0: an image without any has none; got {values}"
            )
        if strange := [n for n in names if SEPARATOR in n or n.lower() in NO_FINDING]:
            raise ValueError(
                f"data.labels: {strange}: in the datalist `{SEPARATOR}` separates findings, and "
                f"{' or '.join(NO_FINDING)} says that there is none; name them otherwise"
            )
        if self.data.includes:
            raise ValueError(
                "data.includes: is for the regions of label maps; name each finding of an image in "
                "its label"
            )
        return self

    @model_validator(mode="after")
    def _structures_include_others(self) -> "Config":
        labels, includes = self.data.labels, self.data.includes
        if unknown := sorted({*includes, *chain(*includes.values())} - labels.keys()):
            known = ", ".join(labels)
            raise ValueError(f"data.includes: {unknown} are not in data.labels; known: {known}")
        for name in includes:
            if name in within(name, includes):
                raise ValueError(f"data.includes: {name} would lie within itself")
        return self

    @model_validator(mode="after")
    def _codes_are_of_labels(self) -> "Config":
        if unknown := sorted(self.data.codes.keys() - self.data.labels.keys()):
            known = ", ".join(self.data.labels)
            raise ValueError(f"data.codes: {unknown} are not in data.labels; known: {known}")
        return self

    @model_validator(mode="after")
    def _rules_are_of_structures(self) -> "Config":
        rules = self.postprocess
        named = {*rules.largest_component, *rules.fill_holes}
        if named and self.task is Task.CLASSIFICATION:
            raise ValueError("postprocess: its rules are for masks; a classifier gives none")
        if unknown := sorted(named - self.data.labels.keys()):
            known = ", ".join(self.data.labels)
            raise ValueError(f"postprocess: {unknown} are not in data.labels; known: {known}")
        return self

    @model_validator(mode="after")
    def _modalities_are_columns_of_files(self) -> "Config":
        names, data = self.preprocess.modalities, self.data
        taken = sorted({"case", "image", "label", data.case, data.patient} & set(names))
        if taken:
            raise ValueError(f"preprocess.modalities: {taken} are other columns; rename them")
        if names and self.dims == 2 and Variant.BUNDLE in self.export.variants:
            raise ValueError(
                "export.variants: a bundle reads pictures from one file, no modalities"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit_a_mask(self) -> "Config":
        high = [v for v in self.data.labels.values() if not 0 <= v <= LARGEST_LABEL]
        if len(self.classes) > UNLABELLED:
            raise ValueError(f"data.labels: at most {UNLABELLED} classes, background among them")
        if high:
            raise ValueError(f"data.labels: values lie between 0 and {LARGEST_LABEL}, not {high}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _a_classifier_resizes(cls, values: Any) -> Any:  # noqa: ANN401
        given = values.get("preprocess") if isinstance(values, dict) else None
        if not isinstance(given, dict) or "spacing_mm" in given:
            return values
        if values.get("task") != Task.CLASSIFICATION:
            return values
        return values | {"preprocess": {"size": given.get("window")} | given}

    @model_validator(mode="after")
    def _a_class_is_of_the_whole_image(self) -> "Config":
        if self.task is Task.CLASSIFICATION and self.preprocess.size != self.preprocess.window:
            raise ValueError(
                "preprocess.size: a classifier looks at whole images; leave out size and "
                f"spacing_mm, or make size the same as window, {list(self.preprocess.window)}"
            )
        return self

    @model_validator(mode="after")
    def _heads_answer_for_voxels(self) -> "Config":
        trained = {"teacher": self.teacher.train, "student": self.student.train}
        deep = [key for key, train in trained.items() if train and train.deep_supervision]
        if self.task is Task.CLASSIFICATION and deep:
            raise ValueError(
                f"{deep[0]}.train.deep_supervision: its heads answer for each voxel, and a "
                f"classifier answers for the image; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _flips_are_of_the_window(self) -> "Config":
        strange = sorted(set(self.teacher.flip_axes) - set(range(self.dims)))
        if strange:
            raise ValueError(
                f"teacher.flip_axes: {strange} are no axes of preprocess.window, which has "
                f"{self.dims}"
            )
        return self

    @model_validator(mode="after")
    def _an_online_teacher_is_a_network(self) -> "Config":
        kinds = [external.kind for external in self.teacher.external]
        if self.distill.online and "probabilities" in kinds:
            raise ValueError("distill.online: saved probabilities cannot be asked in every step")
        teachers = len(kinds) + (self.teacher.model is not None)
        if teachers > 1 and any(loss.layers for loss in self.distill.losses):
            raise ValueError(
                "distill.losses: layers are those of one teacher; leave out teacher.external or "
                "teacher.model, or the layers"
            )
        if self.task is Task.CLASSIFICATION:
            for loss in self.distill.losses:
                if loss.layers and (loss.boundary or loss.confidence):
                    raise ValueError(
                        f"distill.losses: {loss.label}: boundary and confidence weigh voxels, by "
                        f"what the teacher says of each, and a classifier says nothing of any"
                    )
        adapted = [loss.name for loss in self.distill.losses if loss.has_adapter]
        if self.teacher.model and self.teacher.folds > 1 and adapted:
            raise ValueError(
                f"distill.losses: {adapted[0]} compares channel by channel, and those of one fold "
                f"are not those of another; set teacher.folds to 1, or use attention, affinity or "
                f"region_affinity"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_names_structures(self) -> "Config":
        known = self.structures
        named = [("subgroups", each.structure) for each in self.evaluate.subgroups]
        for key, structure in (*named, *(("lesions", name) for name in self.evaluate.lesions)):
            if structure is not None and structure not in known:
                raise ValueError(
                    f"evaluate.{key}: no structure {structure!r}; known: "
                    f"{', '.join(known) or 'none, the task is classification'}"
                )
        return self

    @model_validator(mode="after")
    def _gates_name_figures(self) -> "Config":
        known = sorted(COSTS | self.figures)
        for gate in self.gates:
            if gate.figure not in known:
                raise ValueError(
                    f"gates: no figure {gate.figure!r}; {did_you_mean(gate.figure, known)}"
                    f"known: {', '.join(known)}"
                )
            if (gate.each or gate.any) and f"{gate.figure}/{self.classes[-1]}" not in known:
                raise ValueError(f"gates: {gate.figure} is not measured of each class")
            if gate.over and gate.figure not in COSTS:
                raise ValueError(
                    f"gates: {gate.figure} over {gate.over}: a ratio has no interval here; judge "
                    f"the difference with minus. Ratios are for {', '.join(sorted(COSTS))}"
                )
        return self

    def trained_in(self, stage: str) -> tuple[NamedOptions, TrainOptions]:
        """Return the network that is trained in a stage (teacher/fold-0, …), and how."""
        role = self.teacher if stage.startswith("teacher") else self.student
        assert role.model is not None
        assert role.train is not None
        return role.model, role.train

    @property
    def series_columns(self) -> dict[str, str]:
        """The columns that name series: by modality, or the one of all by no name."""
        column, names = self.data.series, self.preprocess.modalities
        if column is None:
            return {}
        return {name: f"{column}_{name}" for name in names} if len(names) > 1 else {"": column}

    @property
    def figures(self) -> set[str]:
        """What is measured on the test cases, with an interval; ``dice/liver`` of one class."""
        calibration = {"ece", "adaptive_ece", "static_ece", "mce", "brier", "nll"}
        if self.task is Task.SEGMENTATION:
            whole, classes = {"dice", "nsd", "hd95_mm"}, self.structures
            single = whole | {"iou", "assd_mm", "sensitivity", "ppv"}
            counted = {
                f"lesion_{f}/{c}" for f in ("sensitivity", "ppv") for c in self.evaluate.lesions
            }
            calibration.add("boundary_ece")
            return calibration | whole | counted | {f"{f}/{c}" for f in single for c in classes}
        rates = {"sensitivity", "specificity"}
        if self.data.overlapping:
            single = {"auroc", "average_precision", "sensitivity"}
            of_each = single | {"specificity", "ece"}
            return calibration | single | {f"{f}/{c}" for f in of_each for c in self.classes}
        single = {"auroc", "balanced_accuracy", "average_precision", "sensitivity"}
        return calibration | single | {f"{f}/{c}" for f in rates for c in self.classes}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's channels; background first.

        Where structures may overlap, or findings occur together, there is none: what is no
        structure is nothing.
        """
        named = tuple(sorted(self.data.labels, key=self.data.labels.__getitem__))
        return ("background", *named) if self._has_background else named

    @property
    def structures(self) -> tuple[str, ...]:
        """What a segmentation is of, in the order of ``classes``; nothing of a classification."""
        if self.task is Task.CLASSIFICATION:
            return ()
        return self.classes[1:] if self._has_background else self.classes

    @property
    def questions(self) -> tuple[str, ...]:
        """What a label may leave open: structures, or findings; not classes that exclude others."""
        return self.classes if self.has_findings else self.structures

    @property
    def has_findings(self) -> bool:
        """Whether an image may be of several classes, or of none, each a question of its own."""
        return self.task is Task.CLASSIFICATION and self.data.overlapping

    @property
    def activation(self) -> Activation:
        """What makes probabilities of the networks' output."""
        return Activation.SIGMOID if self.data.overlapping else Activation.SOFTMAX

    @property
    def _has_background(self) -> bool:
        return self.task is Task.SEGMENTATION and not self.data.overlapping

    @property
    def folder(self) -> Path:
        """Where the study lies: ``root/name``."""
        return Path(self.study.root).expanduser() / self.study.name

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value that stands for each class in a label map, in the order of ``classes``."""
        values = tuple(sorted(self.data.labels.values()))
        return (0, *values) if self._has_background else values

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.preprocess.window)


def within(name: str, includes: Mapping[str, Sequence[str]]) -> set[str]:
    """Return all that lies in a structure, directly or in what it includes.

    Example:
        >>> sorted(within("whole", {"whole": ["core"], "core": ["necrosis"]}))
        ['core', 'necrosis']
    """
    found: set[str] = set()
    todo = [name]
    while todo:
        new = set(includes.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def load(path: Path, *, overrides: Sequence[str] = (), budget: str = "quick") -> Config:
    """Read a config, merge a budget and ``key.path=value`` overrides over it, and check it.

    Args:
        path: the YAML file.
        overrides: each ``key.path=value``, the value as YAML.
        budget: the entry of ``budgets`` to merge; a config without ``budgets`` has
            quick and full alike.

    Raises:
        ConfigError: all that is wrong, a line each.
    """
    tree = _read_yaml(path)
    tree = _merge(tree, _budget(tree.pop("budgets", {"quick": {}, "full": {}}), budget, path))
    for override in overrides:
        tree = _override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def dump(config: Config) -> str:
    """Write a resolved config as YAML; ``load`` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def shareable(config: Config) -> dict[str, Any]:
    """Return the options that shape a result, without saying where files lie on this machine."""
    values: dict[str, Any] = config.model_dump(mode="json")
    for key in ("root", "source", "table", "image", "label"):
        values["data"].pop(key)
    values["preprocess"]["reading"].pop("series")  # descriptions and UIDs may name patients
    values["study"].pop("root")
    values["distill"].pop("store")
    for external in values["teacher"]["external"]:
        external.pop("path")
        external.pop("patients")
    values.pop("card")
    values.pop("statement")
    return values


def expand(path: str, *, key: str, root: Path | None = None) -> Path:
    """Resolve a path of the config: ``~`` and a ``$VARIABLE`` first, then relative to ``root``.

    Raises:
        ConfigError: the variable is not set.
    """
    variable = re.match(r"\$\{?(\w+)", path)
    if variable and variable[1] not in os.environ:
        raise ConfigError(
            f"{key}: the environment variable {variable[1]} is not set; "
            f"export {variable[1]}=FOLDER, or give the folder with --set {key}=FOLDER"
        )
    expanded = Path(os.path.expandvars(path)).expanduser()
    return (root / expanded) if root else expanded


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; name the config, a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections (study, data, …)")
    return tree


def _budget(budgets: Any, name: str, path: Path) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(budgets, dict) or name not in budgets:
        known = ", ".join(budgets) if isinstance(budgets, dict) else "none"
        raise ConfigError(f"{path}: no budget {name!r}; known: {known}")
    return budgets[name] or {}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _override(tree: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Put the value of ``key.path=value`` in the place of what is there, a mapping as a whole.

    A number in the path counts the entries of a list from 0: ``distill.losses.0.weight=2``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key.path=value")
    try:
        return _replaced(tree, key.strip().split("."), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    except IndexError as error:
        raise ConfigError(f"--set {text}: {error}") from None


def _replaced(tree: Any, path: Sequence[str], value: Any) -> Any:  # noqa: ANN401
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, list):
        if not key.isdecimal() or int(key) >= len(tree):
            raise IndexError(f"no entry {key} in a list of {len(tree)}, counted from 0")
        entry = _replaced(tree[int(key)], rest, value)
        return [*tree[: int(key)], entry, *tree[int(key) + 1 :]]
    below = dict(tree) if isinstance(tree, Mapping) else {}
    return below | {key: _replaced(below.get(key), rest, value)}


def _explain(problem: Any) -> str:  # noqa: ANN401
    place = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key; {_suggest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{place}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message} (got {problem['input']!r})" if problem["loc"] else message


def _suggest(loc: Sequence[int | str]) -> str:
    section: type[BaseModel] | None = Config
    for part in loc[:-1]:
        field = section.model_fields.get(str(part)) if section else None
        section = _model_of(field.annotation) if field else section
    known = list(section.model_fields) if section else []
    return f"{did_you_mean(str(loc[-1]), known)}known: {', '.join(known)}"


def _model_of(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_of(a))), None)
