"""Every option of a study, its meaning and its default; ``load`` reads them from a YAML file.

A config holds values only: no import paths, no expressions. Unknown keys are refused with a
suggestion. ``budgets`` names alternative values ("quick" for two CPU cores, "full" for a GPU) that
are merged over the rest before it is checked.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medkd.errors import ConfigError
from medkd.registry import did_you_mean
from medkd.types import UNLABELLED, Role, Task

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
LARGEST_LABEL = 65535  # masks are written with 8 or 16 bits
# what an answer costs, and counts of bad ones: plain numbers without an interval
COSTS = {
    *("parameters", "macs", "size_mib", "network_ms", "peak_memory_mib", "cold_start_ms"),
    *("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "misses", "false_alarms", "failures"),
}
PathName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Options(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedOptions(BaseModel):
    """A registered thing by name, with options that its factory checks."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options beside ``name``."""
        return dict(self.model_extra or {})


class StudyOptions(Options):
    """Where a study lives and what makes it repeatable."""

    name: PathName
    root: str = "runs"  # the study's folder is root/name
    experiment: str | None = None  # MLflow's; studies that share one are compared side by side
    seed: int = 0


class SplitOptions(Options):
    """How patients are dealt to train, validation and test."""

    validation: Fraction = 0.15
    test: Fraction = 0.2
    seed: int = 0
    column: str | None = None  # a split of your own: a column of train, validation or test
    labelled: Count | None = None  # hide the labels of all other training cases: what is one worth?


class PhantomOptions(Options):
    """How many synthetic cases ``source: phantom`` makes, and how large."""

    cases: Count = 48
    cases_per_patient: Count = 2
    shape: tuple[Count, ...] = (48, 48, 28)
    spacing_mm: tuple[Positive, ...] = (1.0, 1.0, 2.0)


class DataOptions(Options):
    """Which cases a study is about."""

    root: str = "."  # paths below start here; a leading $VARIABLE or ~ is expanded
    source: str  # dataset.json (Decathlon), a CSV, a MedMNIST .npz, or "phantom"
    table: str | None = None  # a CSV that adds columns (patient, attributes) to the cases by id
    case: str = "case"  # the column of case ids, in the table and in a CSV source
    image: str | None = None  # images/{case}.png, for a CSV without a column `image`
    label: str | None = None  # masks/{case}.png, for a CSV without a column `label`
    patient: str = "patient"  # the column of patient ids
    labels: dict[str, int]  # class name: value in the label map (0 is background), or class index
    split: SplitOptions = SplitOptions()
    phantoms: PhantomOptions = PhantomOptions()


class PreprocessOptions(Options):
    """From the image's own grid to the network's; the device does exactly the same."""

    channels: Count = 1
    orientation: str | None = "RAS"  # axis codes; null for 2D
    spacing_mm: tuple[Positive, ...] | None = None  # null keeps each image's own
    size: tuple[Count, ...] | None = (
        None  # resize to this shape whatever the spacing; for classes the window
    )
    intensity: Literal["zscore", "percentile", "unit"] = "zscore"
    window: tuple[Count, ...]  # what the network sees at once, in training and in use
    overlap: Fraction = 0.25  # of neighbouring windows in use

    @model_validator(mode="after")
    def _one_grid(self) -> "PreprocessOptions":
        if self.size and self.spacing_mm:
            raise ValueError("give size or spacing_mm, not both")
        for name in ("spacing_mm", "size"):
            given = getattr(self, name)
            if given and len(given) != len(self.window):
                raise ValueError(f"{name} and window need the same number of axes")
        return self

    @field_validator("orientation")
    @classmethod
    def _axis_codes(cls, codes: str | None) -> str | None:
        pairs = sorted("".join(sorted(pair)) for pair in ("LR", "PA", "IS"))
        of_each = sorted(pair for code in codes or "" for pair in pairs if code in pair)
        if codes is not None and (len(codes) != 3 or of_each != pairs):
            raise ValueError("three axis codes, one of L or R, P or A, I or S: RAS, LPS, …")
        return codes


