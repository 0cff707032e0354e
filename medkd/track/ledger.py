"""Ledger: how far each store has got in a study's journal.

Only a shortcut: a store can be sent everything again, so deleting the file is harmless. It holds
the stores' addresses as digests, because an address may hold a password.
"""

import fcntl
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkd.errors import StudyError
from medkd.study import digest, write_atomic
from medkd.track.journal import JOURNAL_FILE, Event, read

LEDGER_FILE = ".mlflow.json"


@dataclass(frozen=True)
class Ledger:
    """The place of one store in one study's journal."""

    folder: Path  # the study's
    uri: str

    @property
    def journal(self) -> Path:
        """The journal that is sent."""
        return self.folder / JOURNAL_FILE

    @property
    def runs(self) -> dict[str, str]:
        """The store's run ids by role."""
        return self._entry.get("runs", {})

    def size(self) -> int:
        """Bytes of the journal, which only grows."""
        return self.journal.stat().st_size if self.journal.exists() else 0

    def pending(self) -> int:
        """Count the events that the store is not known to hold."""
        return sum(1 for _ in self.rest())

    def rest(self) -> Iterator[tuple[Event, int]]:
        """Yield these events, each with the offset behind it."""
        return read(self.journal, self._entry.get("offset", 0))

    def remember(self, offset: int, runs: Mapping[str, str]) -> None:
        """Note that the store holds everything before ``offset``."""
        entries = self._entries() | {digest(self.uri): {"offset": offset, "runs": dict(runs)}}
        write_atomic(self.folder / LEDGER_FILE, json.dumps(entries, indent=1))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for another sender of this study, which would make the same runs.

        Raises:
            StudyError: the folder holds no journal.
        """
        try:
            file = self.journal.open("rb")
        except FileNotFoundError:
            folder = shlex.quote(str(self.folder))
            raise StudyError(f"{folder}: no journal here; give a study's folder") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def _entry(self) -> dict[str, Any]:
        return self._entries().get(digest(self.uri), {})

    def _entries(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / LEDGER_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return {}
