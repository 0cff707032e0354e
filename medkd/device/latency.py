"""Latency: what answering costs file to file, in a process that does nothing else."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medkd.device.answer import answer_file, mask_suffix
from medkd.device.predictor import Predictor, load
from medkd.environment import environment
from medkd.errors import DataError, ReleaseError
from medkd.results import Latency, Percentiles
from medkd.types import Task

WARM_UP = 3  # queries that are not counted
COLD_STARTS = 3  # the median is reported
REFUSED = 3  # how the process ends that tells a known error on its standard output
REFUSALS = {error.__name__: error for error in (DataError, ReleaseError)}


def measure_latency(
    release: Path, sources: Sequence[Path], *, queries: int, threads: int
) -> Latency:
    """Run ``queries`` images through a release, one after another, in a fresh process.

    Args:
        release: a release folder.
        sources: image files, taken in turn.
        queries: counted answers (MLPerf's single stream counts at least 64).
        threads: of the network.

    Raises:
        DataError: an image cannot be read, or is none for this release.
        ReleaseError: the release cannot be used, or the process failed; its last words are in the
            message.
    """
    cold = [_cold_start_ms(release, sources[0], threads) for _ in range(COLD_STARTS)]
    command = [sys.executable, "-m", "medkd.device.latency", str(release)]
    command += ["--queries", str(queries), "--threads", str(threads), *map(str, sources)]
    measured = json.loads(_run(command, release))
    return Latency(cold_start_ms=float(np.median(cold)), **measured)


def _cold_start_ms(release: Path, source: Path, threads: int) -> float:
    """Time from process start to the answer on disk."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "medkd.device.latency", str(release), "--once", folder]
        start = time.perf_counter()
        _run([*command, "--threads", str(threads), str(source)], release)
        return 1000 * (time.perf_counter() - start)


def _run(command: Sequence[str], release: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == REFUSED:
        told = json.loads(done.stdout)
        raise REFUSALS[told["error"]](told["message"])
    if done.returncode:
        raise ReleaseError(f"{release}: measuring its latency failed: {done.stderr[-500:]}")
    return done.stdout


def _queries(
    release: Path, sources: Sequence[Path], *, queries: int, threads: int
) -> dict[str, Any]:
    predictor = load(release, threads=threads)
    total, stages = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-WARM_UP, queries):
            source = sources[number % len(sources)]
            start = time.perf_counter()
            laps = _answer(predictor, source, Path(folder))
            if number >= 0:
                total.append(1000 * (time.perf_counter() - start))
                stages.append(laps)
    here = environment()
    return {
        "queries": queries,
        "threads": threads,
        "file_to_file_ms": _percentiles(total),
        "network_ms": _percentiles([laps["network"] for laps in stages]),
        "stages_ms": {n: float(np.median([laps[n] for laps in stages])) for n in stages[0]},
        "peak_memory_mib": _peak_memory_mib(),
        "processor": here["processor"],
        "load_average": here["load_average"],
    }


def _peak_memory_mib() -> float:
    """Return this process's own peak; ``ru_maxrss`` starts with that of its parent on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _answer(predictor: Predictor, source: Path, folder: Path) -> dict[str, float]:
    """Answer into ``folder``; what is wrong with an image is told with its file."""
    try:
        return answer_file(predictor, source, _target(predictor, source, folder)).stages_ms
    except DataError as error:
        reason = str(error).removeprefix(f"{source}: ")
        raise DataError(f"{source}: {reason}") from None


def _target(predictor: Predictor, source: Path, folder: Path) -> Path:
    if predictor.manifest.task is Task.CLASSIFICATION:
        return folder / "answer.json"
    return folder / ("mask" + mask_suffix(predictor.manifest))


def _percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values_ms, [50, 90, 99])
    return Percentiles(p50=float(p50), p90=float(p90), p99=float(p99)).model_dump()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("release", type=Path)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--once", type=Path, help="answer for one image into this folder")
    given = parser.parse_args()
    try:
        if given.once:
            _answer(load(given.release, threads=given.threads), given.sources[0], given.once)
            return
        measured = _queries(
            given.release, given.sources, queries=given.queries, threads=given.threads
        )
    except tuple(REFUSALS.values()) as error:
        sys.stdout.write(json.dumps({"error": type(error).__name__, "message": str(error)}))
        sys.exit(REFUSED)
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    _main()
