"""Send: answers go to the peer, again and again until it has taken them."""

import threading
from pathlib import Path
from typing import Any

from pydicom import dcmread

from medkd.device.node.log import log
from medkd.device.node.options import NodeOptions
from medkd.device.node.spool import Spool

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
# success, warnings that the object was kept, and an object that is there already
TAKEN = {0x0000, 0xB000, 0xB006, 0xB007, 0x0111}


class Sender:
    """The sending half of a node."""

    def __init__(self, spool: Spool, options: NodeOptions) -> None:
        self._spool, self._options = spool, options
        self._wait_s = FIRST_WAIT_S
        self.refused: str | None = None  # why the peer did not take the last one

    def run(self, stop: threading.Event) -> None:
        """Send what is in the outbox, until told to stop."""
        while not stop.is_set():
            waiting = self._spool.outbox()
            if not waiting:
                stop.wait(0.2)
            elif self.send(waiting):
                self._wait_s, self.refused = FIRST_WAIT_S, None
            else:
                log(f"{len(waiting)} answers wait: {self.refused}; again in {self._wait_s:.0f} s")
                stop.wait(self._wait_s)
                self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def send(self, answers: list[Path]) -> bool:
        """Send answers in one association; return whether the peer took them all."""
        objects = [dcmread(answer) for answer in answers]
        association = self._associate({dataset.SOPClassUID for dataset in objects})
        if not association.is_established:
            self.refused = "the peer does not answer or rejects the association"
            return False
        try:
            pairs = zip(answers, objects, strict=True)
            return all([self._store(association, *pair) for pair in pairs])  # noqa: C419
        finally:
            if association.is_established:
                association.release()

    def _associate(self, classes: set[str]) -> Any:  # noqa: ANN401
        from pynetdicom import AE

        entity = AE(self._options.title)
        for sop_class in sorted(classes):
            entity.add_requested_context(sop_class)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 30
        peer = self._options.peer
        return entity.associate(peer.host, peer.port, ae_title=peer.title)

    def _store(self, association: Any, answer: Path, dataset: Any) -> bool:  # noqa: ANN401
        try:
            status = association.send_c_store(dataset).get("Status")
        except (RuntimeError, ValueError) as error:  # the association ended, or lacks the class
            self.refused = " ".join(str(error).split())
            return False
        if status not in TAKEN:
            code = "no status" if status is None else f"status {status:04X}"
            self.refused = f"the peer did not take an answer ({code})"
            return False
        self._spool.sent(answer)
        log(f"sent {answer.stem}")
        return True
