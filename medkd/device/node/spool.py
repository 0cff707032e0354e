"""Spool: a node's queue on disk. What was accepted is there after a kill, once.

Every step is a rename. Folders and files are called by digests of UIDs, never by what an object
says, and only their owner can read them. Where a release needs several modalities, what is called
a series here is a study::

    receiving/SERIES/OBJECT.dcm   accepted; ``.released`` beside them once all senders have finished
    working/SERIES/               is being answered
    waiting/SERIES/reason.json    lacks a modality
    outbox/ANSWER.dcm             is to be sent
    sent/ANSWER.dcm               was taken by the peer
    answered/SERIES/              kept for a while: late objects join it and all are answered anew
    failed/SERIES/reason.json     no answer, and why; or an answer that cannot be sent
    seen/SERIES                   which objects it had, for longer than the objects themselves
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medkd.errors import ConfigError, StudyError
from medkd.study import write_atomic

PARTS = ("receiving", "working", "waiting", "outbox", "sent", "answered", "failed")
PUT_AWAY = ("waiting", "answered", "failed")  # series whose late objects join them
SEEN = "seen"
RELEASED, ATTEMPTS, REASON = ".released", ".attempts", "reason.json"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PROBE_EVERY_S, LARGEST_PROBE = 2.0, 2**22  # bytes that are tried on a disk that was full
MOST_ATTEMPTS = 3  # of a series that ends the whole process


class SpoolFullError(Exception):
    """The spool holds as much as it may."""


class Spool:
    """The queue in one folder, which one process holds.

    Attributes:
        folder: owner only.
        most_bytes: that it may hold.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        """Make the folder where there is none.

        Raises:
            ConfigError: it cannot be made, or is another's.
        """
        self.folder, self.most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        self._ended: set[str] = set()  # series that could not be marked as released yet
        self._unwritten, self._probed = 0, 0.0  # bytes that the disk did not take, and when
        try:
            for part in (*PARTS, SEEN):
                (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be a spool ({error.strerror}); choose another --spool"
            ) from None
        self.bytes = _size(folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out, and take up what a killed one left.

        Raises:
            StudyError: another process holds it.
        """
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StudyError(
                    f"{self.folder}: another node works in this folder; choose another --spool"
                ) from None
            self._take_up()
            yield

    def store(self, series_uid: str, object_uid: str, content: bytes) -> None:
        """Keep an object; once this returns it is on the disk.

        Raises:
            SpoolFullError: there is no room for it.
            OSError: the disk does not take it.
        """
        with self._lock:
            folder = self.folder / "receiving" / key_of(series_uid)
            (folder / RELEASED).unlink(missing_ok=True)  # even if it is refused: it was to come
            self._ended.discard(folder.name)
            if self.bytes + len(content) > self.most_bytes:
                raise SpoolFullError
            with self.writing(len(content)):
                folder.mkdir(mode=0o700, exist_ok=True)
                write_atomic(folder / f"{key_of(object_uid)}.dcm", content)
                _sync(folder)
                _sync(folder.parent)
            self.bytes += len(content)

    @contextmanager
    def writing(self, size: int) -> Iterator[None]:
        """Remember whether the disk had room for so many bytes."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                self._unwritten, self._probed = size, time.monotonic()
            raise
        if size >= self._unwritten:
            self._unwritten = 0

    def has_room(self) -> bool:
        """Whether the disk takes what is written; where it last did not, it is tried again."""
        if not self._unwritten:
            return True
        if time.monotonic() - self._probed < PROBE_EVERY_S:
            return False
        with suppress(OSError), self.writing(self._unwritten):
            write_atomic(self.folder / ".probe", bytes(min(self._unwritten, LARGEST_PROBE)))
            (self.folder / ".probe").unlink()
        return not self._unwritten

    def release(self, series: Collection[str]) -> None:
        """Note that the sender of some series has finished."""
        with self._lock:
            self._ended.update(series)
            self._mark()

    def _mark(self) -> None:
        for each in sorted(self._ended):
            folder = self.folder / "receiving" / each
            with suppress(OSError):  # a full disk: once more before the next claim
                if folder.is_dir():
                    (folder / RELEASED).touch()
                self._ended.discard(each)

    def claim(
        self, *, busy: Collection[str], quiet_s: float, patience_s: float
    ) -> tuple[Path, bool] | None:
        """Return the folder of a series that is complete, and whether its sender had finished.

        Args:
            busy: series that open associations have sent objects of.
            quiet_s: since the last association that sent any was released.
            patience_s: since the last object, where no association was released: the sender or
                this node broke off.
        """
        with self._lock:
            self._mark()
            for folder in sorted((self.folder / "receiving").iterdir(), key=_changed):
                released = (folder / RELEASED).exists()
                since = time.time() - _changed(folder / RELEASED if released else folder)
                if folder.name in busy or since < (quiet_s if released else patience_s):
                    continue
                for part in PUT_AWAY:
                    self._join(self.folder / part / folder.name, folder)
                working = folder.replace(self.folder / "working" / folder.name)
                return working, released
        return None

    def lacks(self, working: Path) -> int:
        """Return how many objects a series once had that are there no more."""
        path = self.folder / SEEN / working.name
        seen = set(path.read_text().split()) if path.exists() else set()
        return len(seen - {each.stem for each in working.glob("*.dcm")})

    def give_back(self, working: Path) -> None:
        """Put a series back that could not be answered yet: as it came, and as if not begun."""
        with self._lock:
            (working / ATTEMPTS).unlink(missing_ok=True)
            self._take_back(working)

    def attempt(self, working: Path) -> int:
        """Count and return how often a series was begun."""
        path = working / ATTEMPTS
        count = int(path.read_text()) + 1 if path.exists() else 1
        write_atomic(path, str(count))
        return count

    def knows(self, answer_uid: str) -> bool:
        """Whether this answer was given; if it had been sent, it will be once more, unchanged."""
        name = f"{key_of(answer_uid)}.dcm"
        with self._lock:
            if (self.folder / "outbox" / name).exists():
                return True
            if (self.folder / "sent" / name).exists():
                (self.folder / "sent" / name).replace(self.folder / "outbox" / name)
                return True
        return False

    def finish(self, working: Path, *, answer: tuple[str, Callable[[Path], None]] | None) -> None:
        """Put an answer into the outbox and the series away.

        Args:
            working: the series.
            answer: its UID, and what writes it to a path; None if it is there already.
        """
        if answer:
            uid, write = answer
            place = self.folder / "outbox" / f"{key_of(uid)}.dcm"
            temporary = place.with_name(f".{place.name}.partial")
            try:
                write(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            temporary.replace(place)
            _sync(place.parent)
        self._put_away(working, "answered")

    def fail(self, working: Path, reason: str, *, part: str = "failed") -> None:
        """Put a series away that has no answer, or that waits for a modality."""
        write_atomic(working / REASON, json.dumps({"reason": reason}))
        self._put_away(working, part)

    def outbox(self) -> list[Path]:
        """Return the answers to be sent, the oldest first."""
        with self._lock:  # or one is sent between its name and its age
            return sorted((self.folder / "outbox").glob("*.dcm"), key=_changed)

    def sent(self, answer: Path) -> None:
        """Note that the peer has taken an answer."""
        with self._lock:
            os.utime(answer.replace(self.folder / "sent" / answer.name))

    def set_aside(self, answer: Path, reason: str) -> None:
        """Put an answer away that cannot be sent."""
        place = self.folder / "failed" / answer.stem
        with self._lock:
            place.mkdir(mode=0o700, exist_ok=True)
            write_atomic(place / REASON, json.dumps({"reason": reason}))
            answer.replace(place / answer.name)

    def purge(self, *, keep_s: float, keep_unanswered_s: float, remember_s: float) -> None:
        """Remove what has been answered and sent, or has waited or failed, for so long.

        Which objects a series had is remembered for longer: without the others, those that come
        late are not taken for all of it.
        """
        with self._lock:
            arriving = {path.name for path in (self.folder / "receiving").iterdir()}
            kept = [(path, keep_s) for path in self._within("answered", "sent")]
            kept += [(path, remember_s) for path in self._within(SEEN)]
            room = self.most_bytes / 2  # the other half is for what comes
            for path in sorted(self._within("waiting", "failed"), key=_changed, reverse=True):
                room -= _size(path)
                kept.append((path, keep_s if room < 0 else keep_unanswered_s))
            for path, longest_s in kept:
                if time.time() - _changed(path) > longest_s and path.name not in arriving:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.bytes = _size(self.folder)

    def counts(self) -> dict[str, int]:
        """Return how many series or answers are where."""
        return {
            part: sum(not p.name.startswith(".") for p in (self.folder / part).iterdir())
            for part in PARTS
        }

    def _take_up(self) -> None:
        for working in (self.folder / "working").iterdir():
            self._take_back(working)
        for partial in self.folder.rglob(".*.partial"):
            partial.unlink()

    def _take_back(self, working: Path) -> None:
        receiving = self.folder / "receiving" / working.name
        if receiving.exists():  # objects that came while it was answered
            self._join(working, receiving)
        else:
            working.replace(receiving)

    def _put_away(self, working: Path, part: str) -> None:
        seen = self.folder / SEEN / working.name
        before = seen.read_text().split() if seen.exists() else []
        names = {*before, *(each.stem for each in working.glob("*.dcm"))}
        write_atomic(seen, "\n".join(sorted(names)))
        with self._lock:
            for name in (RELEASED, ATTEMPTS):
                (working / name).unlink(missing_ok=True)
            place = self.folder / part / working.name
            if place.exists():
                shutil.rmtree(place)
            working.replace(place)
            os.utime(place)

    @staticmethod
    def _join(source: Path, target: Path) -> None:
        """Move the objects of one folder to another that does not have them."""
        if not source.is_dir():
            return
        for path in source.glob("*.dcm"):
            if not (target / path.name).exists():
                path.replace(target / path.name)
        if (source / ATTEMPTS).exists():
            (source / ATTEMPTS).replace(target / ATTEMPTS)
        shutil.rmtree(source)

    def _within(self, *parts: str) -> list[Path]:
        return [path for part in parts for path in (self.folder / part).iterdir()]


def key_of(uid: str) -> str:
    """Return what an object is called on disk and in logs: nothing of its UID shows.

    Example:
        >>> key_of("1.2.840.10008.1")
        '08a65d6d4c4c107fb68d'
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:20]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.dcm"))


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
