"""Changes: what differs between two versions of a study, criterion by criterion."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table as Terminal

from medkd.options import COSTS
from medkd.report.build import render
from medkd.report.tables import UNKNOWN, Cell, Table, heads, interval_cell
from medkd.report.wording import (
    NOT_MEASURED,
    ROLES,
    facts,
    in_order,
    less_is_better,
    number,
    plain,
    text,
    title,
)
from medkd.results import GateResult, Interval, Report, Result, read_report
from medkd.statement import REPORT
from medkd.study import write_atomic
from medkd.types import Role

PAGE, RECORD = "changes.html", "changes.json"
OUTCOMES = {True: "pass", False: "fail", None: "not judged"}
NOWHERE = "\N{EN DASH}"


class Versions(Result):
    """Two reports, the earlier one first: all that the page of changes is drawn from."""

    before: Report
    after: Report


@dataclass(frozen=True)
class GateChange:
    """One criterion in both versions; None where a version does not have it."""

    gate: str
    before: GateResult | None
    after: GateResult | None

    @property
    def is_worse(self) -> bool:
        """Whether a criterion that was met is no longer met, or no longer asked for."""
        was = self.before is not None and self.before.passed is True
        return was and not (self.after is not None and self.after.passed)


def compare(before: Path, after: Path) -> Versions:
    """Read the reports of two study folders.

    Raises:
        StudyError: a folder has none, or one of another version.
    """
    return Versions(before=read_report(before / REPORT), after=read_report(after / REPORT))


def write_changes(versions: Versions, folder: Path) -> Path:
    """Write ``changes.json`` and the page that is drawn from it; return the page's path."""
    write_atomic(folder / RECORD, versions.model_dump_json(indent=1))
    page = folder / PAGE
    write_atomic(page, draw(versions))
    return page


def draw(versions: Versions) -> str:
    """Return the page of changes."""
    return render(
        "changes.html",
        before=versions.before,
        after=versions.after,
        gates=gates_table(versions),
        figures=figures_table(versions),
        config=config_table(versions),
        digests=digests_table(versions),
        is_same_test=_test_digest(versions.before) == _test_digest(versions.after),
    )


def gate_changes(versions: Versions) -> list[GateChange]:
    """Return every criterion of either version, in the order of the later one."""
    before = {gate.gate: gate for gate in versions.before.gates}
    after = {gate.gate: gate for gate in versions.after.gates}
    return [GateChange(name, before.get(name), after.get(name)) for name in {**after, **before}]


def is_worse(versions: Versions) -> bool:
    """Whether any criterion that the earlier version met is not met by the later one."""
    return any(change.is_worse for change in gate_changes(versions))


def gates_table(versions: Versions) -> Table:
    """Return every criterion with both outcomes, and what became of it."""
    rows = [
        (Cell(c.gate), _outcome(c.before), _outcome(c.after), _verdict(c))
        for c in gate_changes(versions)
    ]
    head = heads("Criterion", "Before", "After", "Change")
    return Table("Every criterion, by the value it was judged by.", head, tuple(rows), kind="words")


def figures_table(versions: Versions) -> Table:
    """Return the headline figures of each role in both versions."""
    rows = []
    for role in ROLES:
        old, new = (v.roles.get(role) for v in (versions.before, versions.after))
        one, other = (r.headline if r else {} for r in (old, new))
        for key in in_order([*one, *other]):
            rows.append(_figure_row(versions, role, key, one.get(key), other.get(key)))
        costs = [{**(r.costs if r else {}), **(r.failures if r else {})} for r in (old, new)]
        for key in {**costs[0], **costs[1]}:
            was, now = (None if (v := c.get(key)) is None else float(v) for c in costs)
            if was != now:
                cells = (Cell(NOT_MEASURED if v is None else plain(v)) for v in (was, now))
                rows.append((Cell(f"{ROLES[role]}: {key}"), *cells, _direction(key, was, now)))
    caption = (
        "Figures of the whole test split, with 95 % intervals by patient; costs and failures where "
        "they differ. Intervals of two versions are not a test of their difference."
    )
    return Table(caption, heads("Figure", "Before", "After", "Change"), tuple(rows))


