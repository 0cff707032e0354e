"""Compare: paired differences between the roles, and the gates that a release must pass."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.evaluate.score import Scores, Statistic
from medkd.metrics.statistics import bootstrap_difference, bootstrap_statistic
from medkd.options import GateOptions
from medkd.results import (
    Claim,
    Comparison,
    GateResult,
    Interval,
    RoleResult,
)
from medkd.types import Role, Task

ALPHA = 0.025  # one-sided, as the end of a 95 % interval is
PAIRS = ((Role.STUDENT, Role.TEACHER), (Role.STUDENT, Role.BASELINE), (Role.BASELINE, Role.TEACHER))


def compare(scores: Mapping[Role, Scores], config: Config) -> tuple[Comparison, ...]:
    """Return the paired difference of every figure: both roles on the same draws of patients."""
    return tuple(
        Comparison(figure=figure, of=of, minus=minus, difference=difference)
        for of, minus in PAIRS
        if of in scores and minus in scores
        for figure, difference in _differences(scores[of], scores[minus], config)
    )


def judge(
    roles: Mapping[Role, RoleResult],
    comparisons: Sequence[Comparison],
    config: Config,
    *,
    claims: Mapping[str, Claim] | None = None,
) -> tuple[GateResult, ...]:
    """Judge every gate by the less favourable end of its interval, where it has one.

    A gate of any class is judged by its claim. No gate is judged by fewer patients than
    ``evaluate.least_patients``, and none on a difference to the teacher is passed by a model that
    fails more often.
    """
    return tuple(
        _judge_claim(gate, claims[str(gate)], roles, config)
        if claims and gate.any
        else _judge(gate, roles, comparisons, config)
        for stated in config.gates
        for gate in _each(stated, config)
    )


def _differences(of: Scores, minus: Scores, config: Config) -> Iterator[tuple[str, Interval]]:
    same = [case.case for case in of.cases] == [case.case for case in minus.cases]
    assert same, "roles were scored on different cases"
    options = {"draws": config.evaluate.bootstrap, "seed": config.study.seed}
    for name, values in of.values.items():
        chosen = of.measured(name)
        ours, theirs = values[chosen], minus.values[name][chosen]
        yield name, bootstrap_difference(ours, theirs, of.patients_of(chosen), **options)
    for name, figure in of.statistics.items():
        chosen = of.measured(name)
        apart = partial(_apart, figure, minus.statistics[name], chosen)
        yield name, bootstrap_statistic(apart, of.patients_of(chosen), **options)


def _apart(of: Statistic, minus: Statistic, chosen: np.ndarray, indices: np.ndarray) -> float:
    return of(chosen[indices]) - minus(chosen[indices])


def _each(gate: GateOptions, config: Config) -> list[GateOptions]:
    """Return one gate a class where that is asked for."""
    if not gate.each:
        return [gate]
    figures = [f"{gate.figure}/{name}" for name in config.classes]
    measured = [figure for figure in figures if figure in config.figures]
    return [gate.model_copy(update={"figure": f, "each": False}) for f in measured]


def _judge(
    gate: GateOptions,
    roles: Mapping[Role, RoleResult],
    comparisons: Sequence[Comparison],
    config: Config,
) -> GateResult:
    found = _judged(gate, roles, comparisons)
    reason = found if isinstance(found, str) else _unfit(gate, found, roles, config)
    if reason:
        return GateResult(gate=str(gate), judged=None, passed=None, reason=reason)
    assert not isinstance(found, str)
    low, high = (found, found) if isinstance(found, float) else (found.low, found.high)
    assert low is not None
    assert high is not None
    if gate.at_least is not None:
        judged, passed, could = low, low >= gate.at_least, high >= gate.at_least
    else:
        assert gate.at_most is not None
        judged, passed, could = high, high <= gate.at_most, low <= gate.at_most
    if passed:
        reason = _fails_more(gate, roles) if config.task is Task.SEGMENTATION else ""
    elif could:
        reason = f"inconclusive: its interval, {low:.4g} to {high:.4g}, lies on both sides"
    return GateResult(
        gate=str(gate), judged=judged, passed=passed and not reason, reason=reason or ""
    )


def _judge_claim(
    gate: GateOptions, claim: Claim, roles: Mapping[Role, RoleResult], config: Config
) -> GateResult:
    smallest = min(claim.p_values.values())
    if reason := _too_few(claim.patients, config):
        return GateResult(gate=str(gate), judged=None, passed=None, reason=reason)
    held = [name for name, p in claim.p_values.items() if p <= ALPHA]
    said = ", ".join(f"{name} p = {p:.3g}" for name, p in claim.p_values.items())
    risen = _fails_more(gate, roles) if held and config.task is Task.SEGMENTATION else ""
    return GateResult(
        gate=str(gate),
        judged=smallest,
        passed=bool(held) and not risen,
        reason=risen or f"holds for {', '.join(held) or 'none'} (Holm: {said})",
    )


def _unfit(
    gate: GateOptions,
    found: float | Interval,
    roles: Mapping[Role, RoleResult],
    config: Config,
) -> str | None:
    """Why an interval judges nothing."""
    if isinstance(found, float):
        return None
    figure = gate.figure
    if math.isnan(found.value):
        return f"{figure} is undefined on these cases"
    if found.low is None or found.high is None:
        return f"{figure} has no interval: test patients: {found.patients}"
    # a mean over structures rests on no more patients than its least covered structure does
    of_class = roles[gate.of].per_class.items()
    parts = [part.patients for name, part in of_class if name.startswith(f"{figure}/")]
    return _too_few(min([found.patients, *parts]), config)


def _too_few(patients: int, config: Config) -> str | None:
    least = config.evaluate.least_patients
    if patients >= least:
        return None
    return (
        f"inconclusive: {patients} test patients, and evaluate.least_patients is "
        f"{least}; an interval of few patients covers less than it says"
    )


def _fails_more(gate: GateOptions, roles: Mapping[Role, RoleResult]) -> str:
    """Say which failures rose against the teacher; a mean may hide them."""
    if gate.minus is not Role.TEACHER:
        return ""
    ours, theirs = roles[gate.of].failures, roles[gate.minus].failures
    risen = [
        f"{kind.replace('_', ' ')} rose from {theirs[kind]} to {count}"
        for kind, count in ours.items()
        if count > theirs.get(kind, count)
    ]
    return ", ".join(risen)


def _judged(
    gate: GateOptions, roles: Mapping[Role, RoleResult], comparisons: Sequence[Comparison]
) -> float | Interval | str:
    """The interval or plain number a gate is judged by, or the reason why there is none."""
    own = _figure(gate.figure, gate.of, roles)
    other = _figure(gate.figure, gate.minus or gate.over or gate.of, roles)
    if own is None or other is None:
        return f"{gate.figure} was not measured"
    if isinstance(own, Interval) or isinstance(other, Interval):
        return _difference(gate, comparisons) if gate.minus else own
    if gate.minus:
        return own - other
    if gate.over:
        return own / other if other else f"{gate.over} is 0"
    return own


def _difference(gate: GateOptions, comparisons: Sequence[Comparison]) -> Interval | str:
    for entry in comparisons:
        if entry.figure == gate.figure and {entry.of, entry.minus} == {gate.of, gate.minus}:
            return entry.difference if entry.of is gate.of else _negated(entry.difference)
    return f"{gate.figure} was not compared between {gate.of} and {gate.minus}"


def _figure(name: str, role: Role, roles: Mapping[Role, RoleResult]) -> float | Interval | None:
    if role not in roles:
        return None
    result = roles[role]
    counts = {kind: float(count) for kind, count in result.failures.items()}
    measured: dict[str, float | Interval] = {**counts, **result.costs}
    measured |= {**result.headline, **result.per_class}
    return measured.get(name)


def _negated(interval: Interval) -> Interval:
    low, high = (None if end is None else -end for end in (interval.low, interval.high))
    return interval.model_copy(update={"value": -interval.value, "low": high, "high": low})
