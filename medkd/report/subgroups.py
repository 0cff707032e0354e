"""Subgroups: whether a mean hides a group that is served worse."""

import math
from typing import Any

from medkd.report.drawing import COLOURS, MARKERS, Drawing, legend, svg
from medkd.report.tables import UNKNOWN, Cell, Table, heads, interval_cell, role_head, roles_of
from medkd.report.wording import MINUS, ROLES, number, sentence, title
from medkd.results import Interval, Report, Subgroup
from medkd.types import Role

TOO_FEW = Cell("not estimated", mood="open")


def table(report: Report) -> Table:
    """Return a row a group: how many it holds, each role's figure and the student's difference."""
    if not report.subgroups:
        return Table("", (), ())
    roles = [result.role for result in roles_of(report)]
    key = report.subgroups[0].figure
    rows = []
    for group in report.subgroups:
        figures = [group.by_role.get(role) for role in roles]
        cells = [_figure(report, group, key, figure) for figure in figures]
        difference = UNKNOWN if group.by_role else TOO_FEW
        if group.difference:
            difference = _figure(report, group, key, group.difference, signed=True)
        name = Cell(group.group, _attribute(group.attribute))
        size = Cell(str(group.patients), f"{group.cases} cases")
        rows.append((name, size, *cells, difference))
    student = f"{ROLES[Role.STUDENT]} {MINUS} {ROLES[Role.TEACHER].lower()}"
    head = heads("Group", "Patients", *map(role_head, roles), student)
    caption = f"{title(key)} by group, with 95 % intervals by patient. {_gaps(report)}"
    return Table(caption, head, tuple(rows))


def forest(report: Report) -> Drawing | None:
    """Draw each role's figure in each group with its interval."""
    shown = [
        group
        for group in report.subgroups
        if group.by_role and not any(math.isnan(f.value) for f in group.by_role.values())
    ]
    if not shown:
        return None
    results = roles_of(report)

    def draw(figure: Any) -> None:  # noqa: ANN401
        axis = figure.subplots()
        for place, group in enumerate(shown):
            for lane, result in enumerate(results):
                height = place + (lane - (len(results) - 1) / 2) * 0.22
                _point(axis, group, result.role, height)
        labels = [f"{_attribute(g.attribute)}: {g.group} ({g.patients})" for g in shown]
        axis.set_yticks(range(len(shown)), labels=labels)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlabel(title(shown[0].figure))
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        legend(figure, results)

    names = ", ".join(f"{group.attribute} {group.group}" for group in shown)
    return Drawing(
        svg(draw, height=1.1 + 0.62 * len(shown)),
        f"{sentence(shown[0].figure)} of each model for {names}, with 95 % intervals.",
        "Each group by itself, with the number of its patients and 95 % intervals. Groups of too "
        "few patients, or without a label of each structure, are left out.",
    )


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def _attribute(name: str) -> str:
    kind, _, structure = name.partition("/")
    return f"Volume of {structure}, ml" if structure else sentence(kind)


def _figure(
    report: Report, group: Subgroup, key: str, figure: Interval | None, *, signed: bool = False
) -> Cell:
    """Write a figure over its interval; what the group holds stands in a column of its own."""
    if not group.by_role:
        return TOO_FEW
    shown = interval_cell(figure, key=key, report=report, signed=signed)
    return Cell(shown.text, shown.below.partition(" over ")[0], shown.mood)


def _gaps(report: Report) -> str:
    """Say how far the student's groups are apart."""
    figure = report.subgroups[0].figure
    return " ".join(
        f"Largest gap of the student by {_lower(_attribute(name))}: {number(gap, key=figure)}."
        for name, gap in report.gaps.items()
    )


def _point(axis: Any, group: Subgroup, role: Role, height: float) -> None:  # noqa: ANN401
    figure, colour = group.by_role[role], COLOURS[role]
    if figure.low is not None and figure.high is not None:
        axis.plot([figure.low, figure.high], [height] * 2, color=colour, linewidth=1.8)
    axis.plot([figure.value], [height], marker=MARKERS[role], color=colour, markersize=5)
