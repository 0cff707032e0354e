"""Send: answers go to the peer, again and again until it has taken them."""

import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from medkd.device.node.log import log
from medkd.device.node.options import NodeOptions
from medkd.device.node.seal import is_intact
from medkd.device.node.spool import Spool

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
# success, warnings that the object was kept, and an object that is there already
TAKEN = {0x0000, 0xB000, 0xB006, 0xB007, 0x0111}
ANSWERS = ("SegmentationStorage", "ComprehensiveSRStorage")
EVERY_S = 0.2  # the outbox is looked at


class PeerError(Exception):
    """The peer cannot be reached: no answer would fare better."""


class Sender:
    """The sending half of a node.

    Attributes:
        refused: why the peer did not take an answer; none if it has taken all.
    """

    def __init__(self, spool: Spool, options: NodeOptions) -> None:
        self._spool, self._options = spool, options
        self._waits: dict[str, tuple[float, float]] = {}  # by answer: until when, and for how long
        self.refused: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Send what is in the outbox, until told to stop."""
        wait_s = FIRST_WAIT_S
        while not stop.is_set():
            try:
                self._send_due()
            except Exception as error:  # noqa: BLE001  nothing ends a node that cannot send
                self.refused = _told(error)
                log(f"answers wait: {self.refused}; again in {wait_s:.0f} s")
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                wait_s = FIRST_WAIT_S
                stop.wait(EVERY_S)

    def _send_due(self) -> None:
        waiting = self._spool.outbox()
        self._waits = {a.name: self._waits[a.name] for a in waiting if a.name in self._waits}
        due = [answer for answer in waiting if self._is_due(answer)]
        if due:
            self.send(due)
        if not self._waits:
            self.refused = None

    def send(self, answers: list[Path]) -> None:
        """Send answers one at a time: what is wrong with one delays no other.

        All go in one association, unless the peer ends it at one of them.

        Raises:
            PeerError: it does not answer, or rejects the association.
        """
        association = self._associate()
        try:
            for answer in answers:
                if not association.is_established:
                    association = self._associate()
                self._store(association, answer)
        finally:
            if association.is_established:
                association.release()

    def _is_due(self, answer: Path) -> bool:
        return time.monotonic() >= self._waits.get(answer.name, (0.0, 0.0))[0]

    def _associate(self) -> Any:  # noqa: ANN401
        """Return an association.

        Raises:
            PeerError: the peer is not found, does not answer or rejects it.
        """
        from pynetdicom import AE, sop_class

        entity = AE(self._options.title)
        for name in ANSWERS:
            entity.add_requested_context(getattr(sop_class, name))
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 30
        peer = self._options.peer
        try:
            association = entity.associate(peer.host, peer.port, ae_title=peer.title)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PeerError(f"the peer cannot be reached at {peer.host} ({reason})") from None
        if not association.is_established:
            raise PeerError("the peer does not answer or rejects the association")
        return association

    def _store(self, association: Any, answer: Path) -> None:  # noqa: ANN401
        try:
            dataset = _read(answer)
        except FileNotFoundError:
            return  # it was asked for again, or set aside, meanwhile
        except Exception as error:  # noqa: BLE001  whatever a disk does to a file
            self._set_aside(answer, f"its file is damaged ({type(error).__name__})")
            return
        if not any(c.abstract_syntax == dataset.SOPClassUID for c in association.accepted_contexts):
            self._wait(answer, "the peer does not take such objects")
            return
        try:
            status = association.send_c_store(dataset).get("Status")
        except RuntimeError:  # the association has ended
            status = None
        except Exception as error:  # noqa: BLE001  what cannot be encoded never will be
            self._set_aside(answer, f"it cannot be encoded ({type(error).__name__})")
            return
        if status in TAKEN:
            self._spool.sent(answer)
            log(f"sent {answer.stem}")
        elif status is None:
            association.kill()  # pynetdicom may not have noticed yet that it was aborted
            self._wait(answer, "the peer did not take an answer (no status)")
        else:
            self._wait(answer, f"the peer did not take an answer (status {status:04X})")

    def _wait(self, answer: Path, reason: str) -> None:
        """Let an answer that the peer does not want wait by itself."""
        before = self._waits.get(answer.name, (0.0, FIRST_WAIT_S / 2))[1]
        wait_s = min(2 * before, LONGEST_WAIT_S)
        self._waits[answer.name] = (time.monotonic() + wait_s, wait_s)
        self.refused = reason
        log(f"{answer.stem} waits: {reason}; again in {wait_s:.0f} s")

    def _set_aside(self, answer: Path, reason: str) -> None:
        log(f"{answer.stem} is not sent: {reason}; see failed/{answer.stem}/{answer.name}")
        self._spool.set_aside(answer, reason)


def _told(error: Exception) -> str:
    """Say what is wrong; of what nobody foresaw the kind alone, as its text may name a patient."""
    if isinstance(error, PeerError):
        return str(error)
    if isinstance(error, OSError):
        return f"the spool cannot be written ({error.strerror})"
    return f"sending them failed ({type(error).__name__})"


def _read(answer: Path) -> Dataset:
    """Read an answer.

    Raises:
        ValueError: it is not what was put there.
    """
    content = answer.read_bytes()
    if not is_intact(content):
        raise ValueError("damaged")
    return dcmread(BytesIO(content))
