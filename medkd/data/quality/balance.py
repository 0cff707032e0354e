"""Balance: classes and attributes in each part of the split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medkd.config import Config
from medkd.data.findings import Finding, Level
from medkd.data.labels import class_of
from medkd.data.quality.examine import Examined
from medkd.data.quality.privacy import personal
from medkd.types import UNLABELLED, Case, Split, Task

MOST_GROUPS = 12  # distinct values of an attribute; more are names or numbers
SHIFTED = 0.15  # of the cases: a share that differs by more, and by more than chance
CHANCE = 3  # standard errors
WITHOUT = "no finding"  # of images that may have several


@dataclass(frozen=True)
class Balance:
    """How often something occurs in each part.

    Attributes:
        what: a class, or an attribute and its value.
        counts: cases of each part that have it.
        of: cases of each part that could.
    """

    what: str
    counts: dict[str, int]
    of: dict[str, int]

    def share(self, part: str) -> float:
        """Share of a part's cases."""
        return self.counts[part] / self.of[part] if self.of[part] else 0.0


def balance(
    cases: Mapping[str, Case], examined: Mapping[str, Examined], split: Split, config: Config
) -> list[Balance]:
    """Count classes, and the values of attributes that have few, in each part of the split.

    The values are shown, so columns that speak of persons are left out.
    """
    groups = {**_classes(cases, examined, config), **_attributes(cases, config)}
    return [_counted(what, having, split) for what, having in groups.items()]


def _classes(
    cases: Mapping[str, Case], examined: Mapping[str, Examined], config: Config
) -> dict[str, dict[str, bool]]:
    labelled = {case_id: case for case_id, case in cases.items() if case.label is not None}
    if config.has_findings:
        return _findings(labelled, config)
    if config.task is Task.CLASSIFICATION:
        return {
            name: {case_id: case.label == value for case_id, case in labelled.items()}
            for name, value in config.data.labels.items()
        }
    return {
        name: {
            case_id: value in examined[case_id].voxels
            for case_id, case in labelled.items()
            if case.annotated is None or name in case.annotated
        }
        for name, value in config.data.labels.items()
    }


def _findings(labelled: Mapping[str, Case], config: Config) -> dict[str, dict[str, bool]]:
    """Return which cases have each finding, of those that were judged, and which have none."""
    truth = {case_id: class_of(case, config) for case_id, case in labelled.items()}
    found = {
        name: {i: bool(told[index]) for i, told in truth.items() if told[index] != UNLABELLED}
        for index, name in enumerate(config.classes)
    }
    whole = {case_id: told for case_id, told in truth.items() if (told != UNLABELLED).all()}
    return found | {WITHOUT: {case_id: not told.any() for case_id, told in whole.items()}}


def _attributes(cases: Mapping[str, Case], config: Config) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = {}
    columns = dict.fromkeys(name for case in cases.values() for name in case.attributes)
    for column in columns:
        said = {case_id: case.attributes.get(column, "") for case_id, case in cases.items()}
        values = sorted(set(said.values()))
        is_part = column == config.data.split.column
        of_persons = personal(column, values) or _tells_patients(said, cases)
        if not is_part and 1 < len(values) <= MOST_GROUPS and not of_persons:
            for value in values:
                what = f"{column}: {value or 'not given'}"
                found[what] = {case_id: own == value for case_id, own in said.items()}
    return found


def _tells_patients(said: Mapping[str, str], cases: Mapping[str, Case]) -> bool:
    """Whether each value is of one patient, as an id under another name is."""
    pairs = {(value, cases[case_id].patient) for case_id, value in said.items()}
    return len(pairs) == len(set(said.values()))


def _counted(what: str, having: Mapping[str, bool], split: Split) -> Balance:
    parts = {part: [having[i] for i in ids if i in having] for part, ids in vars(split).items()}
    counts = {part: sum(said) for part, said in parts.items()}
    return Balance(what, counts, {part: len(said) for part, said in parts.items()})


def unbalanced(found: Sequence[Balance]) -> Iterator[Finding]:
    """Name what train lacks but another part holds, and shares that chance does not explain."""
    for row in found:
        held = [part for part, count in row.counts.items() if count]
        if held and not row.counts["train"]:
            message = f"{row.what}: in {' and '.join(held)}, but in no training case"
            remedy = "name its column in data.split.stratify, or add such cases"
            yield Finding(None, Level.WARNING, message, remedy)
        elif _is_shifted(row):
            shares = ", ".join(f"{row.share(part):.0%} of {part}" for part in row.of)
            remedy = "name its column in data.split.stratify, or choose another data.split.seed"
            yield Finding(None, Level.WARNING, f"{row.what}: {shares}", remedy)


def _is_shifted(row: Balance) -> bool:
    total, everything = sum(row.counts.values()), sum(row.of.values())
    share = total / everything if everything else 0.0
    return any(
        abs(row.share(part) - share)
        > max(SHIFTED, CHANCE * np.sqrt(share * (1 - share) / row.of[part]))
        for part in row.of
        if row.of[part]
    )
