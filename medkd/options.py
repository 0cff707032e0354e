"""Options: the sections of a study's config, with the meaning and the default of every option."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medkd.types import Role, Variant

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
LARGEST_LABEL = 65535  # masks are written with 8 or 16 bits
# what an answer costs, and counts of bad ones: plain numbers without an interval
COSTS = {
    *("parameters", "macs", "size_mib", "network_ms", "peak_memory_mib", "cold_start_ms"),
    *("latency_p50_ms", "latency_p90_ms", "latency_p90_bound_ms", "latency_p99_ms"),
    *("misses", "false_alarms", "failures"),
}
PathName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Options(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    # validators are built when first used: a device needs few of them, and starts in 0.1 s less
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class NamedOptions(BaseModel):
    """A registered thing by name, with options that its factory checks."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)
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
    file: str | None = None  # or a split.json, such as another study's; its digests are verified
    stratify: tuple[str, ...] = ()  # columns, volume_ml/STRUCTURE: beside what the labels hold
    labelled: Count | None = None  # hide the labels of all other training cases: what is one worth?


class PhantomOptions(Options):
    """How many synthetic cases ``source: phantom`` makes, and how large."""

    cases: Count = 48
    cases_per_patient: Count = 2
    shape: tuple[Count, ...] = (48, 48, 28)
    spacing_mm: tuple[Positive, ...] = (1.0, 1.0, 2.0)


class Code(Options):
    """A concept by its code (DICOM PS3.3 section 8.8)."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)] = "SCT"  # SNOMED CT; DCM, FMA, …
    meaning: Annotated[str, Field(min_length=1, max_length=64)]


ANATOMICAL_STRUCTURE = Code(value="91723000", meaning="Anatomical Structure")


class CodeOptions(Code):
    """What a structure or class is, for systems that do not know the study's own name of it."""

    category: Code = ANATOMICAL_STRUCTURE  # DICOM PS3.16 CID 7150
    modifier: Code | None = None  # which part or side of it: Anterior, Left, …


class DataOptions(Options):
    """Which cases a study is about."""

    root: str = "."  # paths below start here; a leading $VARIABLE or ~ is expanded
    source: str  # dataset.json (Decathlon), a CSV, a MedMNIST .npz, or "phantom"
    table: str | None = None  # a CSV that adds columns (patient, attributes) to the cases by id
    case: str = "case"  # the column of case ids, in the table and in a CSV source
    image: str | None = None  # images/{case}.png, for a CSV without a column `image`
    label: str | None = None  # masks/{case}.png, for a CSV without a column `label`
    patient: str = "patient"  # the column of patient ids
    series: str | None = None  # the column of SeriesInstanceUIDs, where DICOM folders hold several;
    # where cases have several modalities, a column of each: series_t1, series_flair
    burned_in: Literal["refuse", "allow"] = "refuse"  # images that say text is burned into them
    # name: value in the label map (0 is background), class index from 0, or finding from 1
    labels: dict[str, int]
    # a voxel may be of several structures, an image have several findings: each asked by itself
    overlapping: bool = False
    includes: dict[str, tuple[str, ...]] = {}  # of a label map: those that lie in a structure too
    ignore: Count | None = None  # value of voxels nobody has judged: not learned from, not scored
    annotated: str | None = None  # the column of what a case's label covers; empty: all
    codes: dict[str, CodeOptions] = {}  # by class name; releases carry them
    split: SplitOptions = SplitOptions()
    memory_gib: Positive | None = None  # of preprocessed cases, more go to disk; null: half of all
    store: str | None = None  # a folder for those, which studies may share; null: the study's own
    phantoms: PhantomOptions = PhantomOptions()


class SeriesOptions(Options):
    """Which series of a DICOM folder with several is read; what is given has to leave one."""

    uid: str | None = None  # SeriesInstanceUID
    modality: str | None = None  # CT, MR, PT, …
    description: str | None = None  # a pattern of SeriesDescription: "*T1*"
    largest: bool = False  # of those that fit, the one of most files


