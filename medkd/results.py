"""Results: what was measured, as frozen records that go to JSON and come back.

Cases and patients appear under their keyed hashes alone. A figure's name is its key everywhere:
``dice``, ``nsd``, ``hd95_mm``, ``ece``, ``brier``, ``nll``, ``auroc``, ``balanced_accuracy``,
``sensitivity``; of one structure or class: ``dice/anterior``.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medkd.errors import StudyError
from medkd.types import Activation, Role, Task, Temperature, Variant

SCHEMA = 1
CURVE = "curve.json"  # of the stage that sizes the student

# figures of which less is better; of all others more is
LESS_IS_BETTER = frozenset(
    {
        "hd95_mm",
        "assd_mm",
        "ece",
        "adaptive_ece",
        "static_ece",
        "mce",
        "boundary_ece",
        "brier",
        "nll",
        "misses",
        "false_alarms",
        "failures",
        "parameters",
        "macs",
    }
)

ACCURACY_CLASSES = ((0.999, "99.9 %"), (0.99, "99 %"))  # of the reference


class Result(BaseModel):
    """Base of every record: frozen, and no unknown keys."""

    # JSON knows no NaN, which is the AUROC of a class without a case
    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", defer_build=True
    )


class Interval(Result):
    """A figure with its 95 % interval by patient, and what it holds.

    ``low`` and ``high`` are None where one patient says nothing about others, or where the figure
    is undefined in more than half of the draws. ``value`` is NaN where the figure is undefined.
    """

    value: float
    low: float | None = None
    high: float | None = None
    cases: int
    patients: int


class Parity(Result):
    """How a released network answers on the validation cases, beside the one that was trained.

    Attributes:
        largest_logit_difference: of any voxel and class.
        largest_logit: of the network as trained.
        agreement: share of voxels (or images) whose likeliest class is the same; of structures that
            overlap, share of the voxels of each.
        figure: dice, mean over structures; or accuracy.
        trained: the figure of the network as trained.
        difference: released minus trained, paired by case.
        trained_temperature: that calibrates the network as trained.
        trained_ece: its calibration error there.
        temperature: fitted anew to what was released.
        ece: its calibration error there.
    """

    largest_logit_difference: float
    largest_logit: float
    agreement: float
    figure: str
    trained: float
    difference: Interval
    trained_temperature: Temperature
    trained_ece: float
    temperature: Temperature
    ece: float


class Conformal(Result):
    """Thresholds of a conformal promise (see ``medkd.metrics.conformal``), by validation cases.

    Attributes:
        promised: the share of a structure that the mask of all voxels above its threshold finds,
            on average over images; or how often the set of classes above it holds the truth; or
            how many of those who have a finding are above it.
        thresholds: of the calibrated probability, by structure or finding; of classes that exclude
            each other, one for all.
        cases: it was calibrated on; of the structure that the fewest labels cover, or the finding
            that the fewest have.
    """

    promised: float
    thresholds: dict[str, float]
    cases: int


class Attempt(Result):
    """One way of making a variant, in the order in which they were tried.

    Attributes:
        way: how the variant was made.
        difference: to the network as trained, paired by case; None if it was not tried.
        refused: why what it made is not released; None if it is.
    """

    way: str
    difference: Interval | None = None
    refused: str | None = None


class VariantResult(Result):
    """A variant of a role's release, or why there is none.

    Attributes:
        may_lose: the gate.
        parity: by runtime; "torchscript" of a bundle.
        refused: why a runtime does not serve it; where none does, nothing was released.
        attempts: the ways in which it was tried to make it, where there are several.
        size_mib: of what the device reads; None if nothing was released.
    """

    role: Role
    variant: Variant
    may_lose: float
    parity: dict[str, Parity]
    refused: dict[str, str] = {}
    attempts: tuple[Attempt, ...] = ()
    size_mib: float | None = None


class CaseScores(Result):
    """The figures of one test case, and the structures or findings it missed or invented.

    ``volumes_ml`` are the answer's and the reference's by structure (areas in cm² in 2D);
    ``lesions`` count, by structure: lesions of the reference, those found, those claimed, those of
    them that are right.
    """

    case: str
    patient: str
    figures: dict[str, float]
    misses: tuple[str, ...] = ()
    false_alarms: tuple[str, ...] = ()
    volumes_ml: dict[str, tuple[float, float]] = {}
    lesions: dict[str, tuple[int, int, int, int]] = {}


class Agreement(Result):
    """Bias and 95 % limits of agreement of the answer's volumes with the reference's, in ml."""

    bias: float
    low: float
    high: float
    cases: int


class Reliability(Result):
    """A reliability curve over equal-width bins of confidence; empty bins hold None."""

    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    count: tuple[int, ...]


class Percentiles(Result):
    """Percentiles of repeated measurements, in milliseconds."""

    p50: float
    p90: float
    p99: float


class Latency(Result):
    """What answering costs on the machine it was measured on, one case after another.

    Attributes:
        network_ms: one whole image through the network, all windows.
        stages_ms: median of read, preprocess, guard, network, postprocess, write.
        cold_start_ms: process start to mask on disk.
        cold_stages_ms: what that consists of: start (until the release is loaded), then as above.
        p90_bound_ms: MLPerf's early-stopping bound: 90 % of answers are faster, with 99 %
            confidence; None where there were too few queries.
        size_mib: of the release.
    """

    queries: int
    threads: int
    file_to_file_ms: Percentiles
    network_ms: Percentiles
    stages_ms: dict[str, float]
    cold_start_ms: float
    cold_stages_ms: dict[str, float] = {}
    p90_bound_ms: float | None = None
    peak_memory_mib: float
    size_mib: float | None = None
    runtime: str | None = None
    processor: str
    processor_flags: tuple[str, ...] = ()
    load_average: float

    @property
    def figures(self) -> dict[str, float]:
        """The plain numbers, by name; the bound where there is one."""
        times = self.file_to_file_ms
        bound = {} if self.p90_bound_ms is None else {"latency_p90_bound_ms": self.p90_bound_ms}
        return {
            "latency_p50_ms": times.p50,
            "latency_p90_ms": times.p90,
            "latency_p99_ms": times.p99,
            **bound,
            "network_ms": self.network_ms.p50,
            "cold_start_ms": self.cold_start_ms,
            "peak_memory_mib": self.peak_memory_mib,
        }


class SizingPoint(Result):
    """One width of the student's network, and how fast it answers file to file."""

    model: dict[str, Any]
    parameters: int
    latency_p50_ms: float
    latency_p90_ms: float
    network_ms: float
    chosen: bool = False


