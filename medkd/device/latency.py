"""Latency: what answering costs file to file, in processes that do nothing else.

MLPerf's rules for a single stream, where they apply: warm-up, one query after another, at least 64,
the 90th percentile with the bound of early stopping. Unlike there, reading and writing count.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from medkd.device.answer import answer_file, mask_suffix
from medkd.device.choice import CHOICE
from medkd.device.early_stopping import latency_bound
from medkd.device.predictor import Predictor, load
from medkd.environment import environment
from medkd.errors import DataError, ReleaseError
from medkd.results import Latency, Percentiles
from medkd.types import Task

WARM_UP = 3  # queries that are not counted
COLD_STARTS = 3  # the median is reported
REFUSALS = {error.__name__: error for error in (DataError, ReleaseError)}


def measure_latency(
    release: Path, sources: Sequence[Sequence[Path]], *, queries: int, threads: int
) -> Latency:
    """Measure one release; see ``measure_latencies``."""
    return measure_latencies([release], sources, queries=queries, threads=threads)[release]


def measure_latencies(
    releases: Sequence[Path], sources: Sequence[Sequence[Path]], *, queries: int, threads: int
) -> dict[Path, Latency]:
    """Run ``queries`` images through each release, one after another, in processes of their own.

    The releases take turns at every query, so that whatever else the machine does disturbs all
    alike.

    Args:
        releases: release folders.
        sources: images, each its file or those of its modalities, taken in turn.
        queries: counted answers (MLPerf's single stream counts at least 64).
        threads: of the network.

    Raises:
        DataError: an image cannot be read, or is none for a release.
        ReleaseError: a release cannot be used, or its process failed; its last words are in the
            message.
    """
    starts: dict[Path, list[dict[str, float]]] = {release: [] for release in releases}
    for number in range(-1, COLD_STARTS):  # the first one finds the files on the disk
        for release in releases:
            laps = _cold_start(release, sources[0], threads)
            starts[release] += [laps] if number >= 0 else []
    told = _interleaved(releases, sources, queries=queries, threads=threads)
    return {
        release: _latency(release, starts[release], answers, about, threads=threads)
        for release, (answers, about) in told.items()
    }


def _interleaved(
    releases: Sequence[Path], sources: Sequence[Sequence[Path]], *, queries: int, threads: int
) -> dict[Path, tuple[list[dict[str, float]], dict[str, Any]]]:
    """Return the laps of every counted query, and what each process says of itself at the end."""
    with ExitStack() as stack:
        workers = {r: stack.enter_context(_Worker(r, threads=threads)) for r in releases}
        laps: dict[Path, list[dict[str, float]]] = {release: [] for release in releases}
        for number in range(-WARM_UP, queries):
            for release, worker in workers.items():
                answer = worker.ask(sources[number % len(sources)])
                if number >= 0:
                    laps[release].append(answer)
        return {release: (laps[release], worker.ask(())) for release, worker in workers.items()}


def _latency(
    release: Path,
    starts: Sequence[dict[str, float]],
    answers: Sequence[dict[str, float]],
    about: dict[str, Any],
    *,
    threads: int,
) -> Latency:
    if not answers:
        raise ReleaseError(f"{release}: nothing was measured; give at least one query")
    total = [sum(laps.values()) for laps in answers]
    here = environment()
    return Latency(
        queries=len(answers),
        threads=threads,
        file_to_file_ms=_percentiles(total),
        network_ms=_percentiles([laps["network"] for laps in answers]),
        stages_ms=_medians(answers),
        cold_start_ms=float(np.median([sum(laps.values()) for laps in starts])),
        cold_stages_ms=_medians(starts),
        p90_bound_ms=latency_bound(total),
        size_mib=sum(p.stat().st_size for p in release.iterdir() if p.name != CHOICE) / 2**20,
        processor=here["processor"],
        processor_flags=tuple(here["processor_flags"]),
        load_average=here["load_average"],
        **about,
    )


class _Worker:
    """A process that answers for the images it is told of."""

    def __init__(self, release: Path, *, threads: int) -> None:
        self._release = release
        self._command = _command(release, threads)

    def __enter__(self) -> "_Worker":
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, source: Sequence[Path]) -> dict[str, Any]:
        """Return the laps of an answer; of no source, what the process says of itself."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([str(path.absolute()) for path in source]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise _failure(self._release, self._errors.read())
        return _understood(line)


def _cold_start(release: Path, source: Sequence[Path], threads: int) -> dict[str, float]:
    """Return the laps from process start to the answer on disk."""
    command = [*_command(release, threads), "--once", *map(str, source)]
    command += ["--began", repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise _failure(release, done.stderr)
    return _understood(done.stdout)


def _command(release: Path, threads: int) -> list[str]:
    return [
        *(sys.executable, "-m", "medkd.device.latency", str(release), "--threads", str(threads))
    ]


def _understood(line: str) -> dict[str, Any]:
    """Return what a process told; a known error that it told is raised here."""
    told = json.loads(line)
    if "error" in told:
        raise REFUSALS[told["error"]](told["message"])
    return told


def _failure(release: Path, words: str) -> ReleaseError:
    return ReleaseError(f"{release}: measuring its latency failed: {words[-500:]}")


def _medians(laps: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([each[name] for each in laps])) for name in laps[0]}


def _peak_memory_mib() -> float:
    """Return this process's own peak; ``ru_maxrss`` starts with that of its parent on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _answer(predictor: Predictor, source: Sequence[Path], folder: Path) -> dict[str, float]:
    """Answer into ``folder``; what is wrong with an image is told with its file.

    An answer is a new file, as it is at work: to replace one, a file system waits for the disk.
    """
    for former in folder.iterdir():
        former.unlink()
    try:
        return answer_file(predictor, source, _target(predictor, folder)).stages_ms
    except DataError as error:
        if str(error).startswith(tuple(f"{path}: " for path in source)):
            raise
        raise DataError(f"{source[0]}: {error}") from None


def _target(predictor: Predictor, folder: Path) -> Path:
    if predictor.manifest.task is Task.CLASSIFICATION:
        return folder / "answer.json"
    return folder / ("mask" + mask_suffix(predictor.manifest))


def _percentiles(values_ms: Sequence[float]) -> Percentiles:
    p50, p90, p99 = np.percentile(values_ms, [50, 90, 99])
    return Percentiles(p50=float(p50), p90=float(p90), p99=float(p99))


def _main() -> None:
    """Answer for one image, or for each that standard input names; tell the laps as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("release", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--once", type=Path, nargs="+")
    parser.add_argument("--began", type=float)
    given = parser.parse_args()
    try:
        predictor = load(given.release, threads=given.threads)
        with tempfile.TemporaryDirectory() as folder:
            if given.once:
                start_ms = 1000 * (time.time() - given.began)
                _tell({"start": start_ms, **_answer(predictor, given.once, Path(folder))})
                return
            for line in sys.stdin:
                source = [Path(path) for path in json.loads(line)]
                if not source:
                    break
                _tell(_answer(predictor, source, Path(folder)))
        _tell({"peak_memory_mib": _peak_memory_mib(), "runtime": predictor.runtime})
    except tuple(REFUSALS.values()) as error:
        _tell({"error": type(error).__name__, "message": str(error)})


def _tell(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