class ReadingOptions(Options):
    """What of a file may be mended, and how much memory it may take; the device does the same."""

    memory_gib: Positive = 8.0  # an image that would take more is refused before it is unpacked
    series: SeriesOptions | None = None  # null: a DICOM folder has to hold one series
    series_of: dict[str, SeriesOptions] = Field(  # the same by modality, where a case has several
        default={}, exclude_if=lambda given: not given
    )
    resample_missing: Annotated[int, Field(ge=0)] = 0  # neighbouring slices that are interpolated
    shear_correct: bool = False  # resample a tilted gantry, or skewed axes, at right angles
    planar: bool = False  # read a single DICOM slice as a 2D image
    overlap: Literal["refuse", "last"] = "refuse"  # a voxel of two structures: the later in labels

    @property
    def memory_bytes(self) -> int:
        """``memory_gib`` in bytes."""
        return int(self.memory_gib * 2**30)

    def of(self, modality: str) -> "ReadingOptions":
        """Return how the series of one modality is read."""
        series = self.series_of.get(modality, self.series)
        return self.model_copy(update={"series": series, "series_of": {}})


class PreprocessOptions(Options):
    """From the image's own grid to the network's; the device does exactly the same."""

    channels: Count = 1
    modalities: tuple[str, ...] = ()  # names of co-registered channels; columns of the datalist
    orientation: str | None = "RAS"  # axis codes; null for 2D
    spacing_mm: tuple[Positive, ...] | None = None  # null keeps each image's own
    size: tuple[Count, ...] | None = (
        None  # resize to this shape whatever the spacing; for classes the window
    )
    intensity: Literal["zscore", "percentile", "unit"] = "zscore"
    window: tuple[Count, ...]  # what the network sees at once, in training and in use
    overlap: Fraction = 0.25  # of neighbouring windows in use
    reading: ReadingOptions = ReadingOptions()

    @property
    def of_anyone(self) -> "PreprocessOptions":
        """These options without the UID of a series, which is a patient's: for a release.

        The pattern of its description stays: a device needs it to choose among series as training
        did. ``check`` refuses one that seems to hold a name, a date or an id.
        """
        reading, without = self.reading, {"uid": None}
        changed: dict[str, Any] = {
            "series": reading.series and reading.series.model_copy(update=without),
            "series_of": {
                name: rule.model_copy(update=without) for name, rule in reading.series_of.items()
            },
        }
        return self.model_copy(update={"reading": reading.model_copy(update=changed)})

    @property
    def tells_series_apart(self) -> bool:
        """Whether of a DICOM study that holds all modalities it is known which series is which."""
        return set(self.modalities) == self.reading.series_of.keys() != set()

    @model_validator(mode="after")
    def _one_grid(self) -> "PreprocessOptions":
        if self.size and self.spacing_mm:
            raise ValueError("give size or spacing_mm, not both")
        for name in ("spacing_mm", "size"):
            given = getattr(self, name)
            if given and len(given) != len(self.window):
                raise ValueError(f"{name} and window need the same number of axes")
        return self

    @model_validator(mode="after")
    def _a_channel_a_modality(self) -> "PreprocessOptions":
        names = self.modalities
        if unknown := sorted(self.reading.series_of.keys() - set(names)):
            raise ValueError(f"reading.series_of: {unknown} are not in modalities: {list(names)}")
        if not names:
            return self
        if len({name.lower() for name in names}) < len(names) or not all(names):
            raise ValueError(f"modalities: {list(names)}; give each a name of its own")
        if self.channels != len(names):
            raise ValueError(f"channels is {self.channels}, modalities names {len(names)}")
        if self.intensity == "unit":
            raise ValueError("modalities share no unit of intensity; choose zscore or percentile")
        return self

    @field_validator("orientation")
    @classmethod
    def _axis_codes(cls, codes: str | None) -> str | None:
        pairs = sorted("".join(sorted(pair)) for pair in ("LR", "PA", "IS"))
        of_each = sorted(pair for code in codes or "" for pair in pairs if code in pair)
        if codes is not None and (len(codes) != 3 or of_each != pairs):
            raise ValueError("three axis codes, one of L or R, P or A, I or S: RAS, LPS, …")
        return codes


class PostprocessOptions(Options):
    """Rules that tidy the masks of every release; they are scored as they are given out."""

    largest_component: tuple[str, ...] = ()  # structures of which smaller pieces are dropped
    fill_holes: tuple[str, ...] = ()  # structures that are solid
    argmax_first: bool = False  # decide on the network's grid: quicker, but boundaries move


