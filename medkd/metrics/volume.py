"""Volume: how large a structure is, and how far two ways of measuring it agree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_LIMIT = 1.96  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Agreement:
    """Limits of agreement of two ways of measuring (Bland and Altman, Lancet 1986).

    Attributes:
        bias: mean of measured - reference.
        low: below which 2.5 % of the differences are expected, if they are normal.
        high: above which 2.5 % are.
        cases: number of differences.
    """

    bias: float
    low: float
    high: float
    cases: int


def volume_ml(mask: Bool[np.ndarray, " *space"], *, spacing_mm: Sequence[float]) -> float:
    """Return a mask's volume in millilitres; of a 2D mask the area in cm² (10 x 10 mm).

    Raises:
        ValueError: not one positive spacing per axis.

    Example:
        >>> volume_ml(np.ones((10, 10, 20), dtype=bool), spacing_mm=(1.0, 1.0, 0.5))
        1.0
    """
    if len(spacing_mm) != mask.ndim or not all(s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm needs {mask.ndim} positive numbers, got {tuple(spacing_mm)}")
    return float(mask.sum()) * math.prod(spacing_mm) / 10**mask.ndim


def agreement(
    measured: Float[np.ndarray, " cases"], reference: Float[np.ndarray, " cases"]
) -> Agreement:
    """Return bias and 95 % limits of agreement of two measurements of the same cases.

    Raises:
        ValueError: fewer than two cases, lengths differ, or a value is not finite.
    """
    if measured.shape != reference.shape or len(measured) < 2:
        raise ValueError(
            f"agreement is of two or more pairs: got {measured.shape} and {reference.shape}"
        )
    differences = measured - reference
    if not np.isfinite(differences).all():
        raise ValueError("agreement needs finite values")
    bias, spread = float(differences.mean()), _LIMIT * float(differences.std(ddof=1))
    return Agreement(bias, bias - spread, bias + spread, len(differences))