class RoleResult(Result):
    """Everything measured of one role on the test split.

    What answering costs is None for a teacher that has no release.
    """

    role: Role
    model: dict[str, Any]
    parameters: int | None = None
    macs: int | None = None  # of one window
    size_mib: float | None = None
    temperature: Temperature | None = None
    headline: dict[str, Interval]
    per_class: dict[str, Interval]
    cases: tuple[CaseScores, ...]
    reliability: Reliability
    agreement: dict[str, Agreement] = {}  # of volumes, by structure
    confusion: tuple[tuple[int, ...], ...] = ()  # cases by true class, then by answered class
    failures: dict[str, int]  # misses, false_alarms, failures (Dice below evaluate.dice_failure)
    latency: Latency | None = None

    @property
    def costs(self) -> dict[str, float]:
        """What answering costs, by name: plain numbers without an interval, where measured."""
        measured: dict[str, float | None] = {
            "parameters": self.parameters,
            "macs": self.macs,
            "size_mib": self.size_mib,
        }
        if self.latency:
            measured |= self.latency.figures
        return {name: float(value) for name, value in measured.items() if value is not None}


class Subgroup(Result):
    """A group of the test cases, judged apart.

    Attributes:
        attribute: what the cases of the group share.
        group: its value, or the band it lies in.
        cases: in the group.
        patients: in the group.
        figure: ``dice`` or ``auroc``.
        by_role: the figure; empty where the group is too small to estimate anything.
        difference: student - teacher; None likewise.
    """

    attribute: str
    group: str
    cases: int
    patients: int
    figure: str
    by_role: dict[Role, Interval] = {}
    difference: Interval | None = None