class AugmentOptions(Options):
    """Strength of each random change of a training patch; 0 turns it off."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.3  # of each change but the flips
    flip_axes: tuple[int, ...] = ()  # only where anatomy allows
    transpose: bool = False  # 2D: the eight symmetries of the square
    rotate_degrees: NotNegative = 0
    scale: Fraction = 0  # 0.1: from 90 % to 110 %
    translate: Fraction = 0  # of the window
    elastic_voxels: NotNegative = 0  # standard deviation of a smooth displacement
    brightness: NotNegative = (
        0  # added: image standard deviations in 3D, shares of the patch's range in 2D
    )
    contrast: Fraction = 0
    gamma: Fraction = 0
    noise_std: NotNegative = 0
    blur_sigma: NotNegative = 0  # voxels
    bias_field: NotNegative = 0  # of MR coils: largest coefficient of its polynomial
    low_resolution: Fraction = 0  # 0.5: down to half as many voxels an axis


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
    # in the cross-entropy of labels, by name, 1 where none is given; what weighs more is also said
    # with a higher probability, which student.temperature: by_class mends in part
    class_weights: dict[str, Positive] = {}
    deep_supervision: tuple[str, ...] = ()  # layers with a head while training, finest first
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    # processes that load and augment; null: one, and beside a GPU a process's share of the cores
    workers: Annotated[int, Field(ge=0)] | None = None
    # where volumes are augmented: by these processes, or batch by batch on the device that trains;
    # auto: on a GPU once training waits for the processes longer than the GPU takes
    augment_on: Literal["auto", "workers", "device"] = "auto"


class ExternalOptions(Options):
    """A teacher that was trained elsewhere."""

    kind: Literal["checkpoint", "bundle", "onnx", "probabilities"]
    path: str  # of the folder or file; a leading $VARIABLE or ~ is expanded
    weight: Positive = 1.0  # in the mean of several teachers' probabilities
    classes: tuple[str, ...] | None = None  # of its channels, in order; null: as in the study
    patients: str | tuple[str, ...] | None = None  # it learned from: ids, or a file of one a line
    out_of_fold: bool = False  # not asked about training cases of patients it learned from
    trust_bundle: bool = False  # a MONAI bundle's config may run any code: yes only if you know it


class TeacherOptions(Options):
    """The large, accurate model: trained here (``model`` and ``train``), brought along, or both."""

    model: NamedOptions | None = None
    train: TrainOptions | None = None
    folds: Count = 1  # 1: trained on all training cases, so their soft targets are in fold
    weight: Positive = 1.0  # beside external ones
    external: tuple[ExternalOptions, ...] = ()
    flip_axes: tuple[int, ...] = ()  # average over these flips, but not in a release

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
    temperature: Literal["one", "by_class"] = "one"  # fitted on validation, in every release


class LossOptions(NamedOptions):
    """One distillation loss; further options are the loss's own.

    With layers it compares features, without them the answers.
    """

    weight: Positive = 1.0
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
    def has_adapter(self) -> bool:
        """Whether it compares features channel by channel, after an adapter."""
        return self.layers is not None and self.name in {"hint", "cwd"}

    @property
    def label(self) -> str:
        """What its terms are called by: its name, and the student's layer if it has one."""
        return self.name if self.layers is None else f"{self.name}/{self.student_layer}"

    @model_validator(mode="after")
    def _layers_are_a_pair(self) -> "LossOptions":
        if (self.student_layer is None) != (self.teacher_layer is None):
            raise ValueError("student_layer and teacher_layer belong together")
        if self.layers and (self.class_weights or self.standardise):
            raise ValueError("class_weights and standardise are for answers, not layers")
        return self


class DistillOptions(Options):
    """loss = supervised · (Dice + cross-entropy) + Σ weight · term."""

    supervised: NotNegative = 1.0
    online: bool = False  # ask the teacher in every step: for layers, and exact to the voxel
    losses: tuple[LossOptions, ...] = Field(min_length=1)
    calibrated: bool = True  # the teacher teaches at its fitted temperature; false: as trained
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


