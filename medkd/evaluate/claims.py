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
    found = {
        name: bootstrap_p_value(
            partial(_signed, sign, _figure(of, figure), _figure(minus, figure)),
            of.patients,
            bound=sign * bound,
            draws=config.evaluate.bootstrap,
            seed=config.study.seed,
        )
        for name in config.classes
        if (figure := f"{gate.figure}/{name}") in of.values | of.statistics
    }
    adjusted = holm(np.array(list(found.values())))
    return Claim(
        p_values=dict(zip(found, map(float, adjusted), strict=True)),
        patients=len(set(of.patients)),
    )


def _figure(scores: Scores | None, name: str) -> Statistic:
    if scores is None:
        return lambda _: 0.0
    if name in scores.statistics:
        return scores.statistics[name]
    values = scores.values[name]
    return lambda cases: float(values[cases].mean())


def _signed(sign: float, of: Statistic, minus: Statistic, cases: np.ndarray) -> float:
    return sign * (of(cases) - minus(cases))
