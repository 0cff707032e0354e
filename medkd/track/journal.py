"""Journal: everything a study reports, one JSON line an event, in the study's folder.

An event is ``{"run", "kind", "time_ms", "values"}``, with a ``step`` where ``kind`` is "metrics"
or "image".
The first one names the study and holds the random key that its runs are found by. NaN and infinity
are no JSON numbers, and MLflow would store infinity as 1.8e308 and ruin the chart: such a metric
is null, its name is listed under ``not_finite``, and no store ever receives it.
"""

import errno
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from medkd.track.tracker import Status

JOURNAL_FILE = "journal.jsonl"
STUDY_RUN = "study"  # the run that all others are nested in
Event = dict[str, Any]

_KEYS = {"run", "kind", "time_ms", "values"}
_log = logging.getLogger(__name__)


class Journal:
    """The journal of one study; opening it writes the study's event if it holds none."""

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        experiment: str | None = None,
        ranked_by: str = "final/dice",
        description: str = "",
    ) -> None:
        """Open the journal at ``path``.

        Args:
            path: ``journal.jsonl`` in the study's folder.
            name: the study's; its folder's if left out.
            experiment: studies of one experiment are compared side by side; the name if left out.
            ranked_by: the metric that a view of the experiment is sorted by, largest first.
            description: Markdown, shown with the study.
        """
        self.path = path
        if next(read(path), None) is None:
            name = name or path.absolute().parent.name
            study = {"key": uuid.uuid4().hex, "name": name, "experiment": experiment or name}
            more = {"ranked_by": ranked_by, "description": description}
            self.append(STUDY_RUN, "study", study | more)

    def run(self, name: str) -> "JournalTracker":
        """Return the tracker of one run: "study", "teacher", "baseline", "student", or any name."""
        return JournalTracker(self, name)

    def append(self, run: str, kind: str, values: Mapping[str, Any], **more: object) -> None:
        """Write one event; what the disk refuses is lost with a warning, never an error.

        The file is opened anew and written by a single call, so an event that was appended
        outlives the process, and one that was torn stays a line of its own.
        """
        event = {"run": run, "kind": kind, "time_ms": _now_ms(), **more}
        line = json.dumps(event | {"values": values}, default=str).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                _write_whole(file, line if _ends_whole(file) else b"\n" + line)
        except OSError as error:
            _log.warning("%s: not written, tracking has a gap: %s", self.path, error)


@dataclass(frozen=True)
class JournalTracker:
    """A tracker that appends to a journal."""

    journal: Journal
    name: str

    def params(self, values: Mapping[str, object]) -> None:
        """Append settings, as the text that MLflow shows."""
        self._append("params", {key: str(value) for key, value in values.items()})

    def metrics(self, values: Mapping[str, float | int], *, step: int) -> None:
        """Append figures at a step."""
        self._metrics(values, step=step)

    def artifact(self, path: PurePath, *, folder: str = "") -> None:
        """Append the path of a file or folder, relative to the study's folder.

        Raises:
            ValueError: an absolute path that is not below the study's folder.
        """
        self._append("artifact", {"path": self._within(path), "folder": folder})

    def image(self, path: PurePath, *, name: str, step: int) -> None:
        """Append the path of a picture, as of ``artifact``, its name and its step."""
        self._append("image", {"path": self._within(path), "name": name}, step=step)

    def dataset(self, name: str, *, digest: str, context: str) -> None:
        """Append a data set by name and digest; no path."""
        self._append("dataset", {"name": name, "digest": digest, "context": context})

    def tags(self, values: Mapping[str, str]) -> None:
        """Append labels."""
        self._append("tags", {key: str(value) for key, value in values.items()})

    def release(
        self,
        name: str,
        *,
        digest: str,
        tags: Mapping[str, str],
        description: str,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Append a release: its registered model, its digest, its figures and its lineage."""
        # of one moment, for a store tells points of a run and of its model apart by their time
        now, figures = {"time_ms": _now_ms()}, dict(figures or {})
        if figures:
            self._metrics(figures, step=0, **now)
        tags = {key: str(value) for key, value in tags.items()}
        values = {"name": name, "digest": digest, "tags": tags, "description": description}
        finite = {key: value for key, value in figures.items() if math.isfinite(value)}
        self._append("release", values | {"figures": finite}, **now)

    def alias(self, name: str, *, digest: str, alias: str) -> None:
        """Append that the release of this digest is now called by an alias."""
        self._append("alias", {"name": name, "digest": digest, "alias": alias})

    def status(self, status: Status) -> None:
        """Append how the run stands."""
        self._append("status", {"status": status})

    def _metrics(self, values: Mapping[str, float | int], **more: object) -> None:
        figures = {key: float(value) for key, value in values.items()}
        absent = [key for key, value in figures.items() if not math.isfinite(value)]
        kept = {key: None if key in absent else value for key, value in figures.items()}
        self._append("metrics", kept, **more, **({"not_finite": absent} if absent else {}))

    def _within(self, path: PurePath) -> str:
        if path.is_absolute():
            path = path.relative_to(self.journal.path.parent.absolute())
        return path.as_posix()

    def _append(self, kind: str, values: Mapping[str, Any], **more: object) -> None:
        self.journal.append(self.name, kind, values, **more)


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield the whole events from byte ``offset`` on, each with the offset to go on from.

    A torn line is skipped; one that is still without its end is left for the next reading.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            event = _parse(line) if line.endswith(b"\n") else None
            if event is not None:
                yield event, offset


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.keys() >= _KEYS else None


def _write_whole(file: BinaryIO, data: bytes) -> None:
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _ends_whole(file: BinaryIO) -> bool:
    if file.seek(0, 2) == 0:
        return True
    file.seek(-1, 2)
    return file.read(1) == b"\n"
