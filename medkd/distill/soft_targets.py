"""Soft targets: the teacher's class probabilities, one file a case, written once.

They are kept as log-probabilities in float16: at temperature 4 their divergence from float32 is
about 1e-8, where float16 *probabilities* lose 6e-3, because a small probability that is rounded
away cannot be tempered back.
"""

from pathlib import Path

import numpy as np

FLOOR = -24.0  # natural log; at temperature 4 still e^-6


def write_soft_target(path: Path, log_probabilities: np.ndarray) -> None:
    """Write ``[classes, *space]`` (or ``[classes]``) log-probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.save(file, np.maximum(log_probabilities, FLOOR).astype(np.float16))
    temporary.replace(path)
