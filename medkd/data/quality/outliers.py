"""Outliers: cases unlike the rest of the cohort, by medians that they cannot shift themselves.

A case is far from the rest where its modified z-score exceeds 3.5 (Iglewicz and Hoaglin 1993), on
the logarithm of the measure, and where the difference would matter at all.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from medkd.config import Config
from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined, channel_names

FAR = 3.5
LEAST_CASES = 10  # of fewer nobody can say what is usual
COMMON = 0.1  # of the cases: if more are far, it is the cohort that varies
EXPECTED = 0.9  # of the cases hold a structure: it is missed where it is absent
AXES = {
    2: ("from top to bottom", "from left to right"),
    3: ("from left to right", "from back to front", "from foot to head"),
}
LOOK = "look at it, and correct or remove it if it does not belong"


@dataclass(frozen=True)
class Measure:
    """A positive number of each case that should be alike in a cohort.

    Attributes:
        name: of what is measured.
        unit: of the number.
        factor: a difference below this matters to nobody.
        of: reads it off a case; None where the case has none.
        where_common: what it means if the cohort varies.
    """

    name: str
    unit: str
    factor: float
    of: Callable[[Examined], float | None]
    where_common: str = ""


def outliers(examined: Mapping[str, Examined], config: Config) -> Iterator[Finding]:
    """Yield what sets cases apart from their cohort: grid, intensities, structures."""
    read = {case_id: found for case_id, found in examined.items() if found.intensities}
    absent = list(_absent(read, config))
    yield from absent
    yield from _empty(read, told={finding.case for finding in absent})
    if len(read) < LEAST_CASES:
        return
    measures = [*_grid_measures(config.dims), *_range_measures(read.values(), config)]
    measures += _volume_measures(config)
    found = [finding for measure in measures for finding in _far(read, measure)]
    yield from _together(found)
    yield from _turned(read)


def _together(found: Sequence[Finding]) -> Iterator[Finding]:
    """Say in one finding all that is far of a case."""
    of_case: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in found:
        of_case[finding.case].append(finding)
    yield from of_case.pop(None, [])
    for findings in of_case.values():
        yield replace(findings[0], message="; ".join(finding.message for finding in findings))


def _along(values: Sequence[float] | Sequence[int], axis: int) -> float | None:
    return float(values[axis]) if axis < len(values) else None


def _grid_measures(dims: int) -> Iterator[Measure]:
    resampled = "preprocess.spacing_mm brings all of them to one"
    for axis, name in enumerate(AXES[dims]):
        yield Measure(
            f"spacing {name}",
            "mm",
            1.1,
            lambda found, axis=axis: _along(found.grid[1], axis),  # type: ignore[misc]
            resampled,
        )
        yield Measure(
            f"size {name}",
            "voxels",
            1.5,
            lambda found, axis=axis: _along(found.grid[0], axis),  # type: ignore[misc]
        )


def _range_measures(read: Iterable[Examined], config: Config) -> Iterator[Measure]:
    """Yield one of all that is judged together: of each channel, or of the image."""
    count = min(len(found.by_channel) for found in read)
    names = channel_names(count, config.preprocess.modalities)
    for number, name in enumerate(names or [""]):
        yield Measure(
            f"range of intensities{f' of {name}' if name else ''}",
            "from percentile 0.5 to 99.5",
            4.0,
            lambda found, number=number: _range(found, number),  # type: ignore[misc]
            "a common scale is there only after normalising each image by itself",
        )


def _range(found: Examined, number: int) -> float | None:
    spread = found.by_channel[number] if found.by_channel else found.intensities
    return spread.high - spread.low if spread else None


def _volume_measures(config: Config) -> Iterator[Measure]:
    for name, value in config.data.labels.items():
        yield Measure(
            f"volume of {name}",
            "ml" if config.dims == 3 else "cm²",
            2.0,
            lambda found, value=value: found.voxels.get(value, 0) * found.voxel_ml,  # type: ignore[misc]
        )


def _far(read: Mapping[str, Examined], measure: Measure) -> Iterator[Finding]:
    said = {case_id: measure.of(found) for case_id, found in read.items()}
    values = {case_id: value for case_id, value in said.items() if value and value > 0}
    if len(values) < LEAST_CASES:
        return
    logs = np.log(list(values.values()))
    middle = float(np.median(logs))
    usual = 1.4826 * float(np.median(np.abs(logs - middle)))
    limit = max(FAR * usual, np.log(measure.factor))
    far = [case_id for case_id, log in zip(values, logs, strict=True) if abs(log - middle) > limit]
    if len(far) > COMMON * len(values):
        yield Finding(
            None,
            Level.NOTE,
            f"the {measure.name} varies: {min(values.values()):.4g} to {max(values.values()):.4g}, "
            f"median {np.exp(middle):.4g} {measure.unit}; {len(far)} of {len(values)} cases are "
            f"far from it",
            measure.where_common,
        )
        return
    for case_id in far:
        message = (
            f"the {measure.name} is {values[case_id]:.4g}, in the median case "
            f"{np.exp(middle):.4g} ({measure.unit})"
        )
        yield Finding(case_id, Level.WARNING, message, LOOK)


def _turned(read: Mapping[str, Examined]) -> Iterator[Finding]:
    counts = Counter(found.orientation for found in read.values())
    (usual, most), *others = counts.most_common()
    rare = {codes for codes, count in others if count <= COMMON * len(read)}
    common = {codes: count for codes, count in counts.items() if codes not in rare}
    if len(common) > 1:
        shares = ", ".join(f"{count} {codes}" for codes, count in common.items())
        yield Finding(None, Level.NOTE, f"the cases are stored in several orientations: {shares}")
    for case_id, found in read.items():
        if found.orientation in rare:
            message = f"is stored as {found.orientation}, {most} of {len(read)} cases as {usual}"
            yield Finding(case_id, Level.WARNING, message, "see whether its header is right")


def _absent(read: Mapping[str, Examined], config: Config) -> Iterator[Finding]:
    """Name the labels without a structure that nearly all others that cover it hold."""
    labelled = {case_id: found for case_id, found in read.items() if found.voxels}
    holding = {
        name: {
            case_id: value in found.voxels
            for case_id, found in labelled.items()
            if found.covers is None or name in found.covers
        }
        for name, value in config.data.labels.items()
    }
    usual = [
        name
        for name, held in holding.items()
        if len(held) >= LEAST_CASES and sum(held.values()) >= EXPECTED * len(held)
    ]
    for case_id, found in labelled.items():
        missed = [name for name in usual if holding[name].get(case_id) is False]
        if missed:
            empty = "its label is empty: " if _is_empty(found) else ""
            held = ", ".join(
                f"{sum(holding[name].values())} of {len(holding[name])} cases" for name in missed
            )
            message = f"{empty}no {', no '.join(missed)}, which {held} hold"
            yield Finding(case_id, Level.WARNING, message, "draw what is missing, or say so in use")


def _empty(read: Mapping[str, Examined], *, told: Set[str | None]) -> Iterator[Finding]:
    """Count the empty labels of a cohort in which that is not unusual."""
    labelled = [case_id for case_id, found in read.items() if found.voxels]
    empty = tuple(i for i in labelled if _is_empty(read[i]) and i not in told)
    if empty:
        message = f"{len(empty)} of {len(labelled)} labels are empty, first that of {{cases[0]}}"
        remedy = "see that they are of cases that show nothing, and not of cases nobody has drawn"
        yield Finding(None, Level.NOTE, message, remedy, cases=empty)


def _is_empty(found: Examined) -> bool:
    return set(found.voxels) <= {0}
