"""Accuracy: the tables of what was right and what was wrong."""

from collections.abc import Sequence
from dataclasses import replace

from medkd.report.costs import cost_cells, cost_heads
from medkd.report.tables import (
    UNKNOWN,
    Cell,
    Table,
    heads,
    holds,
    interval_cell,
    role_cell,
    role_head,
    roles_of,
)
from medkd.report.wording import (
    HARD_SPACE,
    MINUS,
    NOT_MEASURED,
    ROLES,
    in_order,
    less_is_better,
    plain,
    sentence,
    text,
    title,
)
from medkd.results import Comparison, GateResult, Report, RoleResult
from medkd.types import Task

HEADLINE = ("dice", "nsd", "hd95_mm", "auroc", "balanced_accuracy", "sensitivity", "ece")
CALIBRATION = ("ece", "boundary_ece", "adaptive_ece", "static_ece", "mce", "brier", "nll")


def headline(report: Report) -> Table:
    """Return the three-row table: accuracy, size and speed of each role."""
    results = roles_of(report)
    figures = [key for key in _figures(report) if key in HEADLINE]
    head = [Cell(title(key), _operating_point(report, key)) for key in figures]
    rows = [(role_cell(r.role), *_intervals(report, r, figures), *cost_cells(r)) for r in results]
    caption = f"Figures{holds(report)}; below each its 95 % interval by patient."
    return Table(caption, heads("Model", *head, *cost_heads()), tuple(rows))


def further(report: Report) -> Table:
    """Return the figures of the whole test split that no other table shows; often no rows."""
    figures = [key for key in _figures(report) if key not in (*HEADLINE, *CALIBRATION)]
    rows = [(role_cell(r.role), *_intervals(report, r, figures)) for r in roles_of(report)]
    head = heads("Model", *map(title, figures))
    return Table(f"Further figures{holds(report)}.", head, tuple(rows) if figures else ())


def gates(report: Report) -> Table:
    """Return every criterion with the value it was judged by and its outcome in words."""
    rows = [
        (
            Cell(gate.gate),
            Cell(plain(gate.judged) or NOT_MEASURED),
            _outcome(gate),
            Cell(gate.reason),
        )
        for gate in report.gates
    ]
    caption = (
        "Fixed in the study’s config before the test split was opened. "  # noqa: RUF001
        "A figure with an interval is judged by the interval’s less favourable end."  # noqa: RUF001
    )
    head = heads("Criterion", "Judged value", "Outcome", "Remark")
    return Table(caption, head, tuple(rows), kind="words")


def sample(report: Report) -> Table:
    """Return what the test split's size allows: the first figure of each role with its interval."""
    figures, test = _figures(report)[:1], report.split.get("test")
    least = report.config.get("evaluate", {}).get("least_patients")
    rows = [(role_cell(r.role), *_intervals(report, r, figures)) for r in roles_of(report)]
    asked = "" if least is None else f" Criteria ask for {least} patients or more."
    held = "" if test is None else f"{test.patients} patients in {test.cases} test cases."
    return Table(f"{held}{asked}", heads("Model", *map(title, figures)), tuple(rows))


def comparisons(report: Report) -> Table:
    """Return the paired differences: a row for each figure, a column for each pair of roles."""
    pairs = list(dict.fromkeys((c.of, c.minus) for c in report.comparisons))
    found = {(c.figure, c.of, c.minus): c for c in report.comparisons}
    keys = [c.figure for c in report.comparisons]
    rows = [
        (Cell(_of_class(key)), *(_difference(report, found.get((key, *pair))) for pair in pairs))
        for key in sorted(in_order(keys), key=lambda key: "/" in key)
    ]
    caption = (
        f"Mean paired difference{holds(report)}; below it the 95 % interval by patient "
        "and what it shows. An interval that holds 0 does not show a difference."
    )
    head = heads("Figure", *(f"{ROLES[of]} {MINUS} {ROLES[minus].lower()}" for of, minus in pairs))
    return Table(caption, head, tuple(rows))


def per_class(report: Report) -> list[Table]:
    """Return one table for each figure: a row for each class, a column for each role."""
    keys = [key for result in roles_of(report) for key in result.per_class]
    figures = in_order([key.partition("/")[0] for key in keys])
    return [_of_classes(report, figure, _classes(report, figure, keys)) for figure in figures]


def confusion(report: Report) -> list[Table]:
    """Return a table a role: the cases of each true class by the class they were given."""
    head = heads("Reference", *(Cell(name, "answered") for name in report.classes))
    return [
        Table(
            f"{ROLES[result.role]}: cases by their class in the reference, and by the likeliest "
            f"class of the answer{holds(report)}.",
            head,
            tuple(
                (Cell(name), *(Cell(str(count)) for count in row))
                for name, row in zip(report.classes, result.confusion, strict=True)
            ),
        )
        for result in roles_of(report)
        if result.confusion
    ]


