"""Duplicates: images that are the same pixel by pixel, or nearly, and where the split puts them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined
from medkd.data.quality.perceptual import near_groups
from medkd.types import Case, Split

REMEDY = "give both one patient, or remove one"
SHOWN = 8  # of many images that are nearly one; all are in the finding


def duplicates(
    cases: Mapping[str, Case], examined: Mapping[str, Examined], split: Split | None
) -> Iterator[Finding]:
    """Yield the images that occur twice; on two sides of the split an equal one is an error."""
    side = {case_id: part for part, ids in vars(split).items() for case_id in ids} if split else {}
    parts = list(vars(split)) if split else []

    def by_part(case_id: str) -> int:
        return parts.index(side[case_id]) if case_id in side else 0

    for ids in _alike(examined).values():
        first, *others = sorted(ids, key=by_part)
        for case_id in others:
            yield _equal(cases[case_id], cases[first], side)
    for ids in _near(examined):
        each: dict[str, str] = {}  # that equal images are equal has been said
        for case_id in sorted(ids, key=by_part):
            each.setdefault(examined[case_id].pixels, case_id)
        first, *others = each.values()
        others = [i for i in others if cases[i].patient != cases[first].patient]
        if others:
            yield _nearly_equal([cases[i] for i in (first, *others)], side)


def _alike(examined: Mapping[str, Examined]) -> dict[str, list[str]]:
    with_pixels: dict[str, list[str]] = defaultdict(list)
    for case_id, found in examined.items():
        if found.pixels:
            with_pixels[found.pixels].append(case_id)
    return with_pixels


def _near(examined: Mapping[str, Examined]) -> Iterator[list[str]]:
    """Yield groups of ids whose perceptual hashes are near."""
    hashed = {case_id: found.perceptual for case_id, found in examined.items() if found.perceptual}
    ids = list(hashed)
    rows = np.frombuffer(bytes.fromhex("".join(hashed.values())), np.uint8).reshape(-1, 32)
    for group in near_groups(rows):
        yield [ids[row] for row in group]


def _equal(case: Case, first: Case, side: Mapping[str, str]) -> Finding:
    level = Level.WARNING if case.patient != first.patient else Level.NOTE
    if side.get(case.id) != side.get(first.id):
        level = Level.ERROR
    ids = (case.id, first.id)
    message = f"{_placed(ids, side, 0)} has the same image as {_placed(ids, side, 1)}"
    return Finding(None, level, message + _contradiction([case, first]), REMEDY, cases=ids)


def _nearly_equal(cases: Sequence[Case], side: Mapping[str, str]) -> Finding:
    """Say in one finding how many images are near to one another; the first is named last."""
    first, *others = cases
    ids = (*(case.id for case in others), first.id)
    shown = [_placed(ids, side, number) for number in range(min(len(others), SHOWN))]
    if len(others) > SHOWN:
        shown.append(f"{len(others) - SHOWN} others")
    has = "have" if len(others) > 1 else "has"
    message = f"{', '.join(shown)} {has} nearly the same image as {_placed(ids, side, len(others))}"
    message += _contradiction(cases)
    return Finding(None, Level.WARNING, message, REMEDY, cases=ids)


def _contradiction(cases: Sequence[Case]) -> str:
    labels = {case.label for case in cases}
    if len(labels) == 1 or not all(isinstance(label, int | tuple) for label in labels):
        return ""
    return " and other findings" if isinstance(cases[0].label, tuple) else " and another class"


def _placed(ids: Sequence[str], side: Mapping[str, str], number: int) -> str:
    part = side.get(ids[number])
    return f"case {{cases[{number}]}}" + (f" ({part})" if part else "")
