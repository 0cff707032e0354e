import subprocess
import sys

import numpy as np
import pytest

from medkd.data import images, nifti
from medkd.device import latency
from medkd.device.choice import CHOICE
from medkd.device.latency import measure_latencies, measure_latency
from medkd.device.predictor import load
from medkd.errors import DataError, ReleaseError


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    for number in range(2):
        noise = np.random.default_rng(number).normal(size=(12, 12, 9)).astype(np.float32)
        nifti.write(folder / f"{number}.nii.gz", noise, affine=np.eye(4))
    images.write(folder / "p.png", np.full((9, 9), 99, np.uint8))
    return folder


def assert_ordered(percentiles):
    assert 0 < percentiles.p50 <= percentiles.p90 <= percentiles.p99


def test_figures_are_positive_ordered_and_fit_together(release_3d, sources):
    measured = measure_latency(
        release_3d, [[p] for p in sorted(sources.glob("*.gz"))], queries=44, threads=1
    )
    assert (measured.queries, measured.threads) == (44, 1)
    assert_ordered(measured.file_to_file_ms)
    assert_ordered(measured.network_ms)
    assert set(measured.stages_ms) == {"read", "preprocess", "network", "postprocess", "write"}
    assert all(value > 0 for value in measured.stages_ms.values())
    assert sum(measured.stages_ms.values()) < 2 * measured.file_to_file_ms.p50
    assert measured.network_ms.p50 == pytest.approx(measured.stages_ms["network"])
    assert measured.cold_start_ms > measured.file_to_file_ms.p50
    cold = measured.cold_stages_ms
    assert set(cold) == {"start", *measured.stages_ms}
    assert cold["start"] > measured.file_to_file_ms.p50
    assert measured.cold_start_ms == pytest.approx(sum(cold.values()), rel=0.5)
    assert measured.file_to_file_ms.p90 <= measured.p90_bound_ms
    assert measured.size_mib == pytest.approx(
        sum(p.stat().st_size for p in release_3d.iterdir() if p.name != CHOICE) / 2**20
    )
    assert measured.runtime == "onnxruntime"
    assert measured.processor
    assert measured.load_average >= 0
    assert [p.name for p in sources.iterdir() if "partial" in p.name] == []


def test_classification_has_no_way_back_to_the_image(release_classes, sources):
    measured = measure_latency(release_classes, [[sources / "p.png"]], queries=2, threads=1)
    assert set(measured.stages_ms) == {"read", "preprocess", "network", "write"}


def test_peak_memory_is_the_devices_own_and_not_that_of_who_asks():
    code = "from medkd.device.latency import _peak_memory_mib; print(_peak_memory_mib())"
    asker = f"""
import subprocess, sys
held = b"1" * (600 << 20)
print(subprocess.check_output([sys.executable, "-c", {code!r}], text=True))
"""
    done = subprocess.run([sys.executable, "-c", asker], capture_output=True, text=True, check=True)
    assert 20 < float(done.stdout) < 400


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.nii.gz", "no such file"), ("p.png", "the image has 2 spatial axes")]
)
def test_an_image_that_cannot_be_answered_for_is_named_in_one_line(
    release_3d, sources, name, reason
):
    with pytest.raises(DataError) as caught:
        measure_latency(release_3d, [[sources / name]], queries=1, threads=1)
    assert str(caught.value).startswith(f"{sources / name}: {reason}")
    assert "\n" not in str(caught.value)


def test_what_is_no_release_is_named_in_one_line(tmp_path, sources):
    with pytest.raises(ReleaseError) as caught:
        measure_latency(tmp_path, [[sources / "p.png"]], queries=1, threads=1)
    assert str(caught.value).startswith(f"{tmp_path}: not a release")
    assert "\n" not in str(caught.value)


def test_any_other_failure_is_told_with_the_release(release_3d, sources, monkeypatch):
    broken = [sys.executable, "-c", "raise RuntimeError('out of order')"]
    monkeypatch.setattr(latency, "_command", lambda *_: broken)
    with pytest.raises(ReleaseError, match=r"(?s)volumes: measuring .* failed: .*out of order"):
        measure_latency(release_3d, [[sources / "0.nii.gz"]], queries=1, threads=1)


def test_no_query_is_no_measurement(release_3d, sources):
    with pytest.raises(ReleaseError, match="give at least one query"):
        measure_latency(release_3d, [[sources / "0.nii.gz"]], queries=0, threads=1)


def test_releases_take_turns_and_none_is_measured_more_often(
    release_3d, changed, sources, monkeypatch
):
    asked = []
    ask = latency._Worker.ask
    monkeypatch.setattr(
        latency._Worker, "ask", lambda self, s: asked.append((self._release, s)) or ask(self, s)
    )
    other = changed(release_3d, temperature=3.0)
    measured = measure_latencies(
        [release_3d, other], [[sources / "0.nii.gz"]], queries=3, threads=1
    )
    assert list(measured) == [release_3d, other]
    assert [release for release, _ in asked] == [release_3d, other] * (3 + latency.WARM_UP + 1)
    assert all(each.queries == 3 for each in measured.values())


def test_no_former_answer_is_there_when_one_is_written(release_3d, sources, tmp_path):
    for name in ("mask.nii.gz", "mask.json", "another.json"):
        (tmp_path / name).write_text("former")
    latency._answer(load(release_3d, threads=1), [sources / "0.nii.gz"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mask.nii.gz", "mask.json"}