def failures(report: Report) -> Table:
    """Return how often each role missed, invented or failed."""
    results = roles_of(report)
    kinds = list(dict.fromkeys(kind for result in results for kind in result.failures))
    rows = [
        (role_cell(r.role), *(Cell(str(r.failures.get(k, NOT_MEASURED))) for k in kinds))
        for r in results
    ]
    head = heads("Model", *(f"{_failure(report, kind)}{HARD_SPACE}↓" for kind in kinds))
    return Table(f"Counts{holds(report)}.", head, tuple(rows) if kinds else ())


def calibration(report: Report) -> Table:
    """Return how far each role's confidence can be believed."""
    results = roles_of(report)
    figures = [key for key in _figures(report) if key in CALIBRATION]
    rows = [(role_cell(r.role), *_intervals(report, r, figures), _temperature(r)) for r in results]
    caption = f"Figures{holds(report)}, at each model’s temperature; below each its 95 % interval."  # noqa: RUF001
    return Table(caption, heads("Model", *map(title, figures), "Temperature"), tuple(rows))


def promises(report: Report) -> Table:
    """Return what was promised on the validation split and what the test split shows."""
    rows = []
    for result in roles_of(report):
        for promise in report.promises.get(result.role, ()):
            key = "sensitivity" if promise.of else "coverage"
            cells = [
                Cell(plain(promise.promised), promise.of or ""),
                interval_cell(promise.kept, key=key, report=report),
                interval_cell(promise.price, key="price", report=report),
                Cell(plain(promise.threshold)),
            ]
            rows.append((role_cell(result.role), *cells))
    is_of_parts = any(p.of for found in report.promises.values() for p in found)
    price = "Classes in a set"
    if is_of_parts:
        of_findings = "Share of the others in whom it is not ruled out"
        of_masks = "Size of the mask, times the reference"
        price = of_findings if report.has_findings else of_masks
    caption = "Thresholds were chosen on the validation split; below each figure its 95 % interval."
    return Table(caption, heads("Model", "Promised", "Kept", price, "Threshold"), tuple(rows))


def _temperature(result: RoleResult) -> Cell:
    if result.temperature is None:
        return UNKNOWN
    value = result.temperature
    return Cell(", ".join(map(plain, (value,) if isinstance(value, float) else value)))


def _figures(report: Report) -> list[str]:
    return in_order([key for result in roles_of(report) for key in result.headline])


def _intervals(report: Report, result: RoleResult, figures: Sequence[str]) -> list[Cell]:
    return [interval_cell(result.headline.get(key), key=key, report=report) for key in figures]


def _failure(report: Report, kind: str) -> str:
    limit = report.config.get("evaluate", {}).get("dice_failure")
    part = "findings" if report.has_findings else "structures"
    wrong = "Cases with a wrong finding" if report.has_findings else "Cases given a wrong class"
    failed = f"Cases with Dice below {text(limit)}" if limit is not None else "Failed cases"
    words = {
        "misses": f"Missed {part}",
        "false_alarms": f"Invented {part}",
        "failures": failed if report.task is Task.SEGMENTATION else wrong,
    }
    return words.get(kind, sentence(kind))


def _operating_point(report: Report, key: str) -> str:
    specificity = report.config.get("evaluate", {}).get("specificity")
    shown = key == "sensitivity" and specificity is not None
    return f"at specificity {text(specificity)}" if shown else ""


def _outcome(gate: GateResult) -> Cell:
    if gate.passed is None:
        return Cell("? not judged", mood="open")
    return Cell("✓ pass", mood="good") if gate.passed else Cell("✗ fail", mood="bad")


def _of_class(key: str) -> str:
    figure, _, name = key.partition("/")
    return f"{title(figure)} of {name}" if name else title(figure)


def _difference(report: Report, comparison: Comparison | None) -> Cell:
    if comparison is None:
        return UNKNOWN
    key = comparison.figure
    cell = interval_cell(comparison.difference, key=key, report=report, signed=True)
    return replace(cell, below=f"{cell.below} {_reading(comparison)}".strip())


def _reading(comparison: Comparison) -> str:
    low, high = comparison.difference.low, comparison.difference.high
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no difference"
    return "better" if (high < 0) == less_is_better(comparison.figure) else "worse"


def _classes(report: Report, figure: str, keys: Sequence[str]) -> list[str]:
    named = [key.partition("/")[2] for key in dict.fromkeys(keys) if key.startswith(f"{figure}/")]
    rank = {name: place for place, name in enumerate(report.classes)}
    return sorted(named, key=lambda name: rank.get(name, len(rank)))


def _of_classes(report: Report, figure: str, classes: Sequence[str]) -> Table:
    results = roles_of(report)
    rows = [
        (
            Cell(name),
            *(
                interval_cell(r.per_class.get(f"{figure}/{name}"), key=figure, report=report)
                for r in results
            ),
        )
        for name in classes
    ]
    caption = f"{title(figure)}{holds(report)}; below each its 95 % interval by patient."
    return Table(caption, heads("Class", *(role_head(r.role) for r in results)), tuple(rows))
