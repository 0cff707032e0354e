"""Score: one role's release on the test split, case by case and as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medkd.config import Config
from medkd.data import phi
from medkd.data.reader import read_image, read_label
from medkd.device.predictor import Prediction, Predictor
from medkd.metrics.calibration import CalibrationBins
from medkd.metrics.classification import (
    auroc,
    average_precision,
    balanced_accuracy,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from medkd.metrics.empty import Emptiness
from medkd.metrics.overlap import dice
from medkd.metrics.statistics import bootstrap_mean, bootstrap_statistic
from medkd.metrics.surface import hd95, nsd, surface_distances
from medkd.progress import progress
from medkd.results import CaseScores, Interval, Reliability
from medkd.types import Case


@dataclass(frozen=True)
class Scores:
    """Figures of one role over the test cases.

    Attributes:
        headline: the columns of the headline table.
        per_class: figures of single structures or classes, ``dice/anterior``.
        cases: figures of each case.
        reliability: pooled over all voxels of all cases.
        failures: counts of misses, false alarms and failed cases.
    """

    headline: dict[str, Interval]
    per_class: dict[str, Interval]
    cases: tuple[CaseScores, ...]
    reliability: Reliability
    failures: dict[str, int]


def score_segmentation(
    predictor: Predictor, cases: Sequence[Case], config: Config, *, salt: bytes, name: str
) -> Scores:
    """Score masks and probabilities on each image's own grid."""
    scored, bins = [], []
    for case in progress(cases, f"evaluate {name}", total=len(cases)):
        volume = read_image(case.image)
        prediction = predictor.predict(volume, with_probabilities=True)
        assert isinstance(case.label, Path)
        label = class_indices(read_label(case.label).array[0], config)
        scored.append(_case_scores(case, prediction, label, volume.spacing_mm, config, salt))
        counted = CalibrationBins()
        assert prediction.probabilities is not None
        counted.update(prediction.probabilities, label)
        bins.append(counted)
    interval = _Intervals(cases, config)
    names = {name for case in scored for name in case.figures}
    figures = {
        name: interval.mean([case.figures[name] for case in scored]) for name in sorted(names)
    }
    calibration = {
        "ece": interval.statistic(ece_of(bins)),
        "brier": interval.mean([b.brier for b in bins]),
        "nll": interval.mean([b.nll for b in bins]),
    }
    order = ("dice", "nsd", "hd95_mm")
    failed = sum(case.figures["dice"] < config.evaluate.dice_failure for case in scored)
    return Scores(
        headline={name: figures[name] for name in order} | calibration,
        per_class={name: value for name, value in figures.items() if "/" in name},
        cases=tuple(scored),
        reliability=_reliability(bins),
        failures={
            "misses": sum(len(case.misses) for case in scored),
            "false_alarms": sum(len(case.false_alarms) for case in scored),
            "failures": failed,
        },
    )


def score_classification(
    predictor: Predictor,
    cases: Sequence[Case],
    config: Config,
    *,
    validation: Sequence[Case],
    salt: bytes,
    name: str,
) -> Scores:
    """Score class probabilities; the operating point is chosen on the validation split."""
    p, labels = _probabilities(predictor, cases, f"evaluate {name}")
    p_val, labels_val = _probabilities(predictor, validation, f"operating point {name}")
    answers = p.argmax(axis=1)
    interval = _Intervals(cases, config)
    bins = [_one_case(row[:, None], int(label)) for row, label in zip(p, labels, strict=True)]
    headline = {
        "auroc": interval.statistic(lambda i: auroc(p[i], labels[i])),
        "balanced_accuracy": interval.statistic(
            lambda i: balanced_accuracy(answers[i], labels[i], classes=len(config.classes))
        ),
        "average_precision": interval.statistic(lambda i: average_precision(p[i], labels[i])),
    }
    per_class: dict[str, Interval] = {}
    for index, class_name in enumerate(config.classes):
        threshold = threshold_at_specificity(
            p_val[:, index], labels_val == index, specificity=config.evaluate.specificity
        )
        for figure, rate in (("sensitivity", sensitivity), ("specificity", specificity)):
            at = partial(rate, threshold=threshold)
            per_class[f"{figure}/{class_name}"] = interval.statistic(
                partial(_of_class, at, p[:, index], labels == index)
            )
    headline["sensitivity"] = per_class[f"sensitivity/{config.classes[-1]}"]
    headline |= {
        "ece": interval.statistic(ece_of(bins)),
        "brier": interval.mean([b.brier for b in bins]),
        "nll": interval.mean([b.nll for b in bins]),
    }
    return Scores(
        headline=headline,
        per_class=per_class,
        cases=_classified_cases(cases, p, labels, config, salt),
        reliability=_reliability(bins),
        failures={"failures": int((p.argmax(axis=1) != labels).sum())},
    )


def class_indices(label: np.ndarray, config: Config) -> np.ndarray:
    """Map the values of a label map to indices of ``config.classes``."""
    return np.searchsorted(np.asarray(config.label_values), label)


def ece_of(bins: Sequence[CalibrationBins]) -> Callable[[np.ndarray], float]:
    """Return the pooled ECE of the cases with given indices, fast enough to bootstrap."""
    totals = np.stack([b.totals() for b in bins])  # [cases, 3, bins]

    def ece(indices: np.ndarray) -> float:
        count, confidence, correct = totals[indices].sum(axis=0)
        return float(np.abs(correct - confidence).sum() / count.sum())

    return ece


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
    figures: dict[str, float] = {}
    found: dict[Emptiness, list[str]] = {kind: [] for kind in Emptiness}
    for index, name in enumerate(config.classes):
        if index == 0:
            continue
        pair = (answer == index, label == index)
        distances = surface_distances(*pair, spacing_mm=spacing_mm)
        found[distances.emptiness].append(name)
        figures[f"dice/{name}"] = dice(*pair)
        tolerance = config.evaluate.nsd_tolerance_mm
        figures[f"nsd/{name}"] = nsd(distances, tolerance_mm=tolerance)
        figures[f"hd95_mm/{name}"] = hd95(distances)
    for figure in ("dice", "nsd", "hd95_mm"):
        parts = [v for name, v in figures.items() if name.startswith(f"{figure}/")]
        figures[figure] = float(np.mean(parts))
    return CaseScores(
        case=phi.key(case.id, salt=salt),
        patient=phi.key(case.patient, salt=salt, kind="patient"),
        figures=figures,
        misses=tuple(found[Emptiness.MISS]),
        false_alarms=tuple(found[Emptiness.FALSE_ALARM]),
    )


def _probabilities(
    predictor: Predictor, cases: Sequence[Case], description: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        predictor.predict(read_image(case.image)).probabilities
        for case in progress(cases, description, total=len(cases))
    ]
    labels = [case.label for case in cases]
    return np.stack([row for row in rows if row is not None]), np.array(labels)


def _of_class(
    rate: Callable[..., float], scores: np.ndarray, positive: np.ndarray, indices: np.ndarray
) -> float:
    return rate(scores[indices], positive[indices])


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


class _Intervals:
    """Bootstraps over the patients of the test cases."""

    def __init__(self, cases: Sequence[Case], config: Config) -> None:
        self._patients = [case.patient for case in cases]
        self._options: Mapping[str, int] = {
            "draws": config.evaluate.bootstrap,
            "seed": config.study.seed,
        }

    def mean(self, values: Sequence[float]) -> Interval:
        return bootstrap_mean(np.asarray(values), self._patients, **self._options)

    def statistic(self, function: Callable[[np.ndarray], float]) -> Interval:
        return bootstrap_statistic(function, self._patients, **self._options)
