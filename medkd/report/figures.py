"""Figures: results become drawings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medkd.report.drawing import COLOURS, MARKERS, WIDTH, Drawing, legend, svg
from medkd.report.margins import margins as paired_margins
from medkd.report.tables import roles_of
from medkd.report.wording import (
    MINUS,
    ROLES,
    amount,
    in_order,
    less_is_better,
    title,
)
from medkd.results import Comparison, Interval, Reliability, Report, RoleResult
from medkd.types import Role, Task

GOLDEN = 0.6180339887  # spreads points evenly, and the same way every time
MOST_DIFFERENCES = 6  # panels; the table has them all
NEIGHBOURS = 1.6  # times of releases whose names would cover each other
LINE_POINTS = 13  # height of a name
FEW = 30  # a share of fewer says little


def reliability(report: Report) -> Drawing | None:
    """Draw confidence against accuracy, a panel for each role, with the counts below."""
    results = [r for r in roles_of(report) if any(r.reliability.count)]
    if not results:
        return None

    def draw(figure: Any) -> None:  # noqa: ANN401
        grid = {"height_ratios": (3, 1)}
        axes = figure.subplots(
            2, len(results), sharex=True, sharey="row", squeeze=False, gridspec_kw=grid
        )
        for column, result in enumerate(results):
            _reliability_panel(axes[0][column], result)
            _count_panel(axes[1][column], result)
        unit = "voxels" if report.task is Task.SEGMENTATION else "cases"
        unit = "findings judged" if report.has_findings else unit
        axes[0][0].set_ylabel("share that was right")
        axes[1][0].set_ylabel(unit)

    return Drawing(
        svg(draw, width=WIDTH * (len(results) + 0.2) / 3.2, height=4.3),
        f"Reliability diagrams of {_names(results)}: accuracy against confidence in equal-width "
        "bins, with the count of each bin below.",
        "Confidence against accuracy. On the diagonal, a class given 80 % is right 8 times of 10; "
        f"below it the model is overconfident. Hollow marks stand for fewer than {FEW}, which say "
        "little. The bars count what each bin holds, on a logarithmic scale.",
    )


def per_case(report: Report) -> Drawing | None:
    """Draw every case and a box for each structure and role."""
    results = [r for r in roles_of(report) if r.cases]
    keys = _structures(results)
    if not keys:
        return None

    def draw(figure: Any) -> None:  # noqa: ANN401
        axis = figure.subplots()
        for place, key in enumerate(keys):
            for lane, result in enumerate(results):
                height = place + (lane - (len(results) - 1) / 2) * 0.26
                _strip(axis, _values(result, key), height, result.role)
        labels = [key.partition("/")[2] or "all cases" for key in keys]
        axis.set_yticks(range(len(keys)), labels=labels)
        axis.set_ylim(len(keys) - 0.4, -0.6)
        axis.set_xlabel(title(keys[0]))
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        legend(figure, results)

    figure, each = title(keys[0])[:-2], ", by structure," if "/" in keys[0] else ""
    return Drawing(
        svg(draw, height=1.3 + 0.95 * len(keys)),
        f"{figure} of every test case{each} for {_names(results)}, as points and box plots.",
        f"{figure} of every test case. Boxes hold the middle half of the cases and the line is "
        "their median; whiskers reach the last case within 1.5 box lengths.",
    )


def differences(report: Report) -> Drawing | None:
    """Draw the paired differences with their intervals, and the margins of the gates."""
    chosen = [c for c in report.comparisons if "/" not in c.figure and _is_finite(c)]
    figures = in_order([c.figure for c in chosen])[:MOST_DIFFERENCES]
    if not figures:
        return None
    pairs = list(dict.fromkeys((c.of, c.minus) for c in chosen))
    margins = paired_margins(report)

    def draw(figure: Any) -> None:  # noqa: ANN401
        columns = min(3, len(figures))
        rows = math.ceil(len(figures) / columns)
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        for axis, key in zip(axes, figures, strict=False):
            _forest(axis, [c for c in chosen if c.figure == key], pairs, margins)
            axis.set_title(title(key))
        for axis in list(axes)[len(figures) :]:
            axis.set_axis_off()

    rows = math.ceil(len(figures) / min(3, len(figures)))
    return Drawing(
        svg(draw, height=rows * (0.95 + 0.36 * len(pairs))),
        "Paired differences between the models with their 95 % intervals; a solid line marks no "
        "difference, a dashed line the margin of a gate.",
        "Paired differences on the same cases with 95 % intervals by patient. The solid line is "
        "no difference; a dashed line is the margin that a gate sets.",
    )


@dataclass(frozen=True)
class _Point:
    """A release in the plane of accuracy and time."""

    name: str
    role: Role
    value: Interval
    p50_ms: float


def trade(report: Report) -> Drawing | None:
    """Draw accuracy against file-to-file latency of every release, and the Pareto front."""
    keys = in_order([key for r in roles_of(report) if r.latency for key in r.headline])
    points = _points(report, keys[0]) if keys else []
    if len(points) < 2:
        return None
    front = _front(points, less=less_is_better(keys[0]))

    def draw(figure: Any) -> None:  # noqa: ANN401
        axis = figure.subplots()
        axis.plot(
            [p.p50_ms for p in front],
            [p.value.value for p in front],
            color="#7a828a",
            linewidth=1,
            linestyle=(0, (4, 3)),
            drawstyle="steps-post",
        )
        for point, rise in _labelled(points):
            _trade_point(axis, point, rise=rise)
        axis.set_xscale("log", subs=(2, 5))
        axis.xaxis.set_major_formatter(_amount)
        axis.xaxis.set_minor_formatter(_amount)
        axis.set_xlabel("file to file, p50, ms (logarithmic) ↓")
        axis.set_ylabel(title(keys[0]))
        axis.margins(x=0.35, y=0.25)
        axis.grid()

    figure, best = title(keys[0])[:-2], ", ".join(p.name for p in front)
    return Drawing(
        svg(draw, width=7.4, height=3.4),
        f"{figure} against file-to-file latency for {', '.join(p.name for p in points)}; on the "
        f"Pareto front: {best}.",
        f"{figure} with its 95 % interval against the time of an answer. The dashed line is the "
        f"Pareto front ({best}): no other release is both faster and more accurate.",
    )


def _points(report: Report, key: str) -> list[_Point]:
    """Every release that was measured: those of the roles, then further variants of them."""
    of_roles = [
        _Point(ROLES[r.role].lower(), r.role, r.headline[key], r.latency.file_to_file_ms.p50)
        for r in roles_of(report)
        if r.latency and key in r.headline
    ]
    further = [
        _Point(p.name, p.role, p.value, p.latency.file_to_file_ms.p50)
        for p in report.releases
        if p.figure == key
    ]
    return [p for p in (*of_roles, *further) if math.isfinite(p.value.value)]


def _front(points: Sequence[_Point], *, less: bool) -> list[_Point]:
    """Those that no other point beats in time and accuracy, from fast to slow."""
    front: list[_Point] = []
    for point in sorted(points, key=lambda p: (p.p50_ms, _badness(p, less=less))):
        if not front or _badness(point, less=less) < _badness(front[-1], less=less):
            front.append(point)
    return front


def _labelled(points: Sequence[_Point]) -> list[tuple[_Point, float]]:
    """Give each point the rise of its name, so that names of releases that lie close are apart."""
    groups: list[list[_Point]] = []
    for point in sorted(points, key=lambda p: p.p50_ms):
        if groups and point.p50_ms < NEIGHBOURS * groups[-1][-1].p50_ms:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [
        (point, LINE_POINTS * (place - (len(group) - 1) / 2))
        for group in groups
        for place, point in enumerate(sorted(group, key=lambda p: p.value.value))
    ]


def _badness(point: _Point, *, less: bool) -> float:
    return point.value.value if less else -point.value.value


def _names(results: Sequence[RoleResult]) -> str:
    return ", ".join(r.role.value for r in results)


def _amount(value: int | float, place: int | None) -> str:
    del place
    return amount(value)


def _reliability_panel(axis: Any, result: RoleResult) -> None:  # noqa: ANN401
    points = _occupied(result.reliability)
    axis.plot([0, 1], [0, 1], color="#7a828a", linewidth=1, linestyle=(0, (4, 3)))
    colour, marker = COLOURS[result.role], MARKERS[result.role]
    for many, style in ((True, {}), (False, {"linestyle": "none", "markerfacecolor": "none"})):
        shown = [(c, a) for c, a, count in points if (count >= FEW) is many]
        axis.plot(*zip(*shown, strict=True), color=colour, marker=marker, markersize=5, **style)
    axis.set_title(ROLES[result.role])
    axis.set_xlim(0, 1.03)
    axis.set_ylim(0, 1.03)
    axis.grid()


def _count_panel(axis: Any, result: RoleResult) -> None:  # noqa: ANN401
    points = _occupied(result.reliability)
    bars = [[confidence for confidence, _, _ in points], [count for _, _, count in points]]
    axis.bar(*bars, width=0.045, color=COLOURS[result.role])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_amount)
    axis.set_xlabel("confidence")


def _occupied(curve: Reliability) -> list[tuple[float, float, int]]:
    bins = zip(curve.confidence, curve.accuracy, curve.count, strict=True)
    return [(c, a, n) for c, a, n in bins if c is not None and a is not None and n]


def _structures(results: Sequence[RoleResult]) -> list[str]:
    """The first figure of the cases: of each structure, or of the whole case."""
    keys = in_order([key for r in results for case in r.cases for key in case.figures])
    keys = [key for key in keys if key != "correct"]  # yes or no makes no picture
    if not keys:
        return []
    of_figure = [key for key in keys if key.partition("/")[0] == keys[0].partition("/")[0]]
    return [key for key in of_figure if "/" in key] or of_figure


def _values(result: RoleResult, key: str) -> list[float]:
    values = [case.figures[key] for case in result.cases if key in case.figures]
    return [value for value in values if math.isfinite(value)]


def _strip(axis: Any, values: Sequence[float], height: float, role: Role) -> None:  # noqa: ANN401
    if not values:
        return
    lines = {"color": "#2b3138", "linewidth": 1}
    axis.boxplot(
        [values],
        positions=[height],
        orientation="horizontal",
        widths=0.2,
        showfliers=False,
        manage_ticks=False,
        zorder=3,
        boxprops=lines,
        whiskerprops=lines,
        capprops=lines,
        medianprops={"color": "#000000", "linewidth": 1.6},
    )
    spread = [height + (place * GOLDEN % 1 - 0.5) * 0.16 for place in range(len(values))]
    axis.plot(
        values,
        spread,
        linestyle="none",
        marker=MARKERS[role],
        markersize=4,
        markeredgewidth=0,
        color=COLOURS[role],
        alpha=0.55,
    )


def _is_finite(comparison: Comparison) -> bool:
    return math.isfinite(comparison.difference.value)


def _forest(
    axis: Any,  # noqa: ANN401
    comparisons: Sequence[Comparison],
    pairs: Sequence[tuple[Role, Role]],
    margins: Mapping[tuple[str, Role, Role], float],
) -> None:
    axis.axvline(0, color="#3b434b", linewidth=1)
    for c in comparisons:
        place, value = pairs.index((c.of, c.minus)), c.difference.value
        colour = COLOURS[c.of]
        if c.difference.low is not None and c.difference.high is not None:
            axis.plot([c.difference.low, c.difference.high], [place] * 2, color=colour, linewidth=2)
        axis.plot([value], [place], marker=MARKERS[c.of], color=colour, markersize=6)
        margin = margins.get((c.figure, c.of, c.minus))
        if margin is not None:
            reach = [place - 0.4, place + 0.4]
            axis.plot([margin] * 2, reach, color="#000000", linestyle=(0, (3, 2)), linewidth=1.6)
    labels = [f"{ROLES[of]} {MINUS} {ROLES[minus].lower()}" for of, minus in pairs]
    axis.set_yticks(range(len(pairs)), labels=labels)
    axis.set_ylim(len(pairs) - 0.4, -0.6)
    worse, better = (
        ("better", "worse")
        if less_is_better(comparisons[0].figure)
        else (
            "worse",
            "better",
        )
    )
    axis.set_xlabel(f"← {worse}  |  {better} →")
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def _trade_point(axis: Any, point: _Point, *, rise: float) -> None:  # noqa: ANN401
    time, figure, colour = point.p50_ms, point.value, COLOURS[point.role]
    if figure.low is not None and figure.high is not None:
        axis.plot([time, time], [figure.low, figure.high], color=colour, linewidth=1.6)
    axis.plot([time], [figure.value], marker=MARKERS[point.role], color=colour, markersize=7)
    axis.annotate(
        point.name,
        (time, figure.value),
        (8, rise),
        textcoords="offset points",
        va="center",
        color=colour,
        fontweight="bold",
    )
