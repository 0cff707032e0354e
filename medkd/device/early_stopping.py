"""Early stopping: what a percentile of latency is at most, from as many queries as there are.

MLPerf Inference rules, appendix "Early Stopping Criterion" (mlcommons/inference_policies,
``inference_rules.adoc``): with n queries, t of them may be slower than the bound if a system whose
share of slow answers is 1 - p would have so few with a probability of at most 1 - c,
``P(Binomial(n, 1 - p) <= t) <= 1 - c``; the bound is then the (t + 1)-th slowest.
"""

import math
from collections.abc import Sequence

PERCENTILE, CONFIDENCE = 0.9, 0.99  # of the single stream


def latency_bound(
    latencies: Sequence[float], *, percentile: float = PERCENTILE, confidence: float = CONFIDENCE
) -> float | None:
    """Return the bound; None where even the slowest of so few queries is none.

    Example:
        >>> latencies = [float(i) for i in range(1, 65)]
        >>> latency_bound(latencies), latency_bound(latencies[:44]), latency_bound(latencies[:43])
        (63.0, 44.0, None)
    """
    allowed = slower_allowed(len(latencies), percentile=percentile, confidence=confidence)
    return None if allowed is None else sorted(latencies)[-1 - allowed]


def slower_allowed(queries: int, *, percentile: float, confidence: float) -> int | None:
    """Return how many of the queries may be slower than the bound; None if even none are too few.

    Raises:
        ValueError: percentile or confidence is not in (0, 1).
    """
    if not (0 < percentile < 1 and 0 < confidence < 1):
        raise ValueError(f"percentile {percentile} and confidence {confidence} lie in (0, 1)")
    slow, probability = 1 - percentile, 0.0
    for count in range(queries + 1):
        probability += math.exp(
            math.lgamma(queries + 1)
            - math.lgamma(count + 1)
            - math.lgamma(queries - count + 1)
            + count * math.log(slow)
            + (queries - count) * math.log(percentile)
        )
        if probability > 1 - confidence:
            return count - 1 if count else None
    return None
