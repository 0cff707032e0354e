"""Headline: the three-row table of a study, for the terminal."""

from rich.table import Table

from medkd.results import Interval, Report
from medkd.types import Role

TITLES = {
    "dice": "Dice",
    "nsd": "NSD",
    "hd95_mm": "HD95 mm",
    "auroc": "AUROC",
    "balanced_accuracy": "bal. accuracy",
    "sensitivity": "sensitivity",
    "ece": "ECE",
}


def headline(report: Report) -> Table:
    """Return teacher, student and baseline as rows, with 95 % intervals by patient."""
    test = report.split["test"]
    table = Table(
        title=f"{report.study}: {test.cases} test cases of {test.patients} patients",
        caption="In parentheses: 95 % interval by patient. Latency is file to file.",
        title_justify="left",
    )
    figures = [name for name in TITLES if name in next(iter(report.roles.values())).headline]
    columns = [TITLES[name] for name in figures] + ["parameters", "p50 ms", "p90 ms"]
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for role in (Role.TEACHER, Role.STUDENT, Role.BASELINE):
        result = report.roles[role]
        latency = result.latency
        times = (
            [f"{latency.file_to_file_ms.p50:.1f}", f"{latency.file_to_file_ms.p90:.1f}"]
            if latency
            else ["", ""]
        )
        parameters = "" if result.parameters is None else f"{result.parameters:,}"
        cells = [interval(result.headline[name]) for name in figures]
        table.add_row(str(role), *cells, parameters, *times)
    return table


def interval(figure: Interval) -> str:
    r"""Write a figure over its interval.

    Example:
        >>> interval(Interval(value=0.8841, low=0.879, high=0.8894, cases=40, patients=27))
        '0.884\n(0.879, 0.889)'
    """
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f}\n({figure.low:.3f}, {figure.high:.3f})"
