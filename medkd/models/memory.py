"""Memory: what to do where a device has too little of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medkd.errors import TrainingError

NO_MEMORY = "can't allocate memory"  # torch's CPU allocator says so in a plain RuntimeError


@contextmanager
def remedy_for_memory(place: str, remedy: str) -> Iterator[None]:
    """Say which knob to turn where memory does not suffice.

    Args:
        place: where it happened.
        remedy: what to do.

    Raises:
        TrainingError: it did not suffice.

    Example:
        >>> with remedy_for_memory("baseline: step 3", "lower train.batch"):
        ...     raise MemoryError("cannot allocate memory")
        Traceback (most recent call last):
        medkd.errors.TrainingError: baseline: step 3: out of memory (cannot allocate memory); ...
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_named and NO_MEMORY not in str(error):
            raise
        said = next((part for part in str(error).split(". ") if "memory" in part), str(error))
        raise TrainingError(f"{place}: out of memory ({said}); {remedy}") from None
