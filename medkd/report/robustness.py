"""Robustness: what is left of the answers when images get worse, and what the guard notices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medkd.report.drawing import COLOURS, MARKERS, Drawing, legend, svg
from medkd.report.margins import may_lose
from medkd.report.tables import Cell, Table, heads, interval_cell, pairs, role_head, roles_of
from medkd.report.wording import number, plain, sentence, title
from medkd.results import Report, StressCurve
from medkd.types import Role

COLUMNS = 4  # panels in a row
AS_IT_IS = "as is"


def curves(report: Report) -> Drawing | None:
    """Draw a panel a stress: the figure of each role from the untouched images to the harshest."""
    if not report.stress:
        return None
    columns = min(COLUMNS, len(report.stress))
    rows = math.ceil(len(report.stress) / columns)

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axis, curve in zip(axes.flat, report.stress, strict=False):
            _panel(axis, curve)
        for axis in list(axes.flat)[len(report.stress) :]:
            axis.set_axis_off()
        for row in axes:
            row[0].set_ylabel(title(report.stress[0].figure))
        legend(figure, [r for r in roles_of(report) if r.role in report.stress[0].suffered])

    names = ", ".join(curve.stress for curve in report.stress)
    return Drawing(
        svg(draw, height=0.5 + 2.05 * rows),
        f"{sentence(report.stress[0].figure)} of each model under {names}, by strength.",
        "From the images as they are to the harshest strength, with 95 % intervals by patient. "
        "All models meet the same worse images.",
    )


def suffered(report: Report) -> Table:
    """Return what is left at each stress's harshest strength, and how much of it is flagged."""
    tried = report.stress[0].suffered if report.stress else {}
    roles = [r.role for r in roles_of(report) if r.role in tried]
    if not roles:
        return Table("", (), ())
    key = report.stress[0].figure
    usual = report.stress[0].untouched[roles[0]]
    cell = partial(interval_cell, key=key, report=report, usual=usual)
    first = [cell(report.stress[0].untouched[role]) for role in roles]
    rows = [(Cell("images as they are"), *first, Cell(""))]
    for curve in report.stress:
        cells = [cell(curve.suffered[role][-1]) for role in roles]
        name = Cell(curve.stress, f"{plain(curve.strengths[-1])} {curve.unit}")
        rows.append((name, *cells, Cell(_share(curve.flagged[-1]) if curve.flagged else "")))
    caption = (
        f"{title(key)} at the harshest strength of each stress, over {usual.cases} cases of "
        f"{usual.patients} patients."
    )
    head = heads("Stress", *map(role_head, roles), "Flagged by the guard")
    return Table(caption, head, tuple(rows))


@dataclass(frozen=True)
class Fall:
    """The mildest strength at which a role loses more than the margin, and what is left there."""

    stress: str
    unit: str
    place: int  # of the strength, from mild to harsh
    strength: float
    as_it_is: float
    left: float
    flagged: float | None  # share of such images that the guard flags


def first_fall(curve: StressCurve, role: Role, *, margin: float) -> Fall | None:
    """Return where a role first loses more than ``margin``; None where no strength did that.

    By the figures themselves: their intervals are in the drawing.
    """
    as_it_is = curve.untouched[role].value
    for place, strength in enumerate(curve.strengths):
        left = curve.suffered[role][place].value
        if as_it_is - left > margin:
            flagged = curve.flagged[place] if curve.flagged else None
            return Fall(curve.stress, curve.unit, place, strength, as_it_is, left, flagged)
    return None


def falls(report: Report) -> Table:
    """Return from which strength on each role loses more than the margin; often no rows.

    A stress that costs no role that much has none, nor has any where no criterion sets a margin.
    """
    key = report.stress[0].figure if report.stress else ""
    margin = may_lose(report, key)
    if margin is None:
        return Table("", (), ())
    roles = [r.role for r in roles_of(report) if r.role in report.stress[0].suffered]
    rows = []
    for curve in report.stress:
        found = {role: first_fall(curve, role, margin=margin) for role in roles}
        if not any(found.values()):
            continue
        own = found.get(Role.STUDENT)
        caught = _share(own.flagged) if own and own.flagged is not None else ""
        cells = [_fall_cell(fall, key) for fall in found.values()]
        rows.append((Cell(curve.stress, curve.unit), *cells, Cell(caught)))
    caption = (
        f"The mildest strength that costs more than the margin, {plain(margin)} of "
        f"{title(key)[:-2]}, and what is left there. Others cost no model that "
        "much."
    )
    flagged = Cell("Flagged by the guard", "where the student falls")
    return Table(caption, heads("Stress", *map(role_head, roles), flagged), tuple(rows))


def _fall_cell(fall: Fall | None, key: str) -> Cell:
    if fall is None:
        return Cell("at none")
    left, before = number(fall.left, key=key), number(fall.as_it_is, key=key)
    return Cell(plain(fall.strength), f"{left}, as is {before}")


def guard(report: Report) -> Table:
    """Return how often the guard lets test images pass, and foreign ones not."""
    found = report.guard
    if found is None:
        return Table("", (), ())
    passed = interval_cell(found.passed, key="sensitivity", report=report)
    rows = [(Cell("Test images that pass, share"), passed)]
    rows += [
        (Cell(f"Flagged where an image was made foreign: {how}"), Cell(_share(share)))
        for how, share in found.foreign.items()
    ]
    return pairs(rows, caption="What the guard of the releases says of the test images.")


def _panel(axis: Any, curve: StressCurve) -> None:  # noqa: ANN401
    places = range(len(curve.strengths) + 1)
    for role in (Role.TEACHER, Role.BASELINE, Role.STUDENT):
        if role not in curve.suffered:
            continue
        figures = [curve.untouched[role], *curve.suffered[role]]
        colour, values = COLOURS[role], [figure.value for figure in figures]
        axis.plot(places, values, color=colour, marker=MARKERS[role], markersize=4, linewidth=1.4)
        ends = [(f.low, f.high) for f in figures]
        if all(low is not None for low, _ in ends):
            axis.fill_between(places, *zip(*ends, strict=True), color=colour, alpha=0.12, lw=0)
    labels: Sequence[str] = (AS_IT_IS, *(plain(strength) for strength in curve.strengths))
    axis.set_xticks(list(places), labels=labels)
    axis.set_title(sentence(curve.stress))
    axis.set_xlabel(curve.unit)
    axis.grid(axis="y")


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
