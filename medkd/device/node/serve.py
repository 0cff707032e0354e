"""Serve: a release as a DICOM node, from the images that arrive to the answers that are taken.

DICOM does not say when a series is complete. Here it is when the associations that sent it were
released and nothing of it has come for ``quiet_s``; where one of them broke off, or the node did,
and none that began later was released, after ``patience_s`` without another object, and the answer
says so. Objects that come later join those that were answered, and all of them are answered anew:
other images, another UID, and so have other pixels under the same UIDs. The same images are never
answered under two, unless what broke off is sent again as a whole. Objects that come after those
before them were removed are no series of their own: they wait as failed until the others have been
sent again.

A release of several modalities answers for studies: all of this holds of a study where it says
series, and one that lacks a modality waits for it.
"""

import os
import signal
import threading
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset

from medkd.device.dicom.answer import as_dicom
from medkd.device.dicom.source import Source, release_id
from medkd.device.inputs import Input, find_inputs
from medkd.device.manifest import read_manifest
from medkd.device.node.health import HealthServer
from medkd.device.node.log import log
from medkd.device.node.options import NodeOptions
from medkd.device.node.receive import Receiver
from medkd.device.node.seal import sealed
from medkd.device.node.send import Sender
from medkd.device.node.spool import MOST_ATTEMPTS, NO_SPACE, Spool
from medkd.device.predictor import Predictor, load
from medkd.errors import ConfigError, DataError, MedkdError, ReleaseError
from medkd.types import Task

EVERY_S = 0.2  # the queue is looked at
PURGE_EVERY_S = 60.0
FULL = "the disk is full, and nothing is taken or answered until it has room"
ANSWER_BYTES = 2**20  # what an answer may take
BROKEN_OFF = " TRANSFER BROKE OFF"  # is added to the description of the answer's series


def serve(release: Path, options: NodeOptions) -> None:
    """Run a node until it is asked to stop (SIGTERM, SIGINT).

    Raises:
        ReleaseError: the release cannot be used, or does not tell its modalities apart.
        StudyError: another node works in the spool.
        ConfigError: a port is taken, or there can be no spool.
    """
    given = read_manifest(release).preprocess
    if len(given.modalities) > 1 and not given.tells_series_apart:
        raise ReleaseError(
            f"{release}: needs several modalities, and does not say which series is which; set "
            f"preprocess.reading.series_of of each in the study's config and export it again, or "
            f"use medkd predict"
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
        needs = predictor.manifest.preprocess
        self._by_study = len(needs.modalities) > 1
        self._receiver = Receiver(
            spool,
            options,
            memory_bytes=needs.reading.memory_bytes,
            together="StudyInstanceUID" if self._by_study else "SeriesInstanceUID",
        )
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
                    self._spool.purge(
                        keep_s=self._options.keep_s,
                        keep_unanswered_s=self._options.keep_unanswered_s,
                        remember_s=self._options.remember_s,
                    )
                    purged = time.monotonic()
                if not self.answer_next():
                    stop.wait(EVERY_S)
        finally:
            self._receiver.stop()
            if watcher:
                watcher.stop()
        self._sending.join(timeout=10)

    def answer_next(self) -> bool:
        """Answer for one series that is complete; return whether there was one.

        On a full disk none is begun, and one that was goes back to those that are complete.
        """
        if not self._spool.has_room():
            return False
        claimed = self._spool.claim(
            busy=self._receiver.busy(),
            quiet_s=self._options.quiet_s,
            patience_s=self._options.patience_s,
        )
        if claimed is None:
            return False
        folder, has_ended = claimed
        try:
            with self._spool.writing(ANSWER_BYTES):
                self._conclude(folder, has_ended=has_ended)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._spool.give_back(folder)
            log(f"{folder.name} waits: {FULL}")
            return False
        return True

    def _conclude(self, folder: Path, *, has_ended: bool) -> None:
        """Answer for a series, or put it away with the reason."""
        if self._spool.attempt(folder) > MOST_ATTEMPTS:
            self._fail(folder, f"it ended the node {MOST_ATTEMPTS} times", None)
            return
        start = time.perf_counter()
        try:
            image = self._input(folder)
            if image.missing:
                self._wait(folder, image)
                return
            self._answer(folder, image, has_ended=has_ended)
        except MedkdError as error:
            self._fail(folder, str(error).replace(str(folder), folder.name), error)
        except Exception as error:  # one series stops no other
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise
            self._fail(folder, f"{type(error).__name__}: {error}", error)
        else:
            self._answered += 1
            self._last_ms = 1000 * (time.perf_counter() - start)
            log(f"answered {folder.name} in {self._last_ms:.0f} ms")

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether all is well, and what there is to know.

        Series that failed and studies that wait are told, and the node is well nevertheless: they
        lie there for long, and all others are answered.
        """
        counts = self._spool.counts()
        problems = []
        if not (self._sending and self._sending.is_alive()):
            problems.append("nothing sends")
        if self._sender.refused:
            problems.append(f"answers wait: {self._sender.refused}")
        waiting = [f"{counts['waiting']} studies lack a modality"] if counts["waiting"] else []
        if self._spool.bytes > 0.9 * self._spool.most_bytes:
            problems.append("the spool is nearly full")
        if not self._spool.has_room():
            problems.append(FULL)
        said = {  # "failed" since the node was started; what there still is of them is in "spool"
            "status": "; ".join(problems + waiting) or "ok",
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

    def _input(self, folder: Path) -> Input:
        """Return the image that a series is, or a study of several modalities."""
        files, options = sorted(folder.glob("*.dcm")), self._predictor.manifest.preprocess
        if not self._by_study:
            return Input(folder.name, folder, tuple(files))
        (image,) = find_inputs([folder], options.reading, options.modalities)
        return image

    def _wait(self, folder: Path, image: Input) -> None:
        """Put a study away until the series that it lacks have come."""
        self._spool.fail(folder, image.lacks.replace(str(folder), folder.name), part="waiting")
        log(f"{folder.name} waits for a series of {', '.join(image.missing)}")

    def _answer(self, folder: Path, image: Input, *, has_ended: bool) -> None:
        manifest = self._predictor.manifest
        if lacking := self._spool.lacks(folder):
            raise DataError(
                f"{lacking} images of this series came before and have been removed since, so that "
                f"the others alone would be answered wrongly; send all of it again"
            )
        reading = manifest.preprocess.reading
        volume = image.read(reading)
        whole = Source.read(image.files, volume, reading, further=image.further)
        source = whole if has_ended else replace(whole, is_whole=False)
        kind = "segmentation" if manifest.task is Task.SEGMENTATION else "report"
        uid = source.uid(manifest, kind)
        # where the same images had come as a whole before, nothing is missing
        if self._spool.knows(whole.uid(manifest, kind)) or self._spool.knows(uid):
            self._spool.finish(folder, answer=None)
            return
        prediction = self._predictor.answer(volume, strict=self._options.strict)
        made = as_dicom(prediction, volume, source, manifest)
        if not has_ended:
            made.SeriesDescription += BROKEN_OFF

        def write(path: Path, dataset: Dataset = made) -> None:
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            path.write_bytes(sealed(buffer.getvalue()))

        self._spool.finish(folder, answer=(uid, write))

    def _fail(self, folder: Path, reason: str, error: Exception | None) -> None:
        """Put a series away; the reason may name a patient, so the log has its kind alone."""
        self._spool.fail(folder, reason)
        self._failed += 1
        kind = type(error).__name__ if error else reason
        log(f"no answer for {folder.name} ({kind}); see failed/{folder.name}/reason.json")
