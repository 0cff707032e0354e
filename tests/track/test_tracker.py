from pathlib import PurePath

import pytest

from medkd.track.journal import Journal
from medkd.track.tracker import NullTracker, Prefixed, RecordingTracker


@pytest.fixture(params=["null", "recording", "journal", "prefixed"])
def tracker(request, tmp_path):
    if request.param == "journal":
        return Journal(tmp_path / "journal.jsonl").run("student")
    if request.param == "prefixed":
        return Prefixed(RecordingTracker(), "fold-0")
    return NullTracker() if request.param == "null" else RecordingTracker()


def test_every_tracker_takes_everything_and_answers_nothing(tracker):
    answers = [
        tracker.params({"lr": 0.1, "shape": (3, 3), "path": PurePath("a")}),
        tracker.metrics({"loss": 1.0, "misses": 3, "auroc": float("nan")}, step=1),
        tracker.artifact(PurePath("report.html"), folder="report"),
        tracker.image(PurePath("previews/6.png"), name="validation", step=6),
        tracker.dataset("phantom", digest="a" * 64, context="training"),
        tracker.tags({"mlflow.note.content": "**bold**"}),
        tracker.status("FINISHED"),
    ]
    assert answers == [None] * 7


def test_a_prefix_keeps_trainings_that_share_a_run_apart():
    tracker = RecordingTracker()
    for number in range(2):
        fold = Prefixed(tracker, f"fold-{number}")
        fold.params({"cases": 10 + number})
        fold.metrics({"train/loss": 1.0 + number}, step=5)
        fold.artifact(PurePath("a.png"), folder="worst")
        fold.image(PurePath("a.png"), name="validation", step=5)
        fold.tags({"model": "m"})
        fold.dataset("phantom", digest="d", context="training")
        fold.status("RUNNING")
    assert tracker.recorded_params == {"fold-0/cases": 10, "fold-1/cases": 11}
    assert tracker.curve("fold-1/train/loss") == {5: 2.0}
    assert tracker.recorded_artifacts[1] == ("a.png", "fold-1/worst")
    assert tracker.recorded_images[1] == ("a.png", "fold-1/validation", 5)
    assert "fold-0/model" in tracker.recorded_tags
    assert tracker.statuses == ["RUNNING"] * 2


def test_the_recording_tracker_gives_everything_back():
    tracker = RecordingTracker()
    tracker.params({"lr": 0.1})
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.metrics({"dice": 0.5, "loss": 0.5}, step=2)
    tracker.artifact(PurePath("a/b.png"), folder="worst")
    tracker.dataset("phantom", digest="d", context="training")
    tracker.tags({"k": "v"})
    tracker.status("FAILED")
    assert tracker.recorded_params == {"lr": 0.1}
    assert tracker.curve("loss") == {1: 1.0, 2: 0.5}
    assert tracker.recorded_artifacts == [("a/b.png", "worst")]
    assert tracker.recorded_datasets[0]["digest"] == "d"
    assert tracker.recorded_tags == {"k": "v"}
    assert tracker.statuses == ["FAILED"]
