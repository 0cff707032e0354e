"""Margins: how much of a figure the criteria of a study let one model lose against another."""

from collections.abc import Mapping, Sequence
from typing import Any

from medkd.results import Report
from medkd.types import Role


def margins(report: Report) -> dict[tuple[str, Role, Role], float]:
    """Return the bounds that gates set on paired differences, by figure and pair."""
    gates: Sequence[Mapping[str, Any]] = report.config.get("gates", ())
    return {
        (gate["figure"], Role(gate.get("of", Role.STUDENT)), Role(gate["minus"])): bound
        for gate in gates
        if gate.get("minus")
        for bound in (gate.get("at_least"), gate.get("at_most"))
        if bound is not None
    }


def may_lose(report: Report, figure: str) -> float | None:
    """Return how much of a figure the student may lose against its teacher; None if no gate says.

    The same loss is what may be called notable where an image gets worse.
    """
    bound = margins(report).get((figure, Role.STUDENT, Role.TEACHER))
    return None if bound is None or not bound else abs(bound)
