"""Duplicates: images that are the same pixel by pixel, or nearly, and where the split puts them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined
from medkd.data.quality.perceptual import near_pairs
from medkd.types import Case, Split

REMEDY = "give both one patient, or remove one"


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
            yield _said(cases[case_id], cases[first], side, "the same image as")
    for pair in _near(examined):
        first, second = sorted(pair, key=by_part)
        is_one = cases[first].patient == cases[second].patient
        if not is_one and examined[first].pixels != examined[second].pixels:
            yield _said(cases[second], cases[first], side, "nearly the same image as")


def _alike(examined: Mapping[str, Examined]) -> dict[str, list[str]]:
    with_pixels: dict[str, list[str]] = defaultdict(list)
    for case_id, found in examined.items():
        if found.pixels:
            with_pixels[found.pixels].append(case_id)
    return with_pixels


def _near(examined: Mapping[str, Examined]) -> Iterator[tuple[str, str]]:
    """Yield pairs of ids whose perceptual hashes are near."""
    hashed = {case_id: found.perceptual for case_id, found in examined.items() if found.perceptual}
    ids = list(hashed)
    rows = np.frombuffer(bytes.fromhex("".join(hashed.values())), np.uint8).reshape(-1, 32)
    for first, second in near_pairs(rows):
        yield ids[first], ids[second]


def _said(case: Case, first: Case, side: Mapping[str, str], what: str) -> Finding:
    sides = (side.get(case.id), side.get(first.id))
    is_parted = sides[0] != sides[1]
    level = Level.WARNING if case.patient != first.patient or is_parted else Level.NOTE
    if is_parted and not what.startswith("nearly"):
        level = Level.ERROR
    places = tuple(f" ({part})" if part else "" for part in sides)
    message = f"case {{cases[0]}}{places[0]} has {what} case {{cases[1]}}{places[1]}"
    if isinstance(case.label, int | tuple) and case.label != first.label:
        message += " and another class" if isinstance(case.label, int) else " and other findings"
    return Finding(None, level, message, REMEDY, cases=(case.id, first.id))
