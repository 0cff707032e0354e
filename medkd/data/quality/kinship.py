"""Kinship: cases that names, numbering and intensities show to be of one undeclared patient."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined
from medkd.types import Case, Split

NAMED = {  # what is left of a name without this is the patient's
    "side": r"(?i)(?:^|[_\-. ])(?:left|right|lh|rh|od|os|l|r)(?=$|[_\-. ])",
    "visit": r"(?i)[_\-. ](?:ses|session|visit|tp|time|scan|day|t|v)[_\-]?\d+(?=$|[_\-. ])",
    "slice or frame": r"(?i)[_\-. ](?:slice|frame|sl|z|s|f|img|image)[_\-]?\d+(?=$|[_\-. ])",
    "last number": r"(?<=\d)[_\-. ]\d{1,4}$",
}
COVERED = 0.2  # of the cases: fewer namesakes are chance
LEAST_PAIRS = 8
DRAWS = 999  # random pairings that the numbered ones are compared with
DRAWN_PAIRS = 1000  # at most, in each of them
ALIKE = 0.5  # of the difference between random cases, or between pairs counted the other way
REMEDY = (
    "give the cases of a patient one id in the column data.patient; check/suspected_patients.csv "
    "in the study's folder proposes them, for data.table and data.patient: suspected_patient"
)


@dataclass(frozen=True)
class Kinship:
    """Cases that seem to be of one patient, and how that is known.

    Attributes:
        groups: their ids, a tuple a patient.
        evidence: how it is known, in plain words.
    """

    groups: tuple[tuple[str, ...], ...]
    evidence: str


def kinships(cases: Mapping[str, Case], examined: Mapping[str, Examined]) -> Iterator[Kinship]:
    """Yield what suggests that cases of different patients are of one."""
    for kin in [*_by_name(list(cases)), *_by_number(examined)]:
        apart = [ids for ids in kin.groups if len({cases[i].patient for i in ids}) > 1]
        if apart:
            yield Kinship(tuple(apart), kin.evidence)


def findings_of(found: Sequence[Kinship], split: Split | None) -> Iterator[Finding]:
    """Say what was found, how it is known and what the split would do to it."""
    side = {case_id: part for part, ids in vars(split).items() for case_id in ids} if split else {}
    for kin in found:
        parted = sum(len({side.get(case_id) for case_id in ids}) > 1 for ids in kin.groups)
        message = (
            f"{sum(map(len, kin.groups))} cases seem to be of {len(kin.groups)} patients that the "
            f"datalist does not tell, such as {{cases[0]}} and {{cases[1]}}: {kin.evidence}"
        )
        if parted:
            message += f". The split parts {parted} of these patients"
        yield Finding(None, Level.WARNING, message, REMEDY, cases=kin.groups[0][:2])


def _by_name(ids: Sequence[str]) -> Iterator[Kinship]:
    """Group names that differ in a side, a visit, a slice or a last number alone."""
    for kind, pattern in NAMED.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for case_id in ids:
            rest = re.sub(pattern, "", case_id)
            if rest not in ("", case_id) and re.search(r"\d", rest):
                groups[rest].append(case_id)
        several = [tuple(group) for group in groups.values() if len(group) > 1]
        if len(several) > 1 and sum(map(len, several)) >= COVERED * len(ids):
            yield Kinship(tuple(several), f"their names differ in the {kind} alone")


def _by_number(examined: Mapping[str, Examined]) -> Iterator[Kinship]:
    """Find neighbours by number whose intensities agree as only those of one patient do."""
    numbered: dict[str, dict[int, str]] = defaultdict(dict)
    for case_id, found in examined.items():
        name = re.fullmatch(r"(.*?)(\d+)", case_id)
        if name and found.intensities:
            numbered[name[1]][int(name[2])] = case_id
    for ids in numbered.values():
        kin = _neighbours(ids, examined)
        if kin:
            yield kin


def _neighbours(ids: Mapping[int, str], examined: Mapping[str, Examined]) -> Kinship | None:
    """Compare cases 2k-1 and 2k with cases 2k and 2k+1, and both with random pairs."""
    both = [[n for n in ids if n % 2 == odd and n + 1 in ids] for odd in (1, 0)]
    if min(map(len, both)) < LEAST_PAIRS:
        return None
    row = {n: number for number, n in enumerate(ids)}
    described = np.stack([_described(examined[case_id]) for case_id in ids.values()])
    near = [
        _difference(described[[row[n] for n in first]], described[[row[n + 1] for n in first]])
        for first in both
    ]
    closest = int(np.argmin(near))
    chance = _chance(described, pairs=min(len(both[closest]), DRAWN_PAIRS))
    if near[closest] >= chance.min() or near[closest] > ALIKE * np.median(chance):
        return None
    if near[closest] > ALIKE * near[1 - closest]:  # neighbours of either kind: series, or a drift
        return None
    names = ("2k-1 and 2k", "2k and 2k+1")
    pairs = tuple((ids[n], ids[n + 1]) for n in both[closest])
    agreed = sum(examined[a].stored == examined[b].stored for a, b in pairs)
    return Kinship(
        pairs,
        f"cases {names[closest]} differ by {_percent(near[closest])} in their intensities, cases "
        f"{names[1 - closest]} by {_percent(near[1 - closest])} and random ones by "
        f"{_percent(float(np.median(chance)))}, less than in any of {DRAWS} random pairings; their "
        f"values are stored alike in {agreed} of {len(pairs)} pairs",
    )


def _described(found: Examined) -> np.ndarray:
    assert found.intensities is not None
    return np.array([found.intensities.median, found.intensities.high, found.intensities.std])


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Median over ``[pairs, measures]`` of the mean relative difference, between 0 and 1."""
    most = np.maximum(np.maximum(np.abs(one), np.abs(other)), 1e-12)
    return float(np.median(np.mean(np.minimum(np.abs(one - other) / most, 1), axis=1)))


def _chance(described: np.ndarray, *, pairs: int) -> np.ndarray:
    """The difference in as many random pairs, drawn again and again."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        order = rng.permutation(len(described))
        drawn.append(_difference(described[order[:pairs]], described[order[pairs : 2 * pairs]]))
    return np.array(drawn)


def _percent(share: float) -> str:
    return f"{share:.0%}"


def proposed(cases: Sequence[str], found: Sequence[Kinship]) -> dict[str, str]:
    """Return a patient for each case: one for all that are kin, over all that was found."""
    leader = {case_id: case_id for case_id in cases}

    def top(case_id: str) -> str:
        while leader[case_id] != case_id:
            case_id = leader[case_id]
        return case_id

    for group in itertools.chain.from_iterable(kin.groups for kin in found):
        for case_id in group[1:]:
            leader[top(case_id)] = top(group[0])
    return {case_id: top(case_id) for case_id in cases}