class StressCurve(Result):
    """How answers suffer while images are made worse, from mild to harsh.

    Attributes:
        stress: what is done to the images.
        unit: of ``strengths``.
        figure: ``dice``, or ``accuracy`` of a classification.
        strengths: from mild to harsh.
        untouched: the figure on the same images as they are, by role.
        suffered: the figure at each strength, by role.
        flagged: share of the images at each strength that the guard flags.
    """

    stress: str
    unit: str
    figure: str
    strengths: tuple[float, ...]
    untouched: dict[Role, Interval]
    suffered: dict[Role, tuple[Interval, ...]]
    flagged: tuple[float, ...] = ()


class Promise(Result):
    """A promise that was made on the validation split, and how it is kept on the test split.

    Attributes:
        of: the structure whose voxels are found, or the finding; None for sets of possible classes.
        promised: mean share of the structure found, or share of the sets that hold the truth, or of
            those who have the finding, in whom it is not ruled out.
        kept: what the test split shows.
        price: size of the mask as a multiple of the reference's, or number of classes in a set, or
            share of those without the finding in whom it is not ruled out.
        threshold: of the probability; 0 where there were too few cases to promise anything.
        calibrated_on: cases of the validation split.
    """

    of: str | None
    promised: float
    kept: Interval
    price: Interval
    threshold: float
    calibrated_on: int


class GuardResult(Result):
    """What the guard of the releases says of the test images.

    Attributes:
        passed: share of them that it lets pass as they are.
        limit: the distance up to which an image passes.
        foreign: share that it flags of images that were made foreign, by how.
    """

    passed: Interval
    limit: float
    foreign: dict[str, float]


class ReleasePoint(Result):
    """A further release of a role (an exported variant): how well and how fast it answers."""

    name: str  # e.g. "student-int8"
    role: Role
    figure: str  # dice or auroc, on the test split
    value: Interval
    size_mib: float
    latency: Latency


class Comparison(Result):
    """A paired difference ``of`` - ``minus`` on the same test cases."""

    figure: str
    of: Role
    minus: Role
    difference: Interval


class Claim(Result):
    """What a gate of any class is judged by: p-values by class, adjusted after Holm."""

    p_values: dict[str, float]
    patients: int


class GateResult(Result):
    """One acceptance criterion and what it was judged by; ``passed`` is None if it could not be."""

    gate: str
    judged: float | None
    passed: bool | None
    reason: str = ""


class Part(Result):
    """One part of the split."""

    cases: int
    patients: int
    digest: str


class Layers(Result):
    """One test case in slices and layers, for looking at and not for measuring.

    Attributes:
        paths: of each layer's picture, by its name, relative to the study's folder; the slices
            of a picture stand one below the other.
        slices: which slices of the volume they are, counted from 1.
        of_slices: how many the volume has.
        start: place in ``slices`` of the one where the reference is largest.
        width: of one slice, in pixels.
        height: likewise.
    """

    paths: dict[str, str]
    slices: tuple[int, ...]
    of_slices: int
    start: int
    width: int
    height: int


class Overlay(Result):
    """A picture of one test case: image, reference, teacher, student, disagreement."""

    case: str
    rank: str  # "worst 1", "failed 1", "median", "best"
    figure: str  # of the student, by which it was chosen
    value: float
    path: str  # relative to the study's folder
    layers: Layers | None = None  # of a segmentation


class Verdict(StrEnum):
    """What the gates say; never "safe" or "approved"."""

    READY = "READY FOR REVIEW"
    NOT_READY = "NOT READY"
    INCOMPLETE = "INCOMPLETE"


NO_GATES = "the config names no gates"
EXIT_CODES = {Verdict.READY: 0, Verdict.NOT_READY: 1, Verdict.INCOMPLETE: 2}


