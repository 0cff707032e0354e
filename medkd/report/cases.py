"""Cases: the table of every test case, and the pictures of some."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medkd.report.tables import Cell, Table, heads, role_cell, roles_of
from medkd.report.wording import ROLES, in_order, less_is_better, number, wording
from medkd.results import CaseScores, Overlay, Report, RoleResult
from medkd.types import Activation, Role, Task

PICTURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}  # by how a file begins
NONE = "\N{EN DASH}"
SLIPS = "Missed or invented"  # of structures, or findings


# Okabe and Ito 2008, in the order of the structures; the marks differ in pattern as well
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7")
LAYERS = {
    "image": "Image",
    "reference": "Reference (outline)",
    "teacher": "Teacher (hatched)",
    "student": "Student (filled)",
    "disagreement": "Where teacher and student differ (crossed, magenta)",
    "uncertainty": "Uncertainty of the student (yellow, the denser the less sure)",
}


@dataclass(frozen=True)
class Picture:
    """One overlay as ``data:`` addresses, empty where a file is missing or is no picture.

    Attributes:
        overlay: what it shows.
        source: of the still picture.
        layers: of each layer, by name; empty unless all of them are there.
        table: how each role did in this case.
    """

    overlay: Overlay
    source: str
    layers: dict[str, str]
    table: Table


def per_case(report: Report) -> Table:
    """Return every test case, the student's worst first."""
    results = [result for result in roles_of(report) if result.cases]
    figures, may_slip = case_figures(results), _may_slip(report)
    scores = [{case.case: case for case in result.cases} for result in results]
    rows = []
    for case in _worst_first(results, figures):
        found = [of_role.get(case.case) for of_role in scores]
        values = [Cell(_value(s, key)) for key in figures for s in found]
        slips = [Cell(_slips(results, found))] if may_slip else []
        rows.append((Cell(case.case), Cell(case.patient), *values, *slips))
    columns = [Cell(_name(key), ROLES[r.role]) for key in figures for r in results]
    head = heads("Case", "Patient", *columns, *([SLIPS] if may_slip else []))
    caption = "Cases and patients under their keyed hashes; the student’s worst case first."  # noqa: RUF001
    return Table(caption, head, tuple(rows), kind="dense told" if may_slip else "dense")


def pictures(report: Report, *, study_folder: Path) -> list[Picture]:
    """Read the overlays as ``data:`` addresses, from inside the study's folder alone."""
    return [
        Picture(
            overlay,
            _source(overlay.path, study_folder),
            _layers(overlay, study_folder),
            _of_case(report, overlay.case),
        )
        for overlay in report.overlays
    ]


def swatches(report: Report) -> list[tuple[str, str]]:
    """Return structures and their colours; after the sixth the colours repeat."""
    independent = report.activation is Activation.SIGMOID  # there is no background
    structures = report.classes if independent else report.classes[1:]
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(structures)]


def case_figures(results: Sequence[RoleResult]) -> list[str]:
    """Return the figures of whole cases; where there are none, those of single classes."""
    keys = in_order([key for r in results for case in r.cases for key in case.figures])
    return [key for key in keys if "/" not in key] or keys


def _may_slip(report: Report) -> bool:
    """Whether answers are of parts that can be missed: structures, or findings."""
    return report.task is Task.SEGMENTATION or report.has_findings


def _layers(overlay: Overlay, folder: Path) -> dict[str, str]:
    paths = overlay.layers.paths if overlay.layers else {}
    sources = {name: _source(paths[name], folder) for name in LAYERS if name in paths}
    return sources if all(sources.values()) else {}


def _of_case(report: Report, case: str) -> Table:
    """Return how each role did in one case."""
    results = [r for r in roles_of(report) if any(c.case == case for c in r.cases)]
    found = [next(c for c in r.cases if c.case == case) for r in results]
    keys = in_order([key for scores in found for key in scores.figures if key != "correct"])
    chosen = [key for key in keys if key.partition("/")[0] == keys[0].partition("/")[0]]
    may_slip = _may_slip(report)
    rows = [
        (
            role_cell(r.role),
            *(Cell(_value(s, key)) for key in chosen),
            *([Cell(_wrongs(s))] if may_slip else []),
        )
        for r, s in zip(results, found, strict=True)
    ]
    head = heads("Model", *map(_name, chosen), *([SLIPS] if may_slip else []))
    return Table(f"Case {case}, by each model.", head, tuple(rows))


def _wrongs(scores: CaseScores) -> str:
    named = (("missed", scores.misses), ("invented", scores.false_alarms))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in named if names) or NONE


def _source(name: str, study_folder: Path) -> str:
    root = study_folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return ""
    content = path.read_bytes()
    kind = next((kind for kind, start in PICTURES.items() if content.startswith(start)), None)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if kind else ""


def _worst_first(results: Sequence[RoleResult], figures: Sequence[str]) -> list[CaseScores]:
    """Every case of any role, ordered by the student if there is one."""
    judged_first = sorted(results, key=lambda result: result.role is not Role.STUDENT)
    cases = {case.case: case for result in reversed(judged_first) for case in result.cases}
    if not figures:
        return list(cases.values())
    sign = -1 if less_is_better(figures[0]) else 1
    return sorted(cases.values(), key=lambda c: (sign * c.figures.get(figures[0], 0.0), c.case))


def _name(key: str) -> str:
    name = key.partition("/")[2]
    return f"{wording(key).name} {name}".strip()


def _value(scores: CaseScores | None, key: str) -> str:
    if scores and key == "correct" and key in scores.figures:
        return "yes" if scores.figures[key] else "no"
    return number(scores.figures[key], key=key) if scores and key in scores.figures else NONE


def _slips(results: Sequence[RoleResult], found: Sequence[CaseScores | None]) -> str:
    said = [
        f"{result.role.value} {words} {', '.join(names)}"
        for result, scores in zip(results, found, strict=True)
        if scores
        for words, names in (("missed", scores.misses), ("invented", scores.false_alarms))
        if names
    ]
    return "; ".join(said)
