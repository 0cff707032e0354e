"""Waterfall: where the time of an answer goes, stage after stage, as a picture and as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medkd.report.drawing import COLOURS, Drawing, svg
from medkd.report.tables import UNKNOWN, Cell, Table, heads, role_head, roles_of
from medkd.report.wording import ROLES, milliseconds, sentence
from medkd.results import Report
from medkd.types import Role

OTHERS, WHOLE = "#B9BFC5", "#2B3138"  # light and dark: told apart in grey print as well
NETWORK = "network"
FIRST, FURTHER = "first answer", "every further answer"


@dataclass(frozen=True)
class _Answer:
    """The stages of a role's answer in the order in which they pass, and the whole of it, in ms."""

    role: Role
    stages: Mapping[str, float]
    whole: float


def table(report: Report) -> Table:
    """Return the median of every stage: of an answer of a running process, and of the first one."""
    running, cold = _answers(report, cold=False), _answers(report, cold=True)
    roles = [answer.role for answer in running]
    rows = [
        (Cell(sentence(name)), *(_cell(name, role, running, cold) for role in roles))
        for name in _stages([*cold, *running])
    ]
    caption = "Median time of each stage of an answer; below, of the first one of a new process."
    return Table(caption, heads("Stage", *map(role_head, roles)), tuple(rows))


def plots(report: Report) -> Drawing | None:
    """Draw a panel a role and kind of answer, in which every bar begins where the last ended."""
    answers = {FIRST: _answers(report, cold=True), FURTHER: _answers(report, cold=False)}
    shown = {kind: found for kind, found in answers.items() if _stages(found)}
    if not shown:
        return None
    names = {kind: _stages(found) for kind, found in shown.items()}
    rows = [len(stages) + 1 for stages in names.values()]

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots(
            len(shown),
            max(map(len, shown.values())),
            sharex="row",
            sharey="row",
            squeeze=False,
            gridspec_kw={"height_ratios": rows},
        )
        for row, (kind, found) in zip(axes, shown.items(), strict=True):
            for axis, answer in zip(row, found, strict=False):
                _panel(axis, answer, names[kind])
                axis.set_title(f"{ROLES[answer.role]}: {kind}")
            for axis in row[len(found) :]:
                axis.set_axis_off()
            row[0].set_xlim(0, 1.35 * max(answer.whole for answer in found))
        for axis in axes[-1]:
            axis.set_xlabel("ms ↓")

    roles = ", ".join(answer.role.value for answer in shown[FURTHER])
    return Drawing(
        svg(draw, height=0.5 * len(shown) + 0.24 * sum(rows) + 0.4),
        f"Waterfall of the median time of {', '.join(_stages(shown[FURTHER]))} for {roles}: "
        f"{' and '.join(shown)}. The table below has the same numbers.",
        "Where the time goes, from the input file to the answer on disk: each bar begins where the "
        "one above it ended; the network is in the model’s colour, the whole is dark. "  # noqa: RUF001
        "The first answer counts from the start of the process. Medians of stages need not add "
        "up to the median of the whole.",
    )


def _answers(report: Report, *, cold: bool) -> list[_Answer]:
    return [
        _Answer(r.role, r.latency.cold_stages_ms, r.latency.cold_start_ms)
        if cold
        else _Answer(r.role, r.latency.stages_ms, r.latency.file_to_file_ms.p50)
        for r in roles_of(report)
        if r.latency and (r.latency.cold_stages_ms or not cold)
    ]


def _stages(answers: Sequence[_Answer]) -> list[str]:
    return list(dict.fromkeys(name for answer in answers for name in answer.stages))


def _cell(name: str, role: Role, running: Sequence[_Answer], cold: Sequence[_Answer]) -> Cell:
    now = next((a.stages[name] for a in running if a.role is role and name in a.stages), None)
    first = next((a.stages[name] for a in cold if a.role is role and name in a.stages), None)
    below = "" if first is None else f"first {milliseconds(first)}"
    if now is None:
        return Cell(below) if below else UNKNOWN
    return Cell(milliseconds(now), below)


def _panel(axis: Any, answer: _Answer, names: Sequence[str]) -> None:  # noqa: ANN401
    began = 0.0
    for place, name in enumerate(names):
        width = answer.stages.get(name, math.nan)
        if math.isnan(width):
            continue
        colour = COLOURS[answer.role] if name == NETWORK else OTHERS
        _bar(axis, place, width, began=began, colour=colour)
        began += width
        # the step down to the next bar
        axis.plot([began, began], [place - 0.36, place + 1.36], color=WHOLE, linewidth=0.7)
    _bar(axis, len(names), answer.whole, began=0.0, colour=WHOLE)
    axis.set_yticks(range(len(names) + 1), labels=[*map(sentence, names), "Whole"])
    axis.set_ylim(len(names) + 0.6, -0.6)
    axis.locator_params(axis="x", nbins=3)
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def _bar(axis: Any, place: int, width: float, *, began: float, colour: str) -> None:  # noqa: ANN401
    axis.barh(place, width, 0.72, left=began, color=colour)
    axis.annotate(
        milliseconds(width),
        (began + width, place),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