class AugmentOptions(Options):
    """Strength of each random change of a training patch; 0 turns it off."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.3  # of each change but the flips
    flip_axes: tuple[int, ...] = ()  # only where anatomy allows
    transpose: bool = False  # 2D: the eight symmetries of the square
    rotate_degrees: NotNegative = 0
    scale: Fraction = 0  # 0.1: from 90 % to 110 %
    translate: Fraction = 0  # of the window
    brightness: NotNegative = (
        0  # added: image standard deviations in 3D, shares of the patch's range in 2D
    )
    contrast: Fraction = 0
    gamma: Fraction = 0
    noise_std: NotNegative = 0
    blur_sigma: NotNegative = 0  # voxels


class TrainOptions(Options):
    """One training run. Student and baseline share theirs, so their comparison is fair."""

    steps: Count
    batch: Count = 2
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    clip_norm: Positive = 5.0
    ema: Fraction = 0.99  # decay of the averaged weights, which are the ones validated and kept
    validate_every: Count = 250  # steps; also how much work a kill can cost
    patience: Count | None = None  # validations without a better one, after which training ends
    minutes: Positive | None = None  # ends at the first validation after so long
    foreground: Fraction = 0.5  # share of patches centred on a labelled voxel
    deep_supervision: tuple[str, ...] = ()  # layers with a head while training, finest first
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 1  # processes that load and augment


class ExternalOptions(Options):
    """A teacher that was trained elsewhere."""

    kind: Literal["checkpoint", "bundle", "onnx", "probabilities"]
    path: str  # of the folder or file; a leading $VARIABLE or ~ is expanded
    weight: Positive = 1.0  # in the mean of several teachers' probabilities
    classes: tuple[str, ...] | None = None  # of its channels, in order; null: as in the study
    patients: str | tuple[str, ...] | None = None  # it learned from: ids, or a file of one a line
    trust_bundle: bool = False  # a MONAI bundle's config may run any code: yes only if you know it


class TeacherOptions(Options):
    """The large, accurate model: trained here (``model`` and ``train``), brought along, or both."""

    model: NamedOptions | None = None
    train: TrainOptions | None = None
    folds: Count = 1  # 1: trained on all training cases, so their soft targets are in fold
    weight: Positive = 1.0  # beside external ones
    external: tuple[ExternalOptions, ...] = ()
    flip_axes: tuple[int, ...] = ()  # average over these flips when soft targets are written

    @property
    def is_portable(self) -> bool:
        """Whether the teacher is networks alone, which can be exported as one release."""
        return all(external.kind in {"checkpoint", "bundle"} for external in self.external)

    @model_validator(mode="after")
    def _there_is_one(self) -> "TeacherOptions":
        if (self.model is None) != (self.train is None):
            raise ValueError("model and train belong together")
        if self.model is None and not self.external:
            raise ValueError("name a model to train, or bring a teacher with external")
        return self


class BudgetOptions(Options):
    """How fast the student has to answer on this machine; its width follows from it."""

    latency_ms: Positive  # file to file, for 9 of 10 images
    threads: Count = 2


class StudentOptions(Options):
    """The small model, trained twice: on labels alone (baseline) and distilled (student)."""

    model: NamedOptions
    train: TrainOptions
    budget: BudgetOptions | None = None  # the widest network of this kind within it


class LossOptions(NamedOptions):
    """One distillation loss; further options are the loss's own.

    With layers it compares features, without them the answers.
    """

    weight: NotNegative = 1.0
    student_layer: str | None = None  # as in the network's named_modules()
    teacher_layer: str | None = None
    boundary: NotNegative = 0  # added to the weight 1 of voxels where the teacher's classes meet
    confidence: NotNegative = 0  # power of the teacher's certainty, which weights each voxel
    class_weights: tuple[NotNegative, ...] | None = None  # in the order of classes
    standardise: bool = False  # logits to mean 0 and deviation 1 over the classes, as the teacher's

    @property
    def layers(self) -> tuple[str, str] | None:
        """The student's and the teacher's, if it compares features."""
        if self.student_layer is None or self.teacher_layer is None:
            return None
        return self.student_layer, self.teacher_layer

    @property
    def label(self) -> str:
        """What its terms are called by: its name, and the student's layer if it has one."""
        return self.name if self.layers is None else f"{self.name}/{self.student_layer}"

    @model_validator(mode="after")
    def _layers_are_a_pair(self) -> "LossOptions":
        if (self.student_layer is None) != (self.teacher_layer is None):
            raise ValueError("student_layer and teacher_layer belong together")
        of_voxels = self.boundary or self.confidence or self.class_weights or self.standardise
        if self.layers and of_voxels:
            raise ValueError(
                "boundary, confidence, class_weights and standardise are for answers, not layers"
            )
        return self


