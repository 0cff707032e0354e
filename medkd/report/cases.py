"""Cases: the table of every test case, and the pictures of some."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medkd.report.tables import Cell, Table, heads, roles_of
from medkd.report.wording import ROLES, in_order, less_is_better, number, wording
from medkd.results import CaseScores, Overlay, Report, RoleResult
from medkd.types import Role

PNG = b"\x89PNG\r\n\x1a\n"
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Picture:
    """One overlay; ``source`` is empty where the file is missing or is no PNG of the study."""

    overlay: Overlay
    source: str


def per_case(report: Report) -> Table:
    """Return every test case, the student's worst first."""
    results = [result for result in roles_of(report) if result.cases]
    figures = case_figures(results)
    scores = [{case.case: case for case in result.cases} for result in results]
    rows = []
    for case in _worst_first(results, figures):
        found = [of_role.get(case.case) for of_role in scores]
        values = [Cell(_value(s, key)) for key in figures for s in found]
        rows.append((Cell(case.case), Cell(case.patient), *values, Cell(_slips(results, found))))
    columns = [Cell(_name(key), ROLES[r.role]) for key in figures for r in results]
    head = heads("Case", "Patient", *columns, "Missed or invented")
    caption = "Cases and patients under their keyed hashes; the student’s worst case first."  # noqa: RUF001
    return Table(caption, head, tuple(rows), kind="dense")


def pictures(report: Report, *, study_folder: Path) -> list[Picture]:
    """Read the overlays as ``data:`` addresses, from inside the study's folder alone."""
    return [Picture(overlay, _source(overlay, study_folder)) for overlay in report.overlays]


def case_figures(results: Sequence[RoleResult]) -> list[str]:
    """Return the figures of whole cases; where there are none, those of single classes."""
    keys = in_order([key for r in results for case in r.cases for key in case.figures])
    return [key for key in keys if "/" not in key] or keys


def _source(overlay: Overlay, study_folder: Path) -> str:
    root = study_folder.resolve()
    path = (root / overlay.path).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return ""
    content = path.read_bytes()
    if not content.startswith(PNG):
        return ""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


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
