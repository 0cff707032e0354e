"""Tracker: the few things that training tells about itself, and doubles that need no disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, Protocol, runtime_checkable

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@runtime_checkable
class Tracker(Protocol):
    """What one run reports. No method raises because of a disk, a store or a network."""

    def params(self, values: Mapping[str, object]) -> None:
        """Report settings that do not change during the run."""

    def metrics(self, values: Mapping[str, float | int], *, step: int) -> None:
        """Report figures at a step."""

    def artifact(self, path: PurePath, *, folder: str = "") -> None:
        """Report a file or folder of the study, shown under ``folder``.

        It is read later, so ``path`` is where it stays, not where it is being written.
        """

    def image(self, path: PurePath, *, name: str, step: int) -> None:
        """Report a picture of the study (a file, as of ``artifact``) that changes with steps."""

    def dataset(self, name: str, *, digest: str, context: str) -> None:
        """Report which data the run saw (``digest``) and what for (``context``: "training")."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Report labels, which may change; ``mlflow.note.content`` is a description in Markdown."""

    def status(self, status: Status) -> None:
        """Report how the run stands."""


class NullTracker:
    """Forget everything."""

    def params(self, values: Mapping[str, object]) -> None:
        """Forget."""

    def metrics(self, values: Mapping[str, float | int], *, step: int) -> None:
        """Forget."""

    def artifact(self, path: PurePath, *, folder: str = "") -> None:
        """Forget."""

    def image(self, path: PurePath, *, name: str, step: int) -> None:
        """Forget."""

    def dataset(self, name: str, *, digest: str, context: str) -> None:
        """Forget."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Forget."""

    def status(self, status: Status) -> None:
        """Forget."""


@dataclass(frozen=True)
class Prefixed:
    """One of several trainings that share a run: its curves and settings get names of their own."""

    tracker: Tracker
    prefix: str

    def params(self, values: Mapping[str, object]) -> None:
        """Report settings as ``<prefix>/<name>``."""
        self.tracker.params({f"{self.prefix}/{key}": value for key, value in values.items()})

    def metrics(self, values: Mapping[str, float | int], *, step: int) -> None:
        """Report figures as ``<prefix>/<name>``."""
        named = {f"{self.prefix}/{key}": value for key, value in values.items()}
        self.tracker.metrics(named, step=step)

    def artifact(self, path: PurePath, *, folder: str = "") -> None:
        """Report a file under ``<prefix>/<folder>``."""
        self.tracker.artifact(path, folder=f"{self.prefix}/{folder}".rstrip("/"))

    def image(self, path: PurePath, *, name: str, step: int) -> None:
        """Report a picture as ``<prefix>/<name>``."""
        self.tracker.image(path, name=f"{self.prefix}/{name}", step=step)

    def dataset(self, name: str, *, digest: str, context: str) -> None:
        """Report a data set."""
        self.tracker.dataset(name, digest=digest, context=context)

    def tags(self, values: Mapping[str, str]) -> None:
        """Report labels as ``<prefix>/<name>``."""
        self.tracker.tags({f"{self.prefix}/{key}": value for key, value in values.items()})

    def status(self, status: Status) -> None:
        """Report how the run stands."""
        self.tracker.status(status)


@dataclass
class RecordingTracker:
    """Keep everything in memory; for tests.

    Example:
        >>> tracker = RecordingTracker()
        >>> tracker.metrics({"loss": 0.5}, step=1)
        >>> tracker.metrics({"loss": 0.25}, step=2)
        >>> tracker.curve("loss")
        {1: 0.5, 2: 0.25}
    """

    recorded_params: dict[str, object] = field(default_factory=dict)
    recorded_metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    recorded_artifacts: list[tuple[str, str]] = field(default_factory=list)
    recorded_images: list[tuple[str, str, int]] = field(default_factory=list)
    recorded_datasets: list[dict[str, Any]] = field(default_factory=list)
    recorded_tags: dict[str, str] = field(default_factory=dict)
    statuses: list[Status] = field(default_factory=list)

    def params(self, values: Mapping[str, object]) -> None:
        """Keep settings."""
        self.recorded_params.update(values)

    def metrics(self, values: Mapping[str, float | int], *, step: int) -> None:
        """Keep figures."""
        self.recorded_metrics.append((step, {key: float(v) for key, v in values.items()}))

    def artifact(self, path: PurePath, *, folder: str = "") -> None:
        """Keep a path and the folder it is shown under."""
        self.recorded_artifacts.append((str(path), folder))

    def image(self, path: PurePath, *, name: str, step: int) -> None:
        """Keep a path, its name and its step."""
        self.recorded_images.append((str(path), name, step))

    def dataset(self, name: str, *, digest: str, context: str) -> None:
        """Keep a data set."""
        self.recorded_datasets.append({"name": name, "digest": digest, "context": context})

    def tags(self, values: Mapping[str, str]) -> None:
        """Keep labels."""
        self.recorded_tags.update(values)

    def status(self, status: Status) -> None:
        """Keep how the run stands."""
        self.statuses.append(status)

    def curve(self, name: str) -> dict[int, float]:
        """One metric by step."""
        return {step: values[name] for step, values in self.recorded_metrics if name in values}
