"""Predictor: a release answers for one image."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medkd.data.activation import decided, tempered
from medkd.data.activation import probabilities as activated
from medkd.data.postprocess import postprocess, postprocess_apart
from medkd.data.preprocess import Grid, from_grid, preprocess
from medkd.data.way_back import WayBack, WayBackApart
from medkd.device.choice import choose
from medkd.device.engine import Engine, open_engine
from medkd.device.guard import Finding
from medkd.device.manifest import Manifest, read_manifest
from medkd.device.window import predict_slabs
from medkd.errors import DataError, ReleaseError
from medkd.types import Activation, Runtime, Task, Volume


@dataclass(frozen=True)
class Prediction:
    """What a release answers for one image.

    Attributes:
        mask: ``[*space]`` label values on the image's own grid; of structures that may overlap
            ``[structures, *space]``, 0 or 1; None for classification.
        probabilities: ``[classes]`` for classification; ``[classes, *space]`` on the image's own
            grid if asked for.
        finding: what the guard says of the image, where the release has one.
        confidence: calibrated; of each structure that was found, the mean probability of the
            voxels given to it; of a classification, that of the likeliest class, or of each finding
            that was found.
        conformal_ml: where the release makes a promise, the volume of all voxels that may be of
            a structure; the mask of those finds the promised share of it. Only in 3D.
        possible: where the release makes a promise, the classes of which one is right as often as
            was promised; or the findings that are not ruled out.
        stages_ms: how long each step took.
    """

    mask: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    finding: Finding | None = None
    confidence: dict[str, float] = field(default_factory=dict)
    conformal_ml: dict[str, float] = field(default_factory=dict)
    possible: tuple[str, ...] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)


class Predictor:
    """A loaded release.

    Example:
        ``mask = load("releases/student").predict(read_image(path))``
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        *,
        windows_at_once: int = 1,
        runtime: Runtime | None = None,
    ) -> None:
        self.manifest = manifest
        self.runtime = runtime
        self._engine = engine
        self._windows_at_once = windows_at_once

    def predict(self, volume: Volume) -> np.ndarray:
        """Return the mask of an image on its own grid, or the probabilities of its classes.

        ``answer`` also tells what to know of it.

        Returns:
            What ``Prediction.mask`` is, for classification ``Prediction.probabilities``.
        """
        found = self.answer(volume)
        mask_or_classes = found.probabilities if found.mask is None else found.mask
        assert mask_or_classes is not None
        return mask_or_classes

    def answer(
        self, volume: Volume, *, with_probabilities: bool = False, strict: bool = False
    ) -> Prediction:
        """Answer for one image.

        The image goes through the network slab by slab, and the likeliest class is decided in each:
        of a large image all probabilities are held only if they are asked for.

        Args:
            volume: the image.
            with_probabilities: return them on the image's own grid.
            strict: refuse an image that the guard flags.

        Raises:
            DataError: the image does not fit the network (axes, channels), or is refused.
        """
        clock = Clock()
        array, grid = preprocess(volume, self.manifest.preprocess)
        clock.lap("preprocess")
        finding = self._finding(array, grid, strict=strict)
        if finding:
            clock.lap("guard")
        if self.manifest.task is Task.CLASSIFICATION:
            found = self._classes(array, clock)
        else:
            found = self._segment(array, grid, clock, with_probabilities=with_probabilities)
        return replace(found, finding=finding, stages_ms=clock.laps)

    def _finding(self, array: np.ndarray, grid: Grid, *, strict: bool) -> Finding | None:
        if not self.manifest.guard:
            if strict:
                raise DataError(
                    "refused: the release has no guard to say whether it knows such images; "
                    "predict without strict"
                )
            return None
        finding = self.manifest.guard.judge(array, grid)
        if strict and finding.is_unlike:
            raise DataError(f"refused: {finding.verdict}")
        return finding

    def _classes(self, array: np.ndarray, clock: "Clock") -> Prediction:
        logits = self._sound(self._engine(array[None])[0])
        clock.lap("network")
        activation = self.manifest.activation
        p = activated(tempered(logits, self.manifest.temperature, activation), activation)
        if self.manifest.has_findings:
            return self._findings(p)
        classes, promise = self.manifest.classes, self.manifest.conformal
        best = int(p.argmax())
        possible: tuple[str, ...] = ()
        if promise:
            (threshold,) = promise.thresholds.values()
            possible = tuple(
                name for i, name in enumerate(classes) if p[i] >= threshold or i == best
            )
        confidence = {classes[best]: float(p[best])}
        return Prediction(probabilities=p, confidence=confidence, possible=possible)

    def _findings(self, p: np.ndarray) -> Prediction:
        """Say which findings are there, each by its own threshold, and which are not ruled out."""
        said = dict(zip(self.manifest.classes, map(float, p), strict=True))
        points, promise = self.manifest.operating_points, self.manifest.conformal
        found = {name: value for name, value in said.items() if value >= points.get(name, 0.5)}
        kept = promise.thresholds if promise else {}
        possible = tuple(
            name for name, value in said.items() if name in kept and value >= kept[name]
        )
        return Prediction(probabilities=p, confidence=found, possible=possible)

    def _segment(
        self, array: np.ndarray, grid: Grid, clock: "Clock", *, with_probabilities: bool
    ) -> Prediction:
        options = self.manifest.preprocess
        slabs = predict_slabs(
            self._engine,
            array,
            window=options.window,
            overlap=options.overlap,
            windows_at_once=self._windows_at_once,
        )
        tally = Tally(self.manifest, grid, with_probabilities=with_probabilities)
        temperature, activation = self.manifest.temperature, self.manifest.activation
        for rows, logits in slabs:
            clock.lap("network")
            tally.add(rows, tempered(self._sound(logits), temperature, activation))
            clock.lap("postprocess")
        mask = self._mask(tally.answer, grid)
        probabilities = None
        if tally.probabilities is not None:
            probabilities = from_grid(tally.probabilities, grid, order=1)
        clock.lap("postprocess")
        return Prediction(
            mask=mask,
            probabilities=probabilities,
            confidence=tally.confidence,
            conformal_ml=tally.conformal_ml,
        )

    def _sound(self, logits: np.ndarray) -> np.ndarray:
        if len(logits) != len(self.manifest.classes):
            raise ReleaseError(
                f"the network answers for {len(logits)} classes, the manifest names "
                f"{len(self.manifest.classes)}; export the release again"
            )
        if not (math.isfinite(logits.max()) and math.isfinite(logits.min())):
            raise DataError(
                "the network's answer is not finite: intensities leave the range that it computes "
                "in; correct their scale"
            )
        return logits

    def _mask(self, answer: np.ndarray, grid: Grid) -> np.ndarray:
        """Return an answer ``[channels, *space]`` as a mask on the image's grid, tidied."""
        manifest, answer = self.manifest, from_grid(answer, grid, order=0)
        if manifest.activation is Activation.SIGMOID:
            return postprocess_apart(answer, manifest.postprocess, manifest.classes)
        values = np.asarray(manifest.label_values)
        mask = values.astype(np.min_scalar_type(values.max()))[answer[0]]
        named = dict(zip(manifest.classes, manifest.label_values, strict=True))
        return postprocess(mask, manifest.postprocess, named)


