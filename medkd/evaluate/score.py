"""Score: one role's release on the test split, case by case and as a whole."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.data import phi
from medkd.data.annotated import covered, covered_questions, in_label_terms
from medkd.data.labels import (
    class_indices,
    of_judged_voxels,
    structure_masks,
    truth_of,
    without_channel,
)
from medkd.data.reading import label_of
from medkd.device.predictor import Prediction
from medkd.evaluate.answers import Answer, classified
from medkd.metrics import overlap
from medkd.metrics.boundary import boundary_band
from medkd.metrics.calibration import (
    CalibrationBins,
    PooledCalibration,
    count_calibration,
    ece_of,
)
from medkd.metrics.classification import (
    Ranking,
    auroc,
    average_precision,
    balanced_accuracy,
    by_class,
    confusion_matrix,
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
from medkd.types import UNLABELLED, Case

CALIBRATION = ("ece", "adaptive_ece", "static_ece", "mce", "brier", "nll")
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
        confusion: cases by true class and answered class, where classes exclude each other.
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
    confusion: tuple[tuple[int, ...], ...] = ()

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
    """Score class probabilities; the operating points are chosen on the validation split.

    A finding is scored on the cases in which it was judged; figures of all findings are means over
    findings, not over cases.
    """
    shown = progress(cases, f"evaluate {name}", total=len(cases))
    known = progress(validation, f"operating point {name}", total=len(validation))
    p, labels = classified(answer, shown, config)
    said, truth = classified(answer, known, config)
    at = partial(threshold_at_specificity, specificity=config.evaluate.specificity)
    points = by_class(at, said, _by_question(truth, config))
    figures = _Figures(cases, config)
    (_findings if config.data.overlapping else _classes)(figures, p, labels, points, config)
    whole = [name for name in figures.statistics if "/" not in name]
    bins = [_one_case(row, label, config) for row, label in zip(p, labels, strict=True)]
    figures.calibration(bins)
    if not config.data.overlapping:
        scored = _classified_cases(cases, p, labels, salt)
        found = figures.scores((*whole, *CALIBRATION), scored, bins, _wrong(scored))
        counts = confusion_matrix(p.argmax(axis=1), labels[:, 0], classes=len(config.classes))
        return replace(found, confusion=tuple(map(tuple, counts.tolist())))
    scored = _found_cases(cases, p, labels, points, config, salt)
    failures = {
        "misses": sum(len(case.misses) for case in scored),
        "false_alarms": sum(len(case.false_alarms) for case in scored),
    }
    return figures.scores((*whole, *CALIBRATION), scored, bins, failures | _wrong(scored))


def _classes(
    figures: "_Figures", p: np.ndarray, labels: np.ndarray, points: np.ndarray, config: Config
) -> None:
    """Take the figures of classes that exclude each other."""
    index, answers = labels[:, 0], p.argmax(axis=1)
    figures.statistic("auroc", lambda i: auroc(p[i], index[i]))
    figures.statistic(
        "balanced_accuracy",
        lambda i: balanced_accuracy(answers[i], index[i], classes=len(config.classes)),
    )
    figures.statistic("average_precision", lambda i: average_precision(p[i], index[i]))
    _rates(figures, p, labels, points, config)
    figures.statistic("sensitivity", figures.statistics[f"sensitivity/{config.classes[-1]}"])


def _findings(
    figures: "_Figures", p: np.ndarray, labels: np.ndarray, points: np.ndarray, config: Config
) -> None:
    """Take the figures of findings, of each by itself and the mean of all."""
    ranked = [Ranking(*pair) for pair in zip(p.T, labels.T, strict=True)]
    of_each = {
        "auroc": [each.auroc for each in ranked],
        "average_precision": [each.average_precision for each in ranked],
    }
    for figure, statistics in of_each.items():
        figures.statistic(figure, partial(_mean, statistics))
    found = partial(by_class, partial(sensitivity, threshold=0.0))
    margins = p - points
    figures.statistic("sensitivity", lambda i: float(found(margins[i], labels[i]).mean()))
    of_each["ece"] = [
        partial(_of_class, ece_of, said, told == 1)
        for said, told in zip(p.T, labels.T, strict=True)
    ]
    for figure, statistics in of_each.items():
        for name, statistic in zip(config.classes, statistics, strict=True):
            figures.statistic(f"{figure}/{name}", statistic)
    _rates(figures, p, labels, points, config)


def _rates(
    figures: "_Figures", p: np.ndarray, labels: np.ndarray, points: np.ndarray, config: Config
) -> None:
    """Take sensitivity and specificity of each class or finding at its operating point."""
    truth = _by_question(labels, config)
    for number, name in enumerate(config.classes):
        for figure, rate in (("sensitivity", sensitivity), ("specificity", specificity)):
            function = partial(rate, threshold=float(points[number]))
            at = partial(_of_class, function, p[:, number], truth[:, number] == 1)
            figures.statistic(f"{figure}/{name}", at)


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
    told = covered_questions(case, config)
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


def _by_question(labels: np.ndarray, config: Config) -> np.ndarray:
    """Return ``[cases, classes]``: 1 where it is that class, or has that finding, 0 where not."""
    if config.data.overlapping:
        return labels
    return (labels == np.arange(len(config.classes))).astype(np.uint8)


def _of_class(
    figure: Callable[..., float], scores: np.ndarray, positive: np.ndarray, indices: np.ndarray
) -> float:
    return figure(scores[indices], positive[indices])


def _mean(statistics: Sequence[Statistic], indices: np.ndarray) -> float:
    return float(np.mean([statistic(indices) for statistic in statistics]))


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
    if not config.questions:
        return {}
    told = np.array([covered_questions(case, config) for case in cases])
    return {} if told.all() else dict(zip(config.questions, told.T, strict=True))


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


def _one_case(probabilities: np.ndarray, label: np.ndarray, config: Config) -> CalibrationBins:
    bins, truth = CalibrationBins(), without_channel(label[:, None], config)
    count_calibration(bins, probabilities[:, None], truth, config.activation)
    return bins


def _wrong(cases: Sequence[CaseScores]) -> dict[str, int]:
    return {"failures": sum(case.figures["correct"] == 0 for case in cases)}


def _classified_cases(
    cases: Sequence[Case], p: np.ndarray, labels: np.ndarray, salt: bytes
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
        for case, row, label in zip(cases, p, labels[:, 0], strict=True)
    )


def _found_cases(
    cases: Sequence[Case],
    p: np.ndarray,
    labels: np.ndarray,
    points: np.ndarray,
    config: Config,
    salt: bytes,
) -> tuple[CaseScores, ...]:
    """Describe each case by the findings that were judged, at their operating points."""
    there, judged, said = labels == 1, labels != UNLABELLED, p >= points
    of_truth = np.where(there, p, 1 - p)

    def named(chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(
            name for name, is_chosen in zip(config.classes, chosen, strict=True) if is_chosen
        )

    return tuple(
        CaseScores(
            case=phi.key(case.id, salt=salt),
            patient=phi.key(case.patient, salt=salt, kind="patient"),
            figures={
                "correct": float((said[i] == there[i])[judged[i]].all()),
                "probability_of_truth": float(of_truth[i, judged[i]].mean()),
            },
            misses=named(there[i] & ~said[i]),
            false_alarms=named(judged[i] & ~there[i] & said[i]),
        )
        for i, case in enumerate(cases)
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
        for name in ("ece", "adaptive_ece", "static_ece", "mce"):
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
