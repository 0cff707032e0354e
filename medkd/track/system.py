"""System: how busy the machine is while a study runs, sampled beside it into the journal.

MLflow's own monitors measure; its page "System metrics" shows what begins with ``system/``.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from medkd.extras import require
from medkd.track.tracker import Tracker

_MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",  # refuses to be made where there is none
}
_log = logging.getLogger(__name__)


class SystemMetrics:
    """Sample the machine from entering to leaving, in a thread that nobody waits for."""

    def __init__(self, tracker: Tracker, *, every_s: float) -> None:
        """Report to a tracker, every so many seconds."""
        self._tracker = tracker
        self._every_s = every_s
        self._left = threading.Event()
        self._awake = threading.Event()
        self._awake.set()

    def __enter__(self) -> "SystemMetrics":
        threading.Thread(target=self._sample, name="system metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._awake.set()

    def pause(self) -> None:
        """Sample nothing until ``resume``."""
        self._awake.clear()

    def resume(self) -> None:
        """Sample again."""
        self._awake.set()

    def _sample(self) -> None:
        try:
            monitors, step = _monitors(), 0
            while not self._left.wait(self._every_s):
                self._awake.wait()
                figures = _figures(monitors)
                if not self._left.is_set():
                    self._tracker.metrics(figures, step=step)
                step += 1
        except Exception as error:  # noqa: BLE001 - drivers raise what they like
            _log.warning("system metrics end here: %s: %s", type(error).__name__, error)


def _monitors() -> Sequence[Any]:
    found = []
    for module, name in _MONITORS.items():
        made = getattr(require(f"mlflow.system_metrics.metrics.{module}", extra="train"), name)
        try:
            found.append(made())
        except Exception as error:  # noqa: BLE001 - a GPU that is absent, in the driver's words
            _log.debug("%s: %s", name, error)
    return found


def _figures(monitors: Sequence[Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        figures |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return {f"system/{name}": value for name, value in figures.items()}
