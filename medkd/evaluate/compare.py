"""Compare: paired differences between the roles, and the gates that a release must pass."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medkd.config import Config, GateOptions
from medkd.metrics.statistics import bootstrap_mean
from medkd.results import (
    Comparison,
    GateResult,
    Interval,
    RoleResult,
    Verdict,
)
from medkd.types import Role

PAIRS = ((Role.STUDENT, Role.TEACHER), (Role.STUDENT, Role.BASELINE), (Role.BASELINE, Role.TEACHER))


def compare(roles: Mapping[Role, RoleResult], config: Config) -> tuple[Comparison, ...]:
    """Return every paired difference that can be formed from per-case figures."""
    comparisons = []
    for of, minus in PAIRS:
        for figure in _shared_figures(roles, of, minus):
            difference = _difference(roles[of], roles[minus], figure, config)
            comparisons.append(Comparison(figure=figure, of=of, minus=minus, difference=difference))
    return tuple(comparisons)


def judge(
    roles: Mapping[Role, RoleResult], comparisons: Sequence[Comparison], config: Config
) -> tuple[GateResult, ...]:
    """Judge every gate by the less favourable end of its interval, where it has one."""
    return tuple(_judge(gate, roles, comparisons) for gate in config.gates)


def verdict(gates: Sequence[GateResult]) -> tuple[Verdict, tuple[str, ...]]:
    """Return what the gates say together, and why."""
    failed = [
        f"failed: {gate.gate} (judged by {gate.judged:.4g})"
        for gate in gates
        if gate.passed is False
    ]
    unjudged = [f"not judged: {gate.gate} ({gate.reason})" for gate in gates if gate.passed is None]
    if failed:
        return Verdict.NOT_READY, tuple(failed + unjudged)
    if unjudged or not gates:
        return Verdict.INCOMPLETE, tuple(unjudged or ["the config names no gates"])
    return Verdict.READY, (f"all {len(gates)} gates passed",)


def _shared_figures(roles: Mapping[Role, RoleResult], of: Role, minus: Role) -> list[str]:
    if of not in roles or minus not in roles:
        return []
    first, second = roles[of].cases[0].figures, roles[minus].cases[0].figures
    return [name for name in first if name in second]


def _difference(of: RoleResult, minus: RoleResult, figure: str, config: Config) -> Interval:
    pairs = list(zip(of.cases, minus.cases, strict=True))
    assert all(a.case == b.case for a, b in pairs), "roles were scored on different cases"
    return bootstrap_mean(
        np.array([a.figures[figure] - b.figures[figure] for a, b in pairs]),
        [a.patient for a, _ in pairs],
        draws=config.evaluate.bootstrap,
        seed=config.study.seed,
    )


def _judge(
    gate: GateOptions, roles: Mapping[Role, RoleResult], comparisons: Sequence[Comparison]
) -> GateResult:
    found = _judged(gate, roles, comparisons)
    if isinstance(found, str):
        return GateResult(gate=str(gate), judged=None, passed=None, reason=found)
    low, high = (found, found) if isinstance(found, float) else _ends(found)
    if math.isnan(low) or math.isnan(high):
        reason = f"{gate.figure} is undefined on these cases"
        return GateResult(gate=str(gate), judged=None, passed=None, reason=reason)
    if gate.at_least is not None:
        return GateResult(gate=str(gate), judged=low, passed=low >= gate.at_least)
    assert gate.at_most is not None
    return GateResult(gate=str(gate), judged=high, passed=high <= gate.at_most)


def _judged(
    gate: GateOptions, roles: Mapping[Role, RoleResult], comparisons: Sequence[Comparison]
) -> float | Interval | str:
    """The interval or plain number a gate is judged by, or the reason why there is none."""
    if gate.minus:
        for entry in comparisons:
            if entry.figure == gate.figure and {entry.of, entry.minus} == {gate.of, gate.minus}:
                return entry.difference if entry.of is gate.of else _negated(entry.difference)
    own = _figure(gate.figure, gate.of, roles)
    other = _figure(gate.figure, gate.minus or gate.over or gate.of, roles)
    if own is None or other is None:
        return f"{gate.figure} was not measured"
    if gate.minus:
        return _value(own) - _value(other)
    if gate.over:
        return _value(own) / _value(other) if _value(other) else f"{gate.over} is 0"
    return own


def _figure(name: str, role: Role, roles: Mapping[Role, RoleResult]) -> float | Interval | None:
    if role not in roles:
        return None
    result = roles[role]
    latency = result.latency
    plain = {
        "parameters": float(result.parameters),
        "macs": float(result.macs),
        "size_mib": result.size_mib,
        **{name: float(count) for name, count in result.failures.items()},
    }
    if latency:
        plain |= {
            "latency_p50_ms": latency.file_to_file_ms.p50,
            "latency_p90_ms": latency.file_to_file_ms.p90,
            "network_ms": latency.network_ms.p50,
            "peak_memory_mib": latency.peak_memory_mib,
        }
    measured: dict[str, float | Interval] = {**plain, **result.headline, **result.per_class}
    return measured.get(name)


def _value(figure: float | Interval) -> float:
    return figure.value if isinstance(figure, Interval) else float(figure)


def _negated(interval: Interval) -> Interval:
    low, high = _ends(interval)
    return interval.model_copy(update={"value": -interval.value, "low": -high, "high": -low})


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.value if interval.low is None else interval.low
    high = interval.value if interval.high is None else interval.high
    return low, high
