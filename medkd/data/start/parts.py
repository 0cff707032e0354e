"""Parts: the split that a data set brings, completed where it lacks what a study needs."""

from collections.abc import Sequence
from dataclasses import replace

from medkd.data.splits import split_cases
from medkd.data.start.layout import Layout, Row
from medkd.options import SplitOptions
from medkd.types import Case

SHARES = {"validation": 0.1, "test": 0.2}  # of the patients


def judged(layout: Layout) -> Layout:
    """Leave out what cannot be judged by: cases of validation and test that have no label.

    They are not moved to training, for then the data set's own test would be spoilt. Without
    training cases there is no split of the data set's own.
    """
    if not layout.has_parts or not any(row.part == "train" for row in layout.rows):
        return replace(layout, rows=_without_parts(layout.rows))
    kept = tuple(row for row in layout.rows if row.part == "train" or row.label is not None)
    lost = len(layout.rows) - len(kept)
    if all(row.part == "train" for row in kept):
        kept = _without_parts(kept)
    layout = replace(layout, rows=kept)
    if not lost:
        return layout
    return layout.noting(f"{lost} cases of validation or test have no label, so they are left out")


def dealt(layout: Layout, cases: Sequence[Case]) -> Layout:
    """Deal the parts that are lacking from the training cases, by patient.

    Args:
        layout: whose rows may name parts.
        cases: of the rows, with their patients.

    Raises:
        DataError: too few patients.
    """
    there = {row.part for row in layout.rows}
    for part, share in SHARES.items():
        if "train" in there and part not in there:
            train = [c for c, row in zip(cases, layout.rows, strict=True) if row.part == "train"]
            # the other share goes back, so that both are dealt by what labels hold
            chosen = split_cases(train, SplitOptions(validation=SHARES["validation"], test=share))
            held_out = set(chosen.test)
            rows = [replace(r, part=part) if r.case in held_out else r for r in layout.rows]
            layout = replace(layout, rows=tuple(rows), dealt=(*layout.dealt, part))
    return layout


def _without_parts(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(replace(row, part="") for row in rows)