class SubgroupOptions(Options):
    """Groups of test cases that are judged apart."""

    attribute: str  # a column of the datalist, or volume_ml/STRUCTURE: of the reference
    edges: tuple[float, ...] = ()  # of the bands that a number is cut into

    @model_validator(mode="before")
    @classmethod
    def _a_name_will_do(cls, value: Any) -> Any:  # noqa: ANN401
        return {"attribute": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _edges_rise(self) -> "SubgroupOptions":
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must rise")
        if self.structure is not None and not self.edges:
            raise ValueError(f"{self.attribute}: give the edges of its bands, in millilitres")
        return self

    @property
    def structure(self) -> str | None:
        """The structure whose volume groups the cases; None where a column does."""
        kind, _, structure = self.attribute.partition("/")
        return structure if kind == "volume_ml" else None


class EvaluateOptions(Options):
    """How the test split is scored."""

    nsd_tolerance_mm: Positive = 1.0  # pixels in 2D
    boundary_mm: Positive = 5.0  # pixels in 2D; boundary_ece is over foreground and what is so near
    lesions: tuple[str, ...] = ()  # structures whose connected components are counted one by one
    lesion_overlap: Annotated[float, Field(gt=0, le=1)] = 0.1  # share of one that makes it found
    dice_failure: Fraction = 0.5  # a case below this is counted as failed
    specificity: Annotated[float, Field(gt=0, lt=1)] = (
        0.95  # classification: sensitivity is read off at this specificity
    )
    promised: Annotated[float, Field(gt=0, lt=1)] = 0.9  # conformal: share found, or sets right
    bootstrap: Count = 2000
    least_patients: Count = 50  # of the test split; an interval of fewer judges no gate
    subgroups: tuple[SubgroupOptions, ...] = ()
    least_in_group: Count = 20  # patients; of fewer nothing is estimated
    overlays: Count = 3  # worst cases with a picture; best and median come on top
    stress_cases: Annotated[int, Field(ge=0)] = 20  # test cases that are made worse; 0: none


class ExportOptions(Options):
    """In which forms the student is released, and what each may lose.

    What is lost is judged on the validation split, against the network as it was trained, by the
    less favourable end of the interval: of Dice, or of the share of images that are classified
    right, or of findings that are told right at each network's own operating points.
    """

    variants: tuple[Variant, ...] = (Variant.ONNX, Variant.OPENVINO, Variant.INT8)
    may_lose: dict[Variant, NotNegative] = {}
    calibration_cases: Count = 64  # training cases from which int8 takes the ranges of its values
    # where int8 loses too much, the student is trained on as if in int8; 0: refused at once
    retrain_steps: Annotated[int, Field(ge=0)] = 500
    licence: str | None = None  # of the releases; an SPDX identifier or a sentence

    def loss_allowed(self, variant: Variant) -> float:
        """Return what a variant may lose."""
        return self.may_lose.get(variant, 0.003 if variant is Variant.INT8 else 0.001)


class LatencyOptions(Options):
    """How file-to-file latency is measured."""

    queries: Count = 64
    threads: Count = 2


class TrackOptions(Options):
    """What is tracked beside parameters, figures and files."""

    system_metrics: bool = False  # load of processor, memory, disk, network and GPU over time
    sample_every_s: Positive = 10.0


class GateOptions(Options):
    """One acceptance criterion, fixed before the test split is opened.

    A figure with an interval must meet the bound with the interval's less favourable end:
    one-sided, at 97.5 %. A difference to the teacher that may not fall below -margin is a test of
    non-inferiority; with ``each`` it is one of intersection and union, which needs no correction
    for several classes. ``any`` asks that one class meets it at least, and names those that do,
    corrected for their number (Holm 1979).
    """

    figure: str  # a column of the headline table, or of one class: dice/anterior
    each: bool = False  # of every class by itself: all have to pass
    any: bool = False  # of one class at least
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
        if self.each and self.any:
            raise ValueError("a gate is of each class or of any, not both")
        return self

    def __str__(self) -> str:
        """Read the gate aloud.

        Example:
            >>> str(GateOptions(figure="dice", minus="teacher", at_least=-0.02))
            'student dice - teacher dice >= -0.02'
        """
        each = " of each class" if self.each else " of any class" if self.any else ""
        left = f"{self.of} {self.figure}"
        left += f" - {self.minus} {self.figure}" if self.minus else ""
        left += f" / {self.over} {self.figure}" if self.over else ""
        return (
            left
            + each
            + (f" >= {self.at_least:g}" if self.at_least is not None else f" <= {self.at_most:g}")
        )
