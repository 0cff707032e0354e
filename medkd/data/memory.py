"""Memory: what a file promises to take is judged before it is taken; arrays go in pieces."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medkd.errors import TooLargeError

PIECE = 2**18  # values


def refuse_larger(path: Path, size: int, *, memory_bytes: int, of: str = "") -> None:
    """Refuse a file that would take more memory than may be used.

    Args:
        path: is named in the error.
        size: bytes that reading it would take.
        memory_bytes: that may be used.
        of: what is so large, e.g. ``4000x4000 pixels``.

    Raises:
        TooLargeError: it would.
    """
    if size <= memory_bytes:
        return
    what = f" ({of})" if of else ""
    raise TooLargeError(
        f"{path}: takes {size / 2**30:.3g} GiB{what}, and preprocess.reading.memory_gib allows "
        f"{memory_bytes / 2**30:.3g}; raise that if the file can be trusted, or cut it into parts"
    )


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array in pieces that are small enough to copy; in C order they are all of it."""
    if array.size <= PIECE:
        yield array
        return
    step = PIECE // array[0].size
    if not step:
        for part in array:
            yield from pieces(part)
    else:
        for start in range(0, len(array), step):
            yield array[start : start + step]


def smallest_type(least: int, most: int) -> np.dtype:
    """Return the smallest type of integers from ``least`` to ``most``.

    Example:
        >>> smallest_type(0, 255), smallest_type(-1, 255)
        (dtype('uint8'), dtype('int16'))
    """
    return np.min_scalar_type(most if least >= 0 else min(least, -1 - most))
