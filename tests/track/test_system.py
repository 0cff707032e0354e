import logging
import threading
import time

import pytest

from medkd.track import system
from medkd.track.system import SystemMetrics
from medkd.track.tracker import RecordingTracker


def wait_until(true, *, seconds=60.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def samplers():
    return [thread for thread in threading.enumerate() if thread.name == "system metrics"]


@pytest.fixture(scope="module", autouse=True)
def imported():
    """MLflow takes seconds to import; a test of pauses should not wait for it."""
    system._monitors()


def test_the_machine_is_sampled_while_the_block_runs():
    tracker = RecordingTracker()
    with SystemMetrics(tracker, every_s=0.01):
        wait_until(lambda: len(tracker.recorded_metrics) > 2)
    wait_until(lambda: not samplers())
    memory = tracker.curve("system/system_memory_usage_megabytes")
    assert list(memory) == list(range(len(memory)))
    assert all(value > 1 for value in memory.values())
    assert all(0 <= v <= 100 for v in tracker.curve("system/cpu_utilization_percentage").values())


def test_it_is_silent_while_it_is_paused():
    tracker = RecordingTracker()
    with SystemMetrics(tracker, every_s=0.01) as sampling:
        wait_until(lambda: tracker.recorded_metrics)
        sampling.pause()
        time.sleep(0.1)  # what was under way
        paused = len(tracker.recorded_metrics)
        time.sleep(0.2)
        assert len(tracker.recorded_metrics) == paused
        sampling.resume()
        wait_until(lambda: len(tracker.recorded_metrics) > paused)


def test_a_monitor_that_fails_ends_the_sampling_and_nothing_else(monkeypatch, caplog):
    class Broken:
        def collect_metrics(self):
            raise RuntimeError("driver/library version mismatch")

    monkeypatch.setattr(system, "_monitors", lambda: [Broken()])
    tracker = RecordingTracker()
    with caplog.at_level(logging.WARNING), SystemMetrics(tracker, every_s=0.01):
        wait_until(lambda: "driver/library" in caplog.text)
    assert tracker.recorded_metrics == []
