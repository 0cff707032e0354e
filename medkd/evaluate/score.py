"""Score: one role's release on the test split, case by case and as a whole."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.data import phi
from medkd.data.annotated import covered, covered_structures, in_label_terms
from medkd.data.labels import class_indices, of_judged_voxels, structure_masks, truth_of
from medkd.data.reading import label_of
from medkd.device.predictor import Prediction
from medkd.evaluate.answers import Answer
from medkd.metrics import overlap
from medkd.metrics.boundary import boundary_band
from medkd.metrics.calibration import CalibrationBins, PooledCalibration, count_calibration
from medkd.metrics.classification import (
    auroc,
    average_precision,
    balanced_accuracy,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from medkd.metrics.empty import Emptiness
from medkd.metrics.lesions import Lesions, count_lesions
from medkd.metrics.statistics import bootstrap_mean, bootstrap_statistic
from medkd.metrics.surface import assd, hd95, nsd, surface_distances
from medkd.metrics.volume import agreement, volume_ml
from medkd.progress import progress
from medkd.results import Agreement, CaseScores, Interval, Reliability
from medkd.types import Case

CALIBRATION = ("ece", "adaptive_ece", "static_ece", "brier", "nll")
Statistic = Callable[[np.ndarray], float]  # a figure of the cases at these indices


@dataclass(frozen=True)
class Scores:
    """Figures of one role over the test cases.

    Attributes:
        patients: the patient of each case.
        values: per case, the figures that are means over cases.
        statistics: the figures that are not.
        headline: the columns of the headline table.
        per_class: figures of single structures or classes, ``dice/anterior``.
        cases: figures of each case.
        reliability: pooled over all voxels of all cases.
        failures: counts of misses, false alarms and failed cases.
        agreement: of volumes, by structure.
        covered: whether each case's label covers a structure, by its name; empty: all cover all.
    """

    patients: tuple[str, ...]
    values: dict[str, np.ndarray]
    statistics: dict[str, Statistic]
    headline: dict[str, Interval]
    per_class: dict[str, Interval]
    cases: tuple[CaseScores, ...]
    reliability: Reliability
    failures: dict[str, int]
    agreement: dict[str, Agreement] = field(default_factory=dict)
    covered: dict[str, np.ndarray] = field(default_factory=dict)

    def measured(self, figure: str) -> np.ndarray:
        """Return the indices of the cases of which a figure was measured."""
        return _measured(figure, self.covered, cases=len(self.patients))

    def patients_of(self, indices: np.ndarray) -> list[str]:
        """Return the patients of the cases at these indices."""
        return [self.patients[index] for index in indices]


def score_segmentation(
    answer: Answer, cases: Sequence[Case], config: Config, *, salt: bytes, name: str
) -> Scores:
    """Score masks and probabilities on each image's own grid.

    A structure is scored on the cases whose label covers it; figures of all structures are then
    means over structures, not over cases. Calibration sums the probabilities of the background and
    of what a label does not cover.
    """
    scored: list[CaseScores] = []
    bins: list[CalibrationBins] = []
    bands: list[CalibrationBins] = []
    for case in progress(cases, f"evaluate {name}", total=len(cases)):
        prediction = answer(case)
        reference = label_of(case, config)
        label = truth_of(reference, case, config)
        scored.append(_case_scores(case, prediction, label, reference.spacing_mm, config, salt))
        assert prediction.probabilities is not None
        near = _near_boundary(label, reference.spacing_mm, config)
        said, told = in_label_terms(prediction.probabilities, case, config), covered(case, config)
        for kept, mask in ((bins, None), (bands, near)):
            kept.append(CalibrationBins())
            count_calibration(kept[-1], said, label, config.activation, mask, told=told)
    figures = _Figures(cases, config)
    for figure in sorted({name for case in scored for name in case.figures}):
        if figures.covered and "/" not in figure:
            figures.mean_of_structures(figure, scored)
        else:
            figures.mean(figure, [case.figures.get(figure, math.nan) for case in scored])
    figures.calibration(bins)
    figures.near_boundary(bands)
    for structure in config.evaluate.lesions:
        none = (0, 0, 0, 0)  # of a label that does not cover them
        counted = [Lesions(*case.lesions.get(structure, none)) for case in scored]
        figures.lesions(structure, counted)
    failed = sum(case.figures["dice"] < config.evaluate.dice_failure for case in scored)
    failures = {
        "misses": sum(len(case.misses) for case in scored),
        "false_alarms": sum(len(case.false_alarms) for case in scored),
        "failures": failed,
    }
    headline = ("dice", "nsd", "hd95_mm", *CALIBRATION, "boundary_ece")
    return figures.scores(headline, tuple(scored), bins, failures)


def score_classification(
    answer: Answer,
    cases: Sequence[Case],
    config: Config,
    *,
    validation: Sequence[Case],
    salt: bytes,
    name: str,
) -> Scores:
    """Score class probabilities; the operating point is chosen on the validation split."""
    p, labels = _probabilities(answer, cases, f"evaluate {name}")
    p_val, labels_val = _probabilities(answer, validation, f"operating point {name}")
    answers = p.argmax(axis=1)
    figures = _Figures(cases, config)
    figures.statistic("auroc", lambda i: auroc(p[i], labels[i]))
    figures.statistic(
        "balanced_accuracy",
        lambda i: balanced_accuracy(answers[i], labels[i], classes=len(config.classes)),
    )
    figures.statistic("average_precision", lambda i: average_precision(p[i], labels[i]))
    for index, class_name in enumerate(config.classes):
        threshold = threshold_at_specificity(
            p_val[:, index], labels_val == index, specificity=config.evaluate.specificity
        )
        for figure, rate in (("sensitivity", sensitivity), ("specificity", specificity)):
            at = partial(_of_class, rate, threshold, p[:, index], labels == index)
            figures.statistic(f"{figure}/{class_name}", at)
    figures.statistic("sensitivity", figures.statistics[f"sensitivity/{config.classes[-1]}"])
    bins = [_one_case(row[:, None], int(label)) for row, label in zip(p, labels, strict=True)]
    figures.calibration(bins)
    failures = {"failures": int((answers != labels).sum())}
    headline = ("auroc", "balanced_accuracy", "average_precision", "sensitivity", *CALIBRATION)
    scored = _classified_cases(cases, p, labels, config, salt)
    return figures.scores(headline, scored, bins, failures)


def _near_boundary(label: np.ndarray, spacing_mm: Sequence[float], config: Config) -> np.ndarray:
    """Return where some structure is, or near it."""
    (there,) = of_judged_voxels(label, reference=label)
    foreground = np.asarray(there.any(axis=0) if config.data.overlapping else there, np.uint8)
    width_mm = config.evaluate.boundary_mm
    return boundary_band(foreground, spacing_mm=spacing_mm, width_mm=width_mm)


def pooled(bins: Sequence[CalibrationBins], name: str) -> Statistic:
    """Return a figure of calibration of the cases at given indices, NaN where they hold nothing."""
    pool = PooledCalibration(bins)

    def figure(indices: np.ndarray) -> float:
        chosen = pool.of(indices)
        return float(getattr(chosen, name)) if chosen.voxels else math.nan

    return figure


def _case_scores(
    case: Case,
    prediction: Prediction,
    label: np.ndarray,
    spacing_mm: Sequence[float],
    config: Config,
    salt: bytes,
) -> CaseScores:
    assert prediction.mask is not None
    answer = class_indices(prediction.mask, config)
    answer, label = of_judged_voxels(answer, label, reference=label)
    figures: dict[str, float] = {}
    volumes: dict[str, tuple[float, float]] = {}
    lesions: dict[str, tuple[int, int, int, int]] = {}
    found: dict[Emptiness, list[str]] = {kind: [] for kind in Emptiness}
    masks = (structure_masks(each, config) for each in (answer, label))
    told = covered_structures(case, config)
    for name, *pair, is_told in zip(config.structures, *masks, told, strict=True):
        if not is_told:
            continue
        distances = surface_distances(*pair, spacing_mm=spacing_mm)
        found[distances.emptiness].append(name)
        figures[f"dice/{name}"] = overlap.dice(*pair)
        tolerance = config.evaluate.nsd_tolerance_mm
        figures[f"nsd/{name}"] = nsd(distances, tolerance_mm=tolerance)
        figures[f"hd95_mm/{name}"] = hd95(distances)
        figures[f"assd_mm/{name}"] = assd(distances)
        for metric in (overlap.iou, overlap.sensitivity, overlap.ppv):
            figures[f"{metric.__name__}/{name}"] = metric(*pair)
        measured, there = (volume_ml(mask, spacing_mm=spacing_mm) for mask in pair)
        volumes[name] = (measured, there)
        if name in config.evaluate.lesions:
            least = config.evaluate.lesion_overlap
            lesions[name] = astuple(count_lesions(*pair, overlap=least))
    for figure in ("dice", "nsd", "hd95_mm"):
        parts = [v for name, v in figures.items() if name.startswith(f"{figure}/")]
        figures[figure] = float(np.mean(parts))
    return CaseScores(
        case=phi.key(case.id, salt=salt),
        patient=phi.key(case.patient, salt=salt, kind="patient"),
        figures=figures,
        misses=tuple(found[Emptiness.MISS]),
        false_alarms=tuple(found[Emptiness.FALSE_ALARM]),
        volumes_ml=volumes,
        lesions=lesions,
    )


def _probabilities(
    answer: Answer, cases: Sequence[Case], description: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = [answer(case).probabilities for case in progress(cases, description, total=len(cases))]
    labels = [case.label for case in cases]
    return np.stack([row for row in rows if row is not None]), np.array(labels)


def _of_class(
    rate: Callable[..., float],
    threshold: float,
    scores: np.ndarray,
    positive: np.ndarray,
    indices: np.ndarray,
) -> float:
    return rate(scores[indices], positive[indices], threshold=threshold)


def _pooled_rate(counts: np.ndarray, figure: str, indices: np.ndarray) -> float:
    return float(getattr(Lesions(*map(int, counts[indices].sum(axis=0))), figure))


def _mean_of_means(values: np.ndarray, told: np.ndarray, indices: np.ndarray) -> float:
    """Return the mean over columns of each one's mean where it is told, NaN if one is nowhere."""
    times = told[indices].sum(axis=0)
    if not times.all():
        return math.nan
    return float(((values * told)[indices].sum(axis=0) / times).mean())


