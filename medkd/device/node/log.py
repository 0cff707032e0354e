"""Log: what a node did, on standard error; digests and counts, nothing of a patient."""

import contextlib
import time

from rich.markup import escape

from medkd.progress import error_console


def log(message: str) -> None:
    """Write a line with the time of day; a full disk takes none, and stops nothing."""
    with contextlib.suppress(OSError):
        error_console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escape(message)}")