class DistillOptions(Options):
    """loss = supervised · (Dice + cross-entropy) + Σ weight · term."""

    supervised: NotNegative = 1.0
    online: bool = False  # ask the teacher in every step: for layers, and exact to the voxel
    losses: tuple[LossOptions, ...] = Field(min_length=1)
    store: str | None = None  # of soft targets: a folder, s3://…; null: in the study's folder
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # the terms' weights rise linearly from 0

    @field_validator("losses")
    @classmethod
    def _losses_are_distinct(cls, losses: tuple[LossOptions, ...]) -> tuple[LossOptions, ...]:
        if len({loss.label for loss in losses}) != len(losses):
            raise ValueError("the same loss twice; give it once")
        return losses

    @model_validator(mode="after")
    def _layers_need_the_teacher(self) -> "DistillOptions":
        if not self.online and (named := [loss.name for loss in self.losses if loss.layers]):
            raise ValueError(
                f"{', '.join(named)}: layers of the teacher are not in its stored soft targets; "
                f"set distill.online: true"
            )
        return self


class EvaluateOptions(Options):
    """How the test split is scored."""

    nsd_tolerance_mm: Positive = 1.0  # pixels in 2D
    dice_failure: Fraction = 0.5  # a case below this is counted as failed
    specificity: Annotated[float, Field(gt=0, lt=1)] = (
        0.95  # classification: sensitivity is read off at this specificity
    )
    bootstrap: Count = 2000
    overlays: Count = 3  # worst cases with a picture; best and median come on top


class LatencyOptions(Options):
    """How file-to-file latency is measured."""

    queries: Count = 64
    threads: Count = 2


class GateOptions(Options):
    """One acceptance criterion, fixed before the test split is opened.

    A figure with an interval must meet the bound with the interval's less favourable end.
    """

    figure: str  # a column of the headline table, or of one class: dice/anterior
    of: Role = Role.STUDENT
    minus: Role | None = None  # judge the paired difference to this role
    over: Role | None = None  # judge the ratio to this role
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "GateOptions":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a gate needs exactly one of at_least and at_most")
        if self.minus and self.over:
            raise ValueError("a gate takes minus or over, not both")
        return self

    def __str__(self) -> str:
        """Read the gate aloud.

        Example:
            >>> str(GateOptions(figure="dice", minus="teacher", at_least=-0.02))
            'student dice - teacher dice >= -0.02'
        """
        left = f"{self.of} {self.figure}"
        left += f" - {self.minus} {self.figure}" if self.minus else ""
        left += f" / {self.over} {self.figure}" if self.over else ""
        return left + (
            f" >= {self.at_least:g}" if self.at_least is not None else f" <= {self.at_most:g}"
        )


class Config(Options):
    """A whole study."""

    study: StudyOptions
    task: Task = Task.SEGMENTATION
    card: str | None = None  # the data card, relative to the config
    data: DataOptions
    preprocess: PreprocessOptions
    augment: AugmentOptions = AugmentOptions()
    teacher: TeacherOptions
    student: StudentOptions
    distill: DistillOptions
    evaluate: EvaluateOptions = EvaluateOptions()
    latency: LatencyOptions = LatencyOptions()
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
        if self.task is Task.CLASSIFICATION and values != list(range(len(values))):
            raise ValueError(f"data.labels: class indices must be 0, 1, 2, …; got {values}")
        if self.task is Task.SEGMENTATION and values[:1] <= [0]:
            raise ValueError("data.labels: 0 is the background and is not listed")
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
    def figures(self) -> set[str]:
        """What is measured on the test cases, with an interval; ``dice/liver`` of one class."""
        calibration = {"ece", "brier", "nll"}
        if self.task is Task.SEGMENTATION:
            overlap, classes = {"dice", "nsd", "hd95_mm"}, self.classes[1:]
            return calibration | overlap | {f"{f}/{c}" for f in overlap for c in classes}
        rates = {"sensitivity", "specificity"}
        single = {"auroc", "balanced_accuracy", "average_precision", "sensitivity"}
        return calibration | single | {f"{f}/{c}" for f in rates for c in self.classes}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's channels; background first."""
        named = tuple(sorted(self.data.labels, key=self.data.labels.__getitem__))
        return ("background", *named) if self.task is Task.SEGMENTATION else named

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value that stands for each class in a label map, in the order of ``classes``."""
        values = tuple(sorted(self.data.labels.values()))
        return (0, *values) if self.task is Task.SEGMENTATION else values

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.preprocess.window)


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
    values["study"].pop("root")
    values["distill"].pop("store")
    for external in values["teacher"]["external"]:
        external.pop("path")
        external.pop("patients")
    values.pop("card")
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