def worst_gaps(subgroups: Sequence[Subgroup]) -> dict[str, float]:
    """Return how far the student's best and worst groups are apart, of each attribute."""
    by_attribute: dict[str, list[float]] = {}
    for group in subgroups:
        figure = group.by_role.get(Role.STUDENT)
        if figure is not None and not math.isnan(figure.value):
            by_attribute.setdefault(group.attribute, []).append(figure.value)
    return {name: max(v) - min(v) for name, v in by_attribute.items() if len(v) > 1}


def verdict(
    gates: Sequence[GateResult], *, missing: Sequence[str] = ()
) -> tuple[Verdict, tuple[str, ...]]:
    """Return what gates and people say together, and why.

    Args:
        gates: a failed one outweighs everything.
        missing: what people have not stated.
    """
    failed = [
        f"failed: {gate.gate} (judged by {gate.judged:.4g}{gate.reason and '; ' + gate.reason})"
        for gate in gates
        if gate.passed is False
    ]
    open_ends = [
        f"not judged: {gate.gate} ({gate.reason})" for gate in gates if gate.passed is None
    ]
    open_ends += [*([] if gates else [NO_GATES]), *missing]
    if failed:
        return Verdict.NOT_READY, tuple(failed + open_ends)
    if open_ends:
        return Verdict.INCOMPLETE, tuple(open_ends)
    passed = f"all {len(gates)} gates passed" if len(gates) > 1 else "the one gate passed"
    return Verdict.READY, (passed,)


class Report(Result):
    """The whole report; the page is drawn from this and nothing else."""

    schema_version: int = SCHEMA
    study: str
    study_key: str
    task: Task
    classes: tuple[str, ...]
    activation: Activation = Activation.SOFTMAX
    verdict: Verdict
    reasons: tuple[str, ...]
    roles: dict[Role, RoleResult]
    comparisons: tuple[Comparison, ...]
    gates: tuple[GateResult, ...]
    split: dict[str, Part]
    leakage: dict[str, int]  # patients and identical images found on two sides: all 0, or no report
    test_openings: int  # how often the test split has been opened
    overlays: tuple[Overlay, ...]
    statement: dict[str, str] = {}  # what people have stated, by question
    blank: tuple[str, ...] = ()  # questions that nobody has answered
    releases: tuple[ReleasePoint, ...] = ()  # further variants that were measured
    subgroups: tuple[Subgroup, ...] = ()
    gaps: dict[str, float] = {}  # of the student between best and worst group, by attribute
    promises: dict[Role, tuple[Promise, ...]] = {}
    stress: tuple[StressCurve, ...] = ()
    guard: GuardResult | None = None  # where the releases have one
    variants: tuple[VariantResult, ...] = ()  # of the releases, and what each lost
    sizing: tuple[SizingPoint, ...] = ()  # where the student was sized by a latency budget
    config: dict[str, Any]
    card: dict[str, Any] | None
    environment: dict[str, Any]
    digests: dict[str, str]
    notes: tuple[str, ...]  # what a reader must know, e.g. in-fold soft targets

    @property
    def has_findings(self) -> bool:
        """Whether a case may be of several classes, or of none, each a question of its own."""
        return self.task is Task.CLASSIFICATION and self.activation is Activation.SIGMOID


def primary_figure(result: RoleResult) -> str | None:
    """Return the figure that an answer is judged by: dice, or auroc of a classification."""
    return next((key for key in ("dice", "auroc") if key in result.headline), None)


def accuracy_class(value: float, reference: float) -> str:
    """Return MLPerf's class of a value: the share of the reference's that it reaches.

    Example:
        >>> accuracy_class(0.8811, 0.889), accuracy_class(0.85, 0.889)
        ('99 %', 'below 99 %')
    """
    share = value / reference if reference else math.nan
    if math.isnan(share):
        return "not known"
    return next((name for least, name in ACCURACY_CLASSES if share >= least), "below 99 %")


def read_report(path: Path) -> Report:
    """Read ``report.json``.

    Raises:
        StudyError: there is none, or it was written by another version.
    """
    if not path.is_file():
        raise StudyError(f"{path}: not written yet; run the study to its end first")
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{path}: not a report of this version of medkd ({error})") from None