def _covered(cases: Sequence[Case], config: Config) -> dict[str, np.ndarray]:
    """Return which cases' labels cover each structure; nothing where all cover all."""
    if not config.structures:
        return {}
    told = np.array([covered_structures(case, config) for case in cases])
    return {} if told.all() else dict(zip(config.structures, told.T, strict=True))


def _measured(figure: str, told: Mapping[str, np.ndarray], *, cases: int) -> np.ndarray:
    structure = figure.partition("/")[2]
    return np.flatnonzero(told[structure]) if structure in told else np.arange(cases)


def _agreement(cases: Sequence[CaseScores]) -> dict[str, Agreement]:
    if len(cases) < 2:
        return {}
    found = {}
    for structure in dict.fromkeys(name for case in cases for name in case.volumes_ml):
        pairs = [case.volumes_ml[structure] for case in cases if structure in case.volumes_ml]
        if len(pairs) < 2:
            continue
        measured, reference = np.array(pairs).T
        found[structure] = Agreement(**asdict(agreement(measured, reference)))
    return found


def _one_case(probabilities: np.ndarray, label: int) -> CalibrationBins:
    bins = CalibrationBins()
    bins.update(probabilities, np.array([label]))
    return bins


def _classified_cases(
    cases: Sequence[Case], p: np.ndarray, labels: np.ndarray, config: Config, salt: bytes
) -> tuple[CaseScores, ...]:
    return tuple(
        CaseScores(
            case=phi.key(case.id, salt=salt),
            patient=phi.key(case.patient, salt=salt, kind="patient"),
            figures={
                "correct": float(row.argmax() == label),
                "probability_of_truth": float(row[label]),
            },
        )
        for case, row, label in zip(cases, p, labels, strict=True)
    )


