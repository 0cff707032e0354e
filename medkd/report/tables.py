"""Tables: rows of cells, and the cells that several tables share."""

from collections.abc import Iterable
from dataclasses import dataclass

from medkd.report.wording import NOT_MEASURED, ROLES, bounds, number
from medkd.results import Interval, Part, Report, RoleResult
from medkd.types import Role


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, what stands below it in small type, and how it is set."""

    text: str
    below: str = ""
    mood: str = ""  # "good", "bad", "open", "code", or a role


@dataclass(frozen=True)
class Table:
    """A table: column heads, then rows whose first cell is the row's head."""

    caption: str
    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: str = ""  # "words": all columns flush left; "dense": small type


UNKNOWN = Cell(NOT_MEASURED, mood="open")


def heads(*names: str | Cell) -> tuple[Cell, ...]:
    """Return column heads."""
    return tuple(Cell(name) if isinstance(name, str) else name for name in names)


def pairs(rows: Iterable[tuple[Cell, Cell]], *, caption: str) -> Table:
    """Return a table of items and their values."""
    return Table(caption, heads("Item", "Value"), tuple(rows), kind="words")


def roles_of(report: Report) -> list[RoleResult]:
    """Return the results there are: teacher, student, baseline."""
    return [report.roles[role] for role in ROLES if role in report.roles]


def role_cell(role: Role) -> Cell:
    """Name a role and say what sets it apart."""
    below = {Role.STUDENT: "distilled", Role.BASELINE: "labels alone"}
    return Cell(ROLES[role], below.get(role, ""), mood=role.value)


def role_head(role: Role) -> Cell:
    """Name a role at the head of a column."""
    return Cell(ROLES[role], mood=role.value)


def interval_cell(
    interval: Interval | None,
    *,
    key: str,
    report: Report,
    signed: bool = False,
    usual: Interval | Part | None = None,
) -> Cell:
    """Write a figure over its interval, and what it holds if that is not what the others hold.

    Args:
        interval: the figure; None where it was not measured.
        key: names the figure.
        report: whose test split the others hold.
        signed: write the sign of a difference.
        usual: what the others of the table hold, where that is not the whole test split.
    """
    if interval is None:
        return UNKNOWN
    below = bounds(interval, key=key, signed=signed)
    others = usual or report.split.get("test")
    if others is None or (interval.cases, interval.patients) != (others.cases, others.patients):
        below += f" over {interval.cases} cases of {interval.patients} patients"
    return Cell(number(interval.value, key=key, signed=signed), below.strip())


def holds(report: Report) -> str:
    """Say how many cases a figure holds where its cell does not say otherwise."""
    test = report.split.get("test")
    return f" over {test.cases} test cases of {test.patients} patients" if test else ""
