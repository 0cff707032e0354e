"""Story: what a study has found, as the Markdown, figures and table of its runs in MLflow."""

import json
from collections.abc import Sequence

from medkd.results import CaseScores, Interval, ReleasePoint, Report, RoleResult
from medkd.track.pages import plain
from medkd.types import Role, temperatures

BEGINNINGS = {  # what a role's run is, before there are results
    Role.TEACHER: "The **teacher**: the large, accurate model that the student learns from.",
    Role.BASELINE: "The **baseline**: the student's network, trained on labels alone.",
    Role.STUDENT: "The **student**: trained on labels and on what the teacher believes.",
}


def final_figures(result: RoleResult, classes: Sequence[str]) -> dict[str, float]:
    """Return ``final/*``: what to sort and compare runs by."""
    figures = {name: interval.value for name, interval in result.headline.items()}
    figures |= {name: interval.value for name, interval in result.per_class.items()}
    figures |= {name: float(count) for name, count in result.failures.items()}
    figures |= result.costs
    if result.temperature is not None:
        figures |= temperatures(result.temperature, classes, "temperature")
    return {f"final/{name}": float(value) for name, value in figures.items()}


def further_figures(point: ReleasePoint) -> dict[str, float]:
    """Return ``final/*`` of a further release."""
    figures = {point.figure: point.value.value, "size_mib": point.size_mib}
    figures |= point.latency.figures
    return {f"final/{name}": float(value) for name, value in figures.items()}


def describe(report: Report) -> str:
    """Return the study in Markdown: verdict, reasons and the three rows."""
    names = list(next(iter(report.roles.values())).headline)
    reasons = (f"- {plain(reason)}" for reason in report.reasons)
    lines = [f"## {report.verdict}", "", *reasons, ""]
    lines += [f"| | {' | '.join(names)} | p50 ms |", "|---" * (len(names) + 2) + "|"]
    for role, result in report.roles.items():
        cells = [f"{result.headline[name].value:.3f}" for name in names]
        p50 = f"{result.latency.file_to_file_ms.p50:.1f}" if result.latency else ""
        lines.append(f"| {role} | {' | '.join(cells)} | {p50} |")
    return "\n".join(lines)


def describe_role(report: Report, role: Role) -> str:
    """Return one role in Markdown: what it is, the study's verdict, figures with intervals."""
    result = report.roles[role]
    lines = [BEGINNINGS[role], "", f"Verdict of the study: **{report.verdict}**", ""]
    lines += ["| test split | figure | 95 % interval |", "|---|---|---|"]
    lines += [_row(name, interval) for name, interval in result.headline.items()]
    lines += [_row(name, interval) for name, interval in result.per_class.items()]
    return "\n".join(lines)


def describe_release(report: Report, name: str) -> str:
    """Return a further release in Markdown."""
    lines = [f"The release **{name}**", "", f"Verdict of the study: **{report.verdict}**", ""]
    for point in report.releases:
        if point.name == name:
            lines += ["| test split | figure | 95 % interval |", "|---|---|---|"]
            lines += [_row(point.figure, point.value)]
    return "\n".join(lines)


def cases_table(cases: Sequence[CaseScores]) -> str:
    """Return the figures of every case as the JSON that MLflow shows as a table.

    A row a case, under its keyed hash; the worst one, by the first figure, comes first.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.figures))
    rows = [
        [
            *(case.case, case.patient),
            *(_rounded(case.figures.get(name)) for name in names),
            *(", ".join(case.misses), ", ".join(case.false_alarms)),
        ]
        for case in sorted(cases, key=lambda case: next(iter(case.figures.values()), 0.0))
    ]
    return json.dumps(
        {"columns": ["case", "patient", *names, *("misses", "false alarms")], "data": rows}
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 4)  # noqa: PLR0124 - NaN


def _row(name: str, interval: Interval) -> str:
    low, high = interval.low, interval.high
    between = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"| {plain(name)} | {interval.value:.3f} | {between} |"
