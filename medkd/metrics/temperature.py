"""Temperature: what makes a network as sure as it is right.

One number for all classes (Guo et al. 2017) leaves every answer as it was. One a class divides the
log-probabilities, which is a diagonal Dirichlet calibration without bias (Kull et al. 2019): it
mends a network that is too sure of one structure and not sure enough of another, and may change
which class is the likeliest.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import optimize, special

from medkd.metrics.calibration import check_labels
from medkd.types import UNLABELLED, Temperature

_TEMPERATURES = (0.05, 20.0)


def fit_temperature(
    logits: Float[np.ndarray, " cases classes"],
    labels: Integer[np.ndarray, " cases"],
    *,
    possible: Bool[np.ndarray, " cases classes"] | None = None,
) -> float:
    """Find the temperature in [0.05, 20] that minimises the mean NLL (Guo et al. 2017).

    Above 1 the logits were overconfident. Logits that are never wrong have no best temperature:
    the lower, the better. They say nothing about their calibration and keep temperature 1.

    Args:
        logits: of each class.
        labels: the true classes.
        possible: the classes that each label may stand for, where it is not itself alone; their
            probabilities are then summed.

    Raises:
        ValueError: no case, numbers of cases differ, or a label is no class.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"one label per row: logits {logits.shape}, labels {labels.shape}")
    check_labels(labels, logits.shape[1])
    exact, rows = logits.astype(np.float64), np.arange(len(labels))
    if _is_never_wrong(exact, labels, possible):
        return 1.0

    def nll(log_temperature: float) -> float:
        scaled = exact / np.exp(log_temperature)
        truth = scaled[rows, labels] if possible is None else _summed(scaled, possible)
        return float((special.logsumexp(scaled, axis=1) - truth).mean())

    low, high = np.log(_TEMPERATURES)
    best = optimize.minimize_scalar(
        nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x))


def fit_class_temperatures(
    logits: Float[np.ndarray, " cases classes"],
    labels: Integer[np.ndarray, " cases"],
    *,
    possible: Bool[np.ndarray, " cases classes"] | None = None,
) -> tuple[float, ...]:
    """Find the temperature of each class in [0.05, 20] that together minimise the mean NLL.

    Takes the same arguments as ``fit_temperature``.

    Raises:
        ValueError: as ``fit_temperature``.
    """
    start = fit_temperature(logits, labels, possible=possible)
    log_p = special.log_softmax(logits.astype(np.float64), axis=1)
    if _is_never_wrong(log_p, labels, possible):
        return (1.0,) * logits.shape[1]
    own = np.eye(logits.shape[1])[labels]

    def nll(log_temperatures: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = log_p / np.exp(log_temperatures)
        log_q = special.log_softmax(scaled, axis=1)
        of_truth = (own * log_q).sum(axis=1) if possible is None else _summed(log_q, possible)
        truth = own if possible is None else possible * np.exp(log_q - of_truth[:, None])
        slope = ((truth - np.exp(log_q)) * scaled).mean(axis=0)
        return -float(of_truth.mean()), slope

    best = optimize.minimize(
        nll,
        np.full(logits.shape[1], np.log(start)),
        jac=True,
        bounds=[tuple(np.log(_TEMPERATURES))] * logits.shape[1],
    )
    return tuple(map(float, np.exp(best.x)))


def _is_never_wrong(logits: np.ndarray, labels: np.ndarray, possible: np.ndarray | None) -> bool:
    likeliest = logits.argmax(axis=1)
    right = likeliest == labels if possible is None else possible[np.arange(len(labels)), likeliest]
    return bool(right.all())


def _summed(logits: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return the logarithm of what the possible classes of each row sum to."""
    return np.asarray(special.logsumexp(np.where(possible, logits, -np.inf), axis=1))


def fit_independent_temperature(
    logits: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases classes"]
) -> float:
    """Find the temperature that minimises the mean NLL of classes that do not exclude each other.

    Each class of each case is a question of its own. Its logit against 0 is what two exclusive
    classes would have.

    Args:
        logits: of each class.
        labels: 1 where it is there, 0 where it is not, ``UNLABELLED`` where nobody knows.

    Raises:
        ValueError: the shapes differ, nobody knows anything, or a label is another number.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"one label per logit: logits {logits.shape}, labels {labels.shape}")
    known = labels != UNLABELLED
    there = logits[known]
    return fit_temperature(np.stack([np.zeros_like(there), there], axis=1), labels[known])


def fit_independent_temperatures(
    logits: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases classes"]
) -> tuple[float, ...]:
    """Find the temperature of each class by itself; 1 of a class of which nothing is known.

    Raises:
        ValueError: as ``fit_independent_temperature``.
    """
    return tuple(
        fit_independent_temperature(logits[:, [number]], labels[:, [number]])
        if (labels[:, number] != UNLABELLED).any()
        else 1.0
        for number in range(logits.shape[1])
    )


def fit_drawn(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    by_class: bool,
    possible: np.ndarray | None = None,
) -> Temperature:
    """Fit the temperature of drawn voxels, or one a class.

    Args:
        logits: ``[voxels, classes]``.
        labels: ``[voxels, 1]`` class indices; of independent classes ``[voxels, classes]``, 0 or 1,
            or ``UNLABELLED``.
        by_class: whether each class has its own.
        possible: the classes that each index may stand for; None of independent classes.
    """
    if possible is None:
        many = fit_independent_temperatures if by_class else fit_independent_temperature
        return many(logits, labels)
    is_one = (possible.sum(axis=1) == 1).all()
    fit = fit_class_temperatures if by_class else fit_temperature
    return fit(logits, labels[:, 0], possible=None if is_one else possible)


def apply_temperature(
    logits: Float[np.ndarray, " ..."], temperature: Temperature, *, axis: int
) -> Float[np.ndarray, " ..."]:
    """Return softmax(logits / temperature) in float32 over the axis of classes.

    Temperatures of classes divide the log-probabilities, since logits are known up to a constant.

    Raises:
        ValueError: a temperature is not positive, or there is not one a class.
    """
    values = np.asarray(temperature, np.float32)
    if not (values > 0).all():
        raise ValueError(f"temperature must be positive, got {temperature}")
    logits = logits.astype(np.float32)
    if values.ndim == 0:
        return special.softmax(logits / values, axis=axis)
    if len(values) != logits.shape[axis]:
        raise ValueError(f"one temperature a class: {len(values)} for {logits.shape[axis]} classes")
    shape = [1] * logits.ndim
    shape[axis] = len(values)
    scaled = special.log_softmax(logits, axis=axis) / values.reshape(shape)
    return special.softmax(scaled, axis=axis)
