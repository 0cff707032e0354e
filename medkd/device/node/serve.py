"""Serve: a release as a DICOM node, from the images that arrive to the answers that are taken.

DICOM does not say when a series is complete. Here it is when the association that sent it was
released and nothing of it has come for ``quiet_s``; where the association broke off, or the node
did, after ``patience_s`` without another object, and the answer says so. Objects that come later
join those that were answered, and all of them are answered anew: other images, another UID. The
same images are never answered under two.
"""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from pydicom import Dataset

from medkd.data.reader import read_image
from medkd.device.dicom.answer import as_dicom
from medkd.device.dicom.source import Source, release_id
from medkd.device.manifest import read_manifest
from medkd.device.node.health import HealthServer
from medkd.device.node.log import log
from medkd.device.node.options import NodeOptions
from medkd.device.node.receive import Receiver
from medkd.device.node.send import Sender
from medkd.device.node.spool import MOST_ATTEMPTS, Spool
from medkd.device.predictor import Predictor, load
from medkd.errors import ConfigError, MedkdError, ReleaseError
from medkd.types import Task

EVERY_S = 0.2  # the queue is looked at
PURGE_EVERY_S = 60.0
BROKEN_OFF = " TRANSFER BROKE OFF"  # is added to the description of the answer's series


def serve(release: Path, options: NodeOptions) -> None:
    """Run a node until it is asked to stop (SIGTERM, SIGINT).

    Raises:
        ReleaseError: the release cannot be used, or needs several modalities.
        StudyError: another node works in the spool.
        ConfigError: a port is taken.
    """
    if len(read_manifest(release).preprocess.modalities) > 1:
        raise ReleaseError(
            f"{release}: needs several modalities of a case, and a node answers for one series at "
            f"a time; use medkd predict"
        )
    os.umask(0o077)
    predictor = load(release, runtime=options.runtime)
    spool = Spool(options.spool, most_bytes=options.spool_bytes)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with spool.hold():
        Node(predictor, spool, options).run(stop)


class Node:
    """Receiver, answers and sender over one spool."""

    def __init__(self, predictor: Predictor, spool: Spool, options: NodeOptions) -> None:
        self._predictor, self._spool, self._options = predictor, spool, options
        self._receiver = Receiver(spool, options)
        self._sender = Sender(spool, options)
        self._sending: threading.Thread | None = None
        self._answered = self._failed = 0
        self._last_ms: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop.

        Raises:
            ConfigError: a port is taken.
        """
        self._sending = threading.Thread(target=self._sender.run, args=(stop,), daemon=True)
        watcher = self._listen()
        self._sending.start()
        log(f"{self._options.title} listens on {self._options.host}:{self._options.port}")
        purged = 0.0
        try:
            while not stop.is_set():
                if time.monotonic() - purged > PURGE_EVERY_S:
                    self._spool.purge(keep_s=self._options.keep_s)
                    purged = time.monotonic()
                if not self.answer_next():
                    stop.wait(EVERY_S)
        finally:
            self._receiver.stop()
            if watcher:
                watcher.stop()
        self._sending.join(timeout=10)

    def answer_next(self) -> bool:
        """Answer for one series that is complete; return whether there was one."""
        claimed = self._spool.claim(
            busy=self._receiver.busy(),
            quiet_s=self._options.quiet_s,
            patience_s=self._options.patience_s,
        )
        if claimed is None:
            return False
        folder, has_ended = claimed
        if self._spool.attempt(folder) > MOST_ATTEMPTS:
            self._fail(folder, f"it ended the node {MOST_ATTEMPTS} times", None)
            return True
        start = time.perf_counter()
        try:
            self._answer(folder, has_ended=has_ended)
        except MedkdError as error:
            self._fail(folder, str(error).replace(str(folder), folder.name), error)
        except Exception as error:  # noqa: BLE001  one series stops no other
            self._fail(folder, f"{type(error).__name__}: {error}", error)
        else:
            self._answered += 1
            self._last_ms = 1000 * (time.perf_counter() - start)
            log(f"answered {folder.name} in {self._last_ms:.0f} ms")
        return True

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether all is well, and what there is to know."""
        counts = self._spool.counts()
        problems = []
        if not (self._sending and self._sending.is_alive()):
            problems.append("nothing sends")
        if self._sender.refused:
            problems.append(f"answers wait: {self._sender.refused}")
        if self._spool.bytes > 0.9 * self._spool.most_bytes:
            problems.append("the spool is nearly full")
        said = {
            "status": "; ".join(problems) or "ok",
            "release": release_id(self._predictor.manifest),
            "answered": self._answered,
            "failed": self._failed,
            "last_answer_ms": self._last_ms,
            "spool": counts | {"bytes": self._spool.bytes},
        }
        return not problems, said

    def _listen(self) -> HealthServer | None:
        try:
            self._receiver.start()
            if not self._options.health_port:
                return None
            host, port = self._options.host, self._options.health_port
            watcher = HealthServer(self.health, host=host, port=port)
        except OSError as error:
            raise ConfigError(
                f"port {self._options.port} or {self._options.health_port} cannot be listened on "
                f"({error.strerror}); choose others with --port and --set health_port=N"
            ) from None
        watcher.start()
        return watcher

    def _answer(self, folder: Path, *, has_ended: bool) -> None:
        source = Source.read(sorted(folder.glob("*.dcm")))
        manifest = self._predictor.manifest
        is_map = manifest.task is Task.SEGMENTATION
        uid = source.uid(manifest, "segmentation" if is_map else "report")
        if self._spool.knows(uid):
            self._spool.finish(folder, answer=None)
            return
        path = folder if len(source.headers) > 1 else next(folder.glob("*.dcm"))
        volume = read_image(path, manifest.preprocess.reading)
        prediction = self._predictor.predict(volume, strict=self._options.strict)
        made = as_dicom(prediction, volume, source, manifest)
        if not has_ended:
            made.SeriesDescription += BROKEN_OFF

        def write(path: Path, dataset: Dataset = made) -> None:
            dataset.save_as(path, enforce_file_format=True)

        self._spool.finish(folder, answer=(uid, write))

    def _fail(self, folder: Path, reason: str, error: Exception | None) -> None:
        """Put a series away; the reason may name a patient, so the log has its kind alone."""
        self._failed += 1
        self._spool.fail(folder, reason)
        kind = type(error).__name__ if error else reason
        log(f"no answer for {folder.name} ({kind}); see failed/{folder.name}/reason.json")
