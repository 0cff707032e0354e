"""Temperature: one number that makes a network as sure as it is right (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Float, Integer
from scipy import optimize, special

from medkd.metrics.calibration import check_labels

_TEMPERATURES = (0.05, 20.0)


def fit_temperature(
    logits: Float[np.ndarray, " cases classes"], labels: Integer[np.ndarray, " cases"]
) -> float:
    """Find the temperature in [0.05, 20] that minimises the mean NLL (Guo et al. 2017).

    Above 1 the logits were overconfident. Logits that are never wrong have no best temperature:
    the lower, the better. They say nothing about their calibration and keep temperature 1.

    Raises:
        ValueError: no case, numbers of cases differ, or a label is no class.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"one label per row: logits {logits.shape}, labels {labels.shape}")
    check_labels(labels, logits.shape[1])
    exact, rows = logits.astype(np.float64), np.arange(len(labels))
    if (exact.argmax(axis=1) == labels).all():
        return 1.0

    def nll(log_temperature: float) -> float:
        scaled = exact / np.exp(log_temperature)
        return float((special.logsumexp(scaled, axis=1) - scaled[rows, labels]).mean())

    low, high = np.log(_TEMPERATURES)
    best = optimize.minimize_scalar(
        nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x))


def apply_temperature(
    logits: Float[np.ndarray, " ..."], temperature: float, *, axis: int
) -> Float[np.ndarray, " ..."]:
    """Return softmax(logits / temperature) in float32 over the axis of classes.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return special.softmax(logits.astype(np.float32) / np.float32(temperature), axis=axis)
