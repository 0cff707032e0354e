import json
from itertools import count

import numpy as np
import pytest

from medkd.device import choice as choosing
from medkd.device import load
from medkd.device.choice import CHOICE, Choice, _thread_counts, choose
from medkd.device.manifest import read_manifest
from medkd.errors import ReleaseError
from medkd.types import Runtime, Volume


@pytest.fixture
def measurements(monkeypatch):
    """Count how often something is measured."""
    made = []
    real = choosing._measured
    monkeypatch.setattr(choosing, "_measured", lambda *given: made.append(1) or real(*given))
    return made


@pytest.fixture
def release(release_3d, changed):
    copy = changed(release_3d, runtimes=["onnxruntime", "openvino"])
    (copy / CHOICE).unlink(missing_ok=True)
    return copy


def test_it_is_measured_once_and_kept_beside_the_weights(release, measurements):
    manifest = read_manifest(release)
    first = choose(release, manifest)
    assert choose(release, manifest) == first
    assert len(measurements) == 1
    (kept,) = json.loads((release / CHOICE).read_text()).values()
    assert Choice.model_validate(kept) == first
    assert load(release).answer(Volume(np.ones((1, 9, 9, 9)), np.eye(4))).mask.shape == (9, 9, 9)
    assert len(measurements) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("processor", lambda: "another"), ("_version", lambda package: "9.9")]
)
def test_another_processor_or_library_is_measured_anew(
    release, measurements, monkeypatch, name, value
):
    manifest = read_manifest(release)
    choose(release, manifest)
    monkeypatch.setattr(choosing, name, value)
    choose(release, manifest)
    assert len(measurements) == 2
    assert len(json.loads((release / CHOICE).read_text())) == 2


def test_what_is_asked_for_is_kept_apart(release):
    manifest = read_manifest(release)
    assert choose(release, manifest, threads=1).threads == 1
    for runtime in (Runtime.ONNXRUNTIME, Runtime.OPENVINO):
        assert choose(release, manifest, runtime=runtime).runtime is runtime
    assert len(json.loads((release / CHOICE).read_text())) == 3


def test_a_folder_that_cannot_be_written_is_measured_in_memory(release, monkeypatch):
    release.chmod(0o500)
    monkeypatch.setattr(choosing.os, "access", lambda *_: False)  # root may write anywhere
    assert load(release).manifest.role == "student"
    assert not (release / CHOICE).exists()


def test_a_full_disk_stops_nobody(release, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(choosing, "write_atomic", full)
    assert choose(release, read_manifest(release)).threads >= 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": {"runtime": "rm -rf", "threads": 1, "windows_at_once": 1}}', "7"]
)
def test_what_is_no_choice_is_measured_over(release, measurements, text):
    (release / CHOICE).write_text(text)
    choose(release, read_manifest(release))
    assert len(measurements) == 1
    choose(release, read_manifest(release))
    assert len(measurements) == 1


def test_a_kept_choice_of_a_runtime_that_is_not_the_releases_is_not_followed(release, measurements):
    manifest = read_manifest(release)
    choose(release, manifest)
    (key,) = json.loads((release / CHOICE).read_text())
    strange = {"runtime": "openvino-bf16", "threads": 1, "windows_at_once": 1}
    (release / CHOICE).write_text(json.dumps({key: strange}))
    assert choose(release, manifest).runtime is not Runtime.OPENVINO_BF16


def test_without_openvino_onnxruntime_serves_alone(release, monkeypatch):
    missing = "OpenVINO, which is not installed; pip install '.[openvino]'"
    monkeypatch.setattr(
        choosing, "lacks", lambda runtime: None if runtime is Runtime.ONNXRUNTIME else missing
    )
    assert choose(release, read_manifest(release)).runtime is Runtime.ONNXRUNTIME
    with pytest.raises(ReleaseError, match=r"openvino needs OpenVINO, .*pip install"):
        choose(release, read_manifest(release), runtime=Runtime.OPENVINO)


def test_a_runtime_that_the_release_was_not_compared_on_is_refused(release):
    with pytest.raises(ReleaseError, match="for onnxruntime, openvino, not for openvino-bf16"):
        load(release, runtime=Runtime.OPENVINO_BF16)


def test_the_fastest_wins_and_what_is_as_good_does_not():
    def lasting(seconds):
        return lambda: seconds

    assert choosing._fastest({"a": lasting(1.0), "b": lasting(0.5)}) == "b"
    assert choosing._fastest({"a": lasting(1.0), "b": lasting(0.97)}) == "a"
    assert choosing._fastest({"a": lasting(1.0)}) == "a"


def test_a_disturbed_measurement_does_not_count():
    now_and_then = count()
    disturbed = {"a": lambda: 1.0, "b": lambda: 9.0 if next(now_and_then) % 2 else 0.5}
    assert choosing._fastest(disturbed) == "b"


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_the_number_of_windows_at_once_moves_no_mask(release_3d, scan, at_once):
    predictor = load(release_3d, threads=1)
    volume = Volume(scan((21, 17, 12))[None], np.diag([1.5, 1.5, 1.5, 1]))
    predictor._windows_at_once = 1
    expected = predictor.answer(volume, with_probabilities=True).probabilities
    predictor._windows_at_once = at_once
    actual = predictor.answer(volume, with_probabilities=True).probabilities
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cores", "tried"), [(1, [1]), (2, [2, 1]), (3, [3, 1]), (8, [8, 4, 1]), (64, [64, 32, 1])]
)
def test_all_cores_half_of_them_and_one_are_tried(cores, tried):
    assert _thread_counts(cores) == tried
