"""Volumes: how far the answer's volumes agree with the reference's (Bland and Altman)."""

from typing import Any

from medkd.report.drawing import COLOURS, MARKERS, WIDTH, Drawing, svg
from medkd.report.tables import Cell, Table, heads, role_cell, roles_of
from medkd.report.wording import MINUS, ROLES, number
from medkd.results import Report, RoleResult


def table(report: Report) -> Table:
    """Return bias and limits of agreement of each structure and role."""
    rows = [
        (
            role_cell(result.role),
            Cell(structure),
            Cell(number(found.bias, signed=True)),
            Cell(f"{number(found.low, signed=True)} to {number(found.high, signed=True)}"),
            Cell(str(found.cases)),
        )
        for result in roles_of(report)
        for structure, found in result.agreement.items()
    ]
    caption = f"Volume of the answer {MINUS} of the reference, in ml (areas in cm² in 2D)."
    head = heads("Model", "Structure", "Bias", "95 % limits of agreement", "Cases")
    return Table(caption, head, tuple(rows))


def plots(report: Report) -> Drawing | None:
    """Draw mean against difference, a row a structure and a column a role."""
    results = [result for result in roles_of(report) if result.agreement]
    if not results:
        return None
    structures = list(results[0].agreement)

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots(
            len(structures), len(results), sharex="row", sharey="row", squeeze=False
        )
        for row, structure in zip(axes, structures, strict=True):
            for axis, result in zip(row, results, strict=True):
                _panel(axis, result, structure)
            row[0].set_ylabel(f"{structure}: difference, ml")
        for axis in axes[-1]:
            axis.set_xlabel("mean of both, ml")

    return Drawing(
        svg(draw, width=WIDTH, height=0.4 + 2.2 * len(structures)),
        f"Bland-Altman plots of the volume of {', '.join(structures)} for "
        f"{', '.join(result.role.value for result in results)}.",
        "Each case by the mean of both volumes and the answer’s excess over the reference. "  # noqa: RUF001
        "Solid: the bias; dashed: where 95 % of the differences are expected.",
    )


def _panel(axis: Any, result: RoleResult, structure: str) -> None:  # noqa: ANN401
    said = [case.volumes_ml for case in result.cases]
    pairs = [volumes[structure] for volumes in said if structure in volumes]
    axis.plot(
        [(measured + reference) / 2 for measured, reference in pairs],
        [measured - reference for measured, reference in pairs],
        linestyle="none",
        marker=MARKERS[result.role],
        markersize=4,
        markeredgewidth=0,
        color=COLOURS[result.role],
        alpha=0.65,
    )
    found = result.agreement[structure]
    axis.axhline(0, color="#b9bfc5", linewidth=0.8)
    axis.axhline(found.bias, color="#2b3138", linewidth=1.3)
    for limit in (found.low, found.high):
        axis.axhline(limit, color="#2b3138", linewidth=1, linestyle=(0, (4, 3)))
    axis.set_title(ROLES[result.role])
    axis.grid()
