"""Predictor: a release answers for one image."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medkd.data.preprocess import Grid, from_grid, preprocess
from medkd.device.choice import choose
from medkd.device.engine import Engine, open_engine
from medkd.device.guard import Finding, describe
from medkd.device.manifest import Manifest, read_manifest
from medkd.device.window import predict_windows
from medkd.types import Runtime, Task, Temperature, Volume


@dataclass(frozen=True)
class Prediction:
    """What a release answers for one image.

    Attributes:
        mask: ``[*space]`` label values on the image's own grid; None for classification.
        probabilities: ``[classes]`` for classification; ``[classes, *space]`` on the image's own
            grid if asked for.
        finding: what the guard says of the image, where the release has one.
        stages_ms: how long each step took.
    """

    mask: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    finding: Finding | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)


class Predictor:
    """A loaded release.

    Example:
        ``mask = load("releases/student").predict(read_image(path)).mask``
    """

    def __init__(self, manifest: Manifest, engine: Engine, *, windows_at_once: int = 1) -> None:
        self.manifest = manifest
        self._engine = engine
        self._windows_at_once = windows_at_once

    def predict(self, volume: Volume, *, with_probabilities: bool = False) -> Prediction:
        """Answer for one image.

        Raises:
            DataError: the image does not fit the network (axes, channels).
        """
        clock = Clock()
        array, grid = preprocess(volume, self.manifest.preprocess)
        clock.lap("preprocess")
        finding = None
        if self.manifest.guard:
            finding = self.manifest.guard.check(describe(array, grid))
            clock.lap("guard")
        logits = tempered(self._logits(array), self.manifest.temperature)
        clock.lap("network")
        if self.manifest.task is Task.CLASSIFICATION:
            p = softmax(logits)
            return Prediction(probabilities=p, finding=finding, stages_ms=clock.laps)
        probabilities = None
        if with_probabilities or grid.resampled:
            probabilities = from_grid(softmax(logits), grid, order=1)
        mask = self._mask(logits, probabilities, grid)
        clock.lap("postprocess")
        return Prediction(
            mask=mask,
            probabilities=probabilities if with_probabilities else None,
            finding=finding,
            stages_ms=clock.laps,
        )

    def _logits(self, array: np.ndarray) -> np.ndarray:
        if self.manifest.task is Task.CLASSIFICATION:
            return self._engine(array[None])[0]
        options = self.manifest.preprocess
        return predict_windows(
            self._engine,
            array,
            window=options.window,
            overlap=options.overlap,
            windows_at_once=self._windows_at_once,
        )

    def _mask(self, logits: np.ndarray, probabilities: np.ndarray | None, grid: Grid) -> np.ndarray:
        values = np.asarray(self.manifest.label_values)
        if grid.resampled:
            assert probabilities is not None
            return values[probabilities.argmax(axis=0)]
        return values[from_grid(logits.argmax(axis=0)[None], grid, order=0)[0]]


def load(
    release: str | Path, *, runtime: Runtime | None = None, threads: int | None = None
) -> Predictor:
    """Verify a release folder and load it.

    What is left open, and how many windows are computed at once, is chosen by measuring at the
    first use on a machine.

    Args:
        release: the folder.
        runtime: what computes the network, one of the manifest's.
        threads: of the network.

    Raises:
        ReleaseError: the folder is no release, differs from its manifest, or needs a runtime that
            is not installed.
    """
    folder = Path(release)
    manifest = read_manifest(folder)
    choice = choose(folder, manifest, runtime=runtime, threads=threads)
    engine = open_engine(folder / manifest.weights, choice.runtime, threads=choice.threads)
    return Predictor(manifest, engine, windows_at_once=choice.windows_at_once)


TINY = 1e-12  # a probability of 0 has no logarithm


def tempered(logits: np.ndarray, temperature: Temperature) -> np.ndarray:
    """Return logits ``[classes, *space]`` whose softmax is calibrated."""
    if isinstance(temperature, float):
        return logits / np.float32(temperature)
    shape = (-1, *[1] * (logits.ndim - 1))
    return np.log(softmax(logits) + TINY) / np.asarray(temperature, np.float32).reshape(shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    exponent = np.exp(logits - logits.max(axis=0, keepdims=True))
    return exponent / exponent.sum(axis=0, keepdims=True)


class Clock:
    """Stopwatch with named laps in milliseconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Start the next lap now."""
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap and start the next."""
        self.laps[name] = 1000 * (time.perf_counter() - self._since)
        self.restart()
