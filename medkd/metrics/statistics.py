"""Intervals by patient: a seeded cluster bootstrap (Davison and Hinkley 1997, section 3.8).

Cases of one patient resemble one another, so whole patients are drawn with replacement. Intervals
are percentile intervals. With few patients they are too narrow (a nominal 95 % interval of 15
patients with rare failures covers about half), so read ``Interval.patients`` along with them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Integer

from medkd.results import Interval

_LEAST_DEFINED = 0.5


def bootstrap_mean(
    values: Float[np.ndarray, " cases"],
    patients: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean over cases with its interval.

    Args:
        values: one finite figure per case.
        patients: the patient of each case.
        draws: number of resamples.
        seed: the same seed draws the same patients, in whatever order the cases come.
        level: share of the draws inside the interval.

    Raises:
        ValueError: no case, lengths differ, a value is not finite, or an option is out of range.

    Example:
        >>> bootstrap_mean(np.array([0.8, 0.8, 0.8]), ["a", "a", "b"])
        Interval(value=0.8, low=0.8, high=0.8, cases=3, patients=2)
    """
    if len(values) != len(patients) or not np.isfinite(values).all():
        raise ValueError(
            f"one finite value per case is needed: {len(values)} values "
            f"({int((~np.isfinite(values)).sum())} not finite), {len(patients)} patients"
        )
    cluster, number = _clusters(patients)
    drawn = _draws(number, draws=draws, seed=seed, level=level)
    # The same value everywhere has mean exactly that value: sum deviations, not values.
    centre = float(values[0])
    sums = np.bincount(cluster, values - centre)
    sizes = np.bincount(cluster)
    means = centre + sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    value = centre + float(sums.sum() / sizes.sum())
    return _interval(value, means, level=level, cases=len(values), patients=number)


def bootstrap_difference(
    a: Float[np.ndarray, " cases"],
    b: Float[np.ndarray, " cases"],
    patients: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of ``a - b``, two figures of the same cases, with its interval.

    Raises:
        ValueError: as ``bootstrap_mean``, or ``a`` and ``b`` differ in length.
    """
    if a.shape != b.shape:
        raise ValueError(f"a difference is paired by case: got {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, patients, draws=draws, seed=seed, level=level)


def bootstrap_statistic(
    function: Callable[[Integer[np.ndarray, " drawn"]], float],
    patients: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return a figure of many cases (AUROC, a ratio of means) with its interval.

    Args:
        function: the figure of the cases at the given indices; an index may come several times.
            It returns NaN where the figure is undefined; such draws are left out.
        patients: the patient of each case.
        draws: number of resamples; ``function`` is called once for each.
        seed: the same seed draws the same patients, in whatever order the cases come.
        level: share of the draws inside the interval.

    Raises:
        ValueError: no case, or an option is out of range.
    """
    cluster, number = _clusters(patients)
    members = [np.flatnonzero(cluster == patient) for patient in range(number)]
    value = float(function(np.arange(len(patients))))
    drawn = _draws(number, draws=draws, seed=seed, level=level)
    values = [function(np.concatenate([members[p] for p in draw])) for draw in drawn]
    return _interval(
        value, np.array(values, np.float64), level=level, cases=len(patients), patients=number
    )


def bootstrap_p_value(
    function: Callable[[Integer[np.ndarray, " drawn"]], float],
    patients: Sequence[str],
    *,
    bound: float,
    draws: int = 2000,
    seed: int = 0,
) -> float:
    """Return the one-sided p-value of a figure's being below a bound.

    The share of the draws that lie below it, the figure itself counted among them as against
    (Davison and Hinkley 1997, section 4.2.5); undefined draws count as below. It is at most 0.025
    where the percentile interval of 95 % lies above the bound.

    Args:
        function: as of ``bootstrap_statistic``; negate it and the bound to ask for "above".
        patients: the patient of each case.
        bound: what the figure should reach.
        draws: number of resamples.
        seed: the same seed draws the same patients.

    Raises:
        ValueError: no case, or an option is out of range.
    """
    cluster, number = _clusters(patients)
    members = [np.flatnonzero(cluster == patient) for patient in range(number)]
    drawn = _draws(number, draws=draws, seed=seed, level=0.95)
    values = np.array([function(np.concatenate([members[p] for p in draw])) for draw in drawn])
    return float((1 + np.sum(~(values >= bound))) / (1 + draws))


def holm(p_values: Float[np.ndarray, " claims"]) -> Float[np.ndarray, " claims"]:
    """Return Holm's adjusted p-values (Holm 1979).

    Of the claims whose value is at most alpha, any is wrong with a probability of at most alpha.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03, 0.005])).round(3).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p_values, kind="stable")
    left = len(p_values) - np.arange(len(p_values))  # claims not yet decided at each step
    stepped = np.minimum(np.maximum.accumulate(left * p_values[order]), 1.0)
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def _clusters(patients: Sequence[str]) -> tuple[np.ndarray, int]:
    if not len(patients):
        raise ValueError("a bootstrap needs at least one case")
    names, cluster = np.unique(np.asarray(patients), return_inverse=True)
    return cluster, len(names)


def _draws(patients: int, *, draws: int, seed: int, level: float) -> np.ndarray:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws must be >= 1 and level in (0, 1), got {draws} and {level}")
    return np.random.default_rng(seed).integers(0, patients, (draws, patients))


def _interval(
    value: float, draws: np.ndarray, *, level: float, cases: int, patients: int
) -> Interval:
    defined = draws[~np.isnan(draws)]
    if patients == 1 or len(defined) < _LEAST_DEFINED * len(draws):
        return Interval(value=value, cases=cases, patients=patients)
    tail = 50 * (1 - level)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(value=value, low=float(low), high=float(high), cases=cases, patients=patients)
