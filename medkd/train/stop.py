"""Stop: a signal ends training between two steps, when all that changes can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medkd.train.distributed import world_size

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether somebody has asked the process to end."""

    def __init__(self) -> None:
        self._number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def leave_if_asked(self) -> None:
        """End as the signal would have done at once.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after SIGTERM.
        """
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            raise SystemExit(128 + self._number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second one does not wait for the step to end."""
        del frame
        impatient, self._number = self.asked, number
        if impatient:
            self.leave_if_asked()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let signals wait while the block runs; it asks between steps.

    Only the main thread can, and only where no other process would wait for this one.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or world_size() > 1:
        yield stop
        return
    before = {number: signal.signal(number, stop.note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    stop.leave_if_asked()