def _reliability(bins: Sequence[CalibrationBins]) -> Reliability:
    total = CalibrationBins()
    for counted in bins:
        total = total + counted
    curve = total.curve()
    return Reliability(
        confidence=tuple(curve.confidence.tolist()),
        accuracy=tuple(curve.accuracy.tolist()),
        count=tuple(curve.count.tolist()),
    )


class _Figures:
    """Figures as they are found, each bootstrapped over the patients of the test cases."""

    def __init__(self, cases: Sequence[Case], config: Config) -> None:
        self.values: dict[str, np.ndarray] = {}
        self.statistics: dict[str, Statistic] = {}
        self._patients = tuple(case.patient for case in cases)
        self.covered = _covered(cases, config)
        self._intervals: dict[str, Interval] = {}
        self._options: Mapping[str, int] = {
            "draws": config.evaluate.bootstrap,
            "seed": config.study.seed,
        }

    def mean(self, name: str, values: Sequence[float]) -> None:
        """Take one value a case; what it is where a label does not cover the structure is moot."""
        self.values[name] = np.asarray(values)
        chosen = _measured(name, self.covered, cases=len(self._patients))
        patients = [self._patients[index] for index in chosen]
        self._intervals[name] = bootstrap_mean(self.values[name][chosen], patients, **self._options)

    def mean_of_structures(self, name: str, scored: Sequence[CaseScores]) -> None:
        """Take the mean over structures, each over the cases whose label covers it."""
        told = np.stack(list(self.covered.values()), axis=1)
        rows = [[case.figures.get(f"{name}/{s}", 0.0) for s in self.covered] for case in scored]
        self.statistic(name, partial(_mean_of_means, np.array(rows), told))

    def statistic(self, name: str, function: Statistic) -> None:
        self.statistics[name] = function
        chosen = _measured(name, self.covered, cases=len(self._patients))
        patients = [self._patients[index] for index in chosen]
        self._intervals[name] = bootstrap_statistic(
            lambda drawn: function(chosen[drawn]), patients, **self._options
        )

    def calibration(self, bins: Sequence[CalibrationBins]) -> None:
        for name in ("ece", "adaptive_ece", "static_ece"):
            self.statistic(name, pooled(bins, name))
        for name in ("brier", "nll"):
            self.mean(name, [getattr(b, name) for b in bins])

    def near_boundary(self, bins: Sequence[CalibrationBins]) -> None:
        self.statistic("boundary_ece", pooled(bins, "ece"))

    def lesions(self, structure: str, counts: Sequence[Lesions]) -> None:
        """Pool the lesions of the drawn cases: a rate over lesions, not over cases."""
        rows = np.array([astuple(count) for count in counts])
        for figure in ("sensitivity", "ppv"):
            rate = partial(_pooled_rate, rows, figure)
            self.statistic(f"lesion_{figure}/{structure}", rate)

    def scores(
        self,
        headline: Sequence[str],
        cases: tuple[CaseScores, ...],
        bins: Sequence[CalibrationBins],
        failures: dict[str, int],
    ) -> Scores:
        return Scores(
            patients=self._patients,
            values=self.values,
            statistics=self.statistics,
            headline={name: self._intervals[name] for name in headline},
            per_class={name: found for name, found in self._intervals.items() if "/" in name},
            cases=cases,
            reliability=_reliability(bins),
            failures=failures,
            agreement=_agreement(cases),
            covered=self.covered,
        )
