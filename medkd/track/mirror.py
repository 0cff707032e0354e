"""Mirror: a process that sends the journal to MLflow while a study runs.

A process of its own, because MLflow may block for minutes and then raise, and because importing it
takes seconds. Whatever becomes of it, the journal is whole and ``medkd sync`` sends the rest.
"""

import argparse
import contextlib
import logging
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from medkd.errors import MedkdError
from medkd.track.ledger import Ledger
from medkd.track.mlflow import default_uri, sync

EVERY_S = 5.0
GRACE_S = 60.0
_STDIN, _STDOUT = 0, 1

_log = logging.getLogger(__name__)


class Mirror:
    """Send a study's journal every few seconds, from entering to leaving.

    Nothing here raises or waits for a store, but ``close`` and ``pause``, whose waits are bounded.
    """

    def __init__(
        self,
        study_folder: Path,
        *,
        uri: str | None = None,
        every_s: float = EVERY_S,
        grace_s: float = GRACE_S,
    ) -> None:
        """Prepare a mirror.

        Args:
            study_folder: holds the journal.
            uri: the store; ``default_uri()`` if left out.
            every_s: seconds between two syncs.
            grace_s: seconds that ``close`` waits for the last one.
        """
        self._ledger = Ledger(study_folder, uri or default_uri())
        self._every_s = every_s
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mirror":
        command = [sys.executable, "-m", __spec__.name, str(self._ledger.folder)]
        command += ["--parent", str(os.getpid()), "--every", str(self._every_s)]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the study; the last sync comes after it
                # in the environment, because anybody may read a command line
                env=os.environ | {"MLFLOW_TRACKING_URI": self._ledger.uri},
            )
        except OSError as error:
            _log.warning("no process to mirror this study to MLflow: %s", error)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pause(self, *, wait_s: float = 10.0) -> None:
        """Send nothing until ``resume``; wait for a sync under way, but not longer than asked."""
        self._tell("pause")
        if self._process and self._process.stdout:
            ready, _, _ = select.select([self._process.stdout], [], [], wait_s)
            if ready:
                self._process.stdout.read(len(b"paused\n"))

    def resume(self) -> None:
        """Send again."""
        self._tell("resume")

    def close(self) -> bool:
        """End the process after a last sync; return whether the store then holds everything."""
        problem = self._stop()
        left = self._ledger.pending()
        if left:
            later = f"medkd sync {shlex.quote(str(self._ledger.folder))}"
            _log.warning("%d events did not reach MLflow%s; later: %s", left, problem, later)
        return left == 0

    def _stop(self) -> str:
        process, self._process = self._process, None
        if process is None:
            return ""
        with process:
            try:
                said, _ = process.communicate(b"stop\n", timeout=self._grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return f" within {self._grace_s:g} s"
        lines = said.decode(errors="replace").splitlines()
        return f" ({lines[-1]})" if lines and lines[-1] != "paused" else ""

    def _tell(self, word: str) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):  # it has died; close() says what is missing
                self._process.stdin.write(f"{word}\n".encode())


def follow(folder: Path, *, parent: int, every_s: float) -> str:
    """Sync until the parent says stop, goes or dies, then once more; return the last problem."""
    paused, sent = False, -1
    for word in _words(parent, every_s):
        paused = {"pause": True, "resume": False}.get(word, paused)
        if word == "pause":
            os.write(_STDOUT, b"paused\n")
        size = Ledger(folder, default_uri()).size()
        if not paused and size != sent:
            sent = -1 if _attempt(folder) else size
    return _attempt(folder)


def _words(parent: int, every_s: float) -> Iterator[str]:
    """Yield what the parent says, and "" whenever it has been silent for a while.

    Its end shows in two ways: the pipe closes, unless a worker that it forked still holds it, and
    this process gets another parent.
    """
    while os.getppid() == parent:
        ready, _, _ = select.select([_STDIN], [], [], every_s)
        said = os.read(_STDIN, 4096).decode() if ready else None
        if said == "":
            return
        for word in (said or "\n").splitlines():
            if word == "stop":
                return
            yield word


def _attempt(folder: Path) -> str:
    try:
        return sync(folder).problem
    except MedkdError as error:
        return str(error)


def main() -> None:
    """Run as a process beside a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--every", type=float, default=EVERY_S)
    args = parser.parse_args()
    os.nice(10)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer to the parent
        problem = follow(args.folder, parent=args.parent, every_s=args.every)
    os.write(_STDOUT, problem.encode())


if __name__ == "__main__":
    main()
