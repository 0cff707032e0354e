"""Memory: what a file promises to take is judged before it is taken."""

from pathlib import Path

from medkd.errors import DataError


def refuse_larger(path: Path, size: int, *, memory_bytes: int, of: str = "") -> None:
    """Refuse a file that would take more memory than may be used.

    Args:
        path: is named in the error.
        size: bytes that reading it would take.
        memory_bytes: that may be used.
        of: what is so large, e.g. ``4000x4000 pixels``.

    Raises:
        DataError: it would.
    """
    if size <= memory_bytes:
        return
    what = f" ({of})" if of else ""
    raise DataError(
        f"{path}: takes {size / 2**30:.3g} GiB{what}, and preprocess.reading.memory_gib allows "
        f"{memory_bytes / 2**30:.3g}; raise that if the file can be trusted, or cut it into parts"
    )