def config_table(versions: Versions) -> Table:
    """Return every option that is not the same."""
    rows = [
        (Cell(name), Cell(was), Cell(now))
        for name, was, now in _differing(versions.before.config, versions.after.config)
    ]
    caption = "Options that differ; all others are the same."
    return Table(caption, heads("Option", "Before", "After"), tuple(rows), kind="words")


def digests_table(versions: Versions) -> Table:
    """Return the identity of data, split and releases in both versions."""
    one, other = (_identities(v) for v in (versions.before, versions.after))
    rows = []
    for name in {**one, **other}:
        was, now = one.get(name, NOWHERE), other.get(name, NOWHERE)
        same = Cell("same", mood="good") if was == now else Cell("changed", mood="open")
        rows.append((Cell(name), Cell(was, mood="code"), Cell(now, mood="code"), same))
    caption = "Data, parts of the split and releases, by their digests."
    return Table(caption, heads("What", "Before", "After", ""), tuple(rows), kind="words")


def terminal(versions: Versions) -> list[Terminal]:
    """Return the same tables for the terminal."""
    both = (gates_table, figures_table, config_table, digests_table)
    return [_printed(table) for make in both if (table := make(versions)).rows]


def _printed(table: Table) -> Terminal:
    shown = Terminal(title=table.caption, title_justify="left")
    for cell in table.head:
        shown.add_column(escape(cell.text))
    for row in table.rows:
        shown.add_row(*(escape(f"{cell.text} {cell.below}".strip()) for cell in row))
    return shown


def _outcome(gate: GateResult | None) -> Cell:
    if gate is None:
        return Cell("not asked for", mood="open")
    mood = {True: "good", False: "bad", None: "open"}[gate.passed]
    return Cell(OUTCOMES[gate.passed], "" if gate.judged is None else plain(gate.judged), mood=mood)


def _verdict(change: GateChange) -> Cell:
    if change.is_worse:
        return Cell("worse: was met", mood="bad")
    was, now = (None if gate is None else gate.passed for gate in (change.before, change.after))
    if now is True and was is not True:
        return Cell("better: is met now", mood="good")
    return Cell("as before" if was is now else "changed")


def _figure_row(
    versions: Versions, role: Role, key: str, was: Interval | None, now: Interval | None
) -> tuple[Cell, ...]:
    cells = [
        UNKNOWN if found is None else interval_cell(found, key=key, report=report)
        for found, report in ((was, versions.before), (now, versions.after))
    ]
    values = (None if found is None else found.value for found in (was, now))
    return (Cell(f"{ROLES[role]}: {title(key)}"), *cells, _direction(key, *values))


def _direction(key: str, was: float | None, now: float | None) -> Cell:
    if was is None or now is None:
        return Cell("")
    # as they are shown: a change that no digit shows is none
    shown = plain if key in COSTS else partial(number, key=key)
    if shown(was) == shown(now):
        return Cell("as before")
    less = key in COSTS or less_is_better(key)
    return Cell("better" if (now < was) == less else "worse")


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    one, other = dict(facts(before)), dict(facts(after))
    for name in {**one, **other}:
        was, now = (text(tree[name]) if name in tree else NOWHERE for tree in (one, other))
        if json.dumps(one.get(name), default=str) != json.dumps(other.get(name), default=str):
            yield name, was, now


def _identities(report: Report) -> dict[str, str]:
    parts = {f"part {name}": part.digest for name, part in report.split.items()}
    return {**report.digests, **parts}


def _test_digest(report: Report) -> str | None:
    return report.split["test"].digest if "test" in report.split else None
