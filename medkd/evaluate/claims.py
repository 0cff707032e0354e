"""Claims: gates that one class at least has to pass, corrected for the number of classes."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from medkd.config import Config
from medkd.evaluate.score import Scores, Statistic
from medkd.metrics.statistics import bootstrap_p_value, holm
from medkd.options import GateOptions
from medkd.results import Claim
from medkd.types import Role


def claims(scores: Mapping[Role, Scores], config: Config) -> dict[str, Claim]:
    """Return what was claimed of any class, by gate: each class's p-value, adjusted after Holm."""
    return {str(gate): _claim(gate, scores, config) for gate in config.gates if gate.any}


def _claim(gate: GateOptions, scores: Mapping[Role, Scores], config: Config) -> Claim:
    of, minus = scores[gate.of], scores[gate.minus] if gate.minus else None
    sign = 1.0 if gate.at_least is not None else -1.0
    bound = gate.at_least if gate.at_least is not None else gate.at_most
    assert bound is not None
    claimed = {
        name: of.measured(figure)
        for name in config.classes
        if (figure := f"{gate.figure}/{name}") in of.values | of.statistics
    }
    found = []
    for name, chosen in claimed.items():
        of_class, minus_class = (_figure(each, f"{gate.figure}/{name}") for each in (of, minus))
        value = bootstrap_p_value(
            partial(_signed, sign, of_class, minus_class, chosen),
            of.patients_of(chosen),
            bound=sign * bound,
            draws=config.evaluate.bootstrap,
            seed=config.study.seed,
        )
        found.append(value)
    adjusted = holm(np.array(found))
    return Claim(
        p_values=dict(zip(claimed, map(float, adjusted), strict=True)),
        patients=min(len(set(of.patients_of(chosen))) for chosen in claimed.values()),
    )


def _figure(scores: Scores | None, name: str) -> Statistic:
    if scores is None:
        return lambda _: 0.0
    if name in scores.statistics:
        return scores.statistics[name]
    values = scores.values[name]
    return lambda cases: float(values[cases].mean())


def _signed(
    sign: float, of: Statistic, minus: Statistic, chosen: np.ndarray, cases: np.ndarray
) -> float:
    return sign * (of(chosen[cases]) - minus(chosen[cases]))
