"""Choice: which runtime, how many threads and how many windows at once are fastest here.

No runtime wins everywhere: it depends on the network's width, the processor and its load. So they
are measured when a release is first used on a machine, one after the other: runtime, threads,
windows. The choice is kept beside the weights; where the folder cannot be written, it is made anew
by each process.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medkd.device.engine import Engine, cores, lacks, open_engine
from medkd.device.manifest import Manifest
from medkd.environment import cpu_flags, processor
from medkd.errors import ReleaseError
from medkd.study import digest, write_atomic
from medkd.types import Runtime, Task

CHOICE = "runtime.json"
ROUNDS = 5  # of each alternative, in turn; the shortest time of each counts
PATIENCE_S = 1.5  # after which no further round begins
BETTER = 0.93  # of the time of what comes first by default: less is within the noise
WINDOWS_AT_ONCE = (1, 2, 4)

K = TypeVar("K")


class Choice(BaseModel):
    """How a release's network is run on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: Runtime
    threads: Annotated[int, Field(ge=1)]
    windows_at_once: Annotated[int, Field(ge=1, le=max(WINDOWS_AT_ONCE))]


def choose(
    folder: Path, manifest: Manifest, *, runtime: Runtime | None = None, threads: int | None = None
) -> Choice:
    """Return what was found fastest here, measuring it at first use.

    Args:
        folder: the release's, verified.
        manifest: names the runtimes whose answers were compared with the network's.
        runtime: use this one; None leaves it open.
        threads: use so many; None leaves it open.

    Raises:
        ReleaseError: no runtime of the release is installed here, or not the one asked for.
    """
    usable = _usable(folder, manifest, runtime)
    key = _key(manifest, usable, threads)
    known = _read(folder / CHOICE)
    if key in known and known[key].runtime in usable:
        return known[key]
    choice = _measured(folder / manifest.weights, manifest, usable, threads)
    _keep(folder / CHOICE, known | {key: choice})
    return choice


def _usable(folder: Path, manifest: Manifest, asked: Runtime | None) -> list[Runtime]:
    """Return the runtimes of a release that this machine has, the default first."""
    if not manifest.runtimes:
        raise ReleaseError(
            f"{folder}: a MONAI bundle; run it with python -m monai.bundle run, or export the "
            f"variant onnx"
        )
    if asked and asked not in manifest.runtimes:
        tried = ", ".join(manifest.runtimes)
        raise ReleaseError(f"{folder}: released for {tried}, not for {asked}")
    wanted = [asked] if asked else list(manifest.runtimes)
    missing = {each: lacks(each) for each in wanted}
    if usable := [each for each in wanted if missing[each] is None]:
        return usable
    raise ReleaseError(f"{folder}: {wanted[0]} needs {missing[wanted[0]]}")


def _measured(
    weights: Path, manifest: Manifest, usable: Iterable[Runtime], threads: int | None
) -> Choice:
    options = manifest.preprocess
    one = np.random.default_rng(0).normal(size=(1, options.channels, *options.window))
    window = one.astype(np.float32)
    engines = {each: open_engine(weights, each, threads=threads) for each in usable}
    runtime = _fastest({each: _timed(engine, window) for each, engine in engines.items()})
    engine, counts = engines[runtime], [threads] if threads else _thread_counts(cores())
    if len(counts) > 1:
        by_count = {n: open_engine(weights, runtime, threads=n) for n in counts if n}
        threads = _fastest({n: _timed(each, window) for n, each in by_count.items()})
        engine = by_count[threads]
    at_once = (1,) if manifest.task is Task.CLASSIFICATION else WINDOWS_AT_ONCE
    batches = {n: _timed(engine, np.repeat(window, n, axis=0)) for n in at_once}
    return Choice(
        runtime=runtime, threads=threads or counts[0] or 1, windows_at_once=_fastest(batches)
    )


def _thread_counts(most: int) -> list[int]:
    """Return the numbers of threads to try: two that share a core may get in each other's way."""
    return sorted({most, max(1, most // 2), 1}, reverse=True)


def _timed(engine: Engine, windows: np.ndarray) -> Callable[[], float]:
    """Return a stopwatch of seconds a window."""

    def seconds() -> float:
        start = time.perf_counter()
        engine(windows)
        return (time.perf_counter() - start) / len(windows)

    return seconds


def _fastest(stopwatches: Mapping[K, Callable[[], float]]) -> K:
    """Return the first alternative, or the fastest if that is clearly faster."""
    first, *others = stopwatches
    if not others:
        return first
    for stopwatch in stopwatches.values():
        stopwatch()  # the first answer also allocates
    shortest = dict.fromkeys(stopwatches, math.inf)
    end = time.perf_counter() + PATIENCE_S
    for _ in range(ROUNDS):
        for name, stopwatch in stopwatches.items():
            shortest[name] = min(shortest[name], stopwatch())
        if time.perf_counter() > end:
            break
    best = min(shortest, key=shortest.__getitem__)
    return best if shortest[best] < BETTER * shortest[first] else first


def _key(manifest: Manifest, usable: Iterable[Runtime], threads: int | None) -> str:
    """What a choice depends on: the network, the processor, the libraries and what was asked."""
    versions = {name: _version(name) for name in ("medkd", "onnxruntime", "openvino")}
    machine = [processor(), sorted(cpu_flags()), cores()]
    return digest(manifest.files, list(usable), threads, versions, machine)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> dict[str, Choice]:
    """Return the choices that were kept; none where the file is not one of them."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: Choice.model_validate(value) for key, value in kept.items()}
    except (OSError, ValueError, AttributeError, ValidationError):
        return {}


def _keep(path: Path, choices: Mapping[str, Choice]) -> None:
    if not os.access(path.parent, os.W_OK):
        return
    kept = {key: choice.model_dump(mode="json") for key, choice in choices.items()}
    try:
        write_atomic(path, json.dumps(kept, indent=1))
    except OSError:  # a device's disk may be full or read-only: it was measured all the same
        path.with_name(f".{path.name}.{os.getpid()}.partial").unlink(missing_ok=True)