class Tally:
    """What is kept of a segmentation's probabilities, slab by slab, on the network's grid.

    Attributes:
        answer: ``[1, *space]``, index of the likeliest class, or ``[structures, *space]``, 0 or 1;
            on the network's grid, or on the image's in the network's order of axes.
        probabilities: ``[classes, *space]`` if asked for.
    """

    def __init__(self, manifest: Manifest, grid: Grid, *, with_probabilities: bool) -> None:
        classes = len(manifest.classes)
        decides_there = grid.resampled and not manifest.postprocess.argmax_first
        self._independent = manifest.activation is Activation.SIGMOID
        channels = classes if self._independent else 1
        self._way_back: WayBack | None = None
        if decides_there:
            self._way_back = WayBackApart(grid, channels) if self._independent else WayBack(grid)
            self.answer = self._way_back.answer
        else:
            self.answer = np.empty((channels, *grid.shape), np.uint8)
        self.probabilities: np.ndarray | None = None
        if with_probabilities:
            self.probabilities = np.empty((classes, *grid.shape), np.float32)
        self._manifest, self._grid = manifest, grid
        self._voxels, self._certainty = np.zeros(classes), np.zeros(classes)
        self._possible = np.zeros(classes)

    def add(self, rows: slice, logits: np.ndarray) -> None:
        """Add a slab of calibrated logits ``[classes, rows, ...]``."""
        activation = self._manifest.activation
        answer, probabilities = decided(logits, activation), activated(logits, activation)
        if self._way_back:
            self._way_back.add(probabilities)
        else:
            self.answer[:, rows] = answer
        if self.probabilities is not None:
            self.probabilities[:, rows] = probabilities
        for index, threshold in self._thresholds:
            self._possible[index] += np.count_nonzero(probabilities[index] >= threshold)
        for index in range(0 if self._independent else 1, len(logits)):
            own = (answer[index] if self._independent else answer == index).ravel()
            self._voxels[index] += np.count_nonzero(own)
            self._certainty[index] += probabilities[index].ravel() @ own.astype(np.float32)

    @property
    def confidence(self) -> dict[str, float]:
        """Mean probability of the voxels of each structure that was found."""
        found = zip(self._manifest.classes, self._certainty, self._voxels, strict=True)
        return {name: float(sure / n) for name, sure, n in found if n}

    @property
    def conformal_ml(self) -> dict[str, float]:
        """Volume of the voxels that pass each structure's threshold."""
        voxel_ml = math.prod(self._grid.spacing_mm) / 1000
        names = self._manifest.classes
        return {names[i]: float(self._possible[i] * voxel_ml) for i, _ in self._thresholds}

    @property
    def _thresholds(self) -> list[tuple[int, float]]:
        promise = self._manifest.conformal
        if promise is None or len(self._grid.shape) == 2:
            return []
        return [(self._manifest.classes.index(n), t) for n, t in promise.thresholds.items()]


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
    return Predictor(
        manifest, engine, windows_at_once=choice.windows_at_once, runtime=choice.runtime
    )


class Clock:
    """Stopwatch with named laps in milliseconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Start the next lap now."""
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap and start the next; laps of one name add up."""
        lap_ms = 1000 * (time.perf_counter() - self._since)
        self.laps[name] = self.laps.get(name, 0.0) + lap_ms
        self.restart()
