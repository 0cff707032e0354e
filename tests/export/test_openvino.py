import numpy as np
import pytest
import torch
from torch import nn

from medkd.data.samples import load_samples
from medkd.device.engine import open_engine
from medkd.export.onnx import export_onnx
from medkd.export.openvino import Bias, calibration_windows, export_openvino, quantise
from medkd.types import Runtime

SHAPE = (1, 12, 12, 12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv3d(16, 2, 1),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("openvino") / "model.onnx"
    export_onnx(network.eval(), path, shape=SHAPE)
    return path


def windows(count, *, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, *SHAPE)).astype(np.float32) for _ in range(count)]


def test_fp32_is_written_as_fp32(exported, tmp_path):
    export_openvino(exported, tmp_path / "model.xml")
    (window,) = windows(1, seed=1)
    onnx, ours = (
        open_engine(path, Runtime.OPENVINO)(window) for path in (exported, tmp_path / "model.xml")
    )
    np.testing.assert_allclose(ours, onnx, atol=1e-5)
    assert (tmp_path / "model.bin").stat().st_size > 4 * 16 * 16 * 27


@pytest.mark.parametrize("bias", list(Bias))
def test_int8_is_near_and_a_quarter_of_the_size(exported, tmp_path, bias, capfd):
    quantise(exported, tmp_path / "model.xml", windows(4, seed=0), bias=bias)
    export_openvino(exported, tmp_path / "fp32.xml")
    (window,) = windows(1, seed=1)
    expected = open_engine(tmp_path / "fp32.xml", Runtime.OPENVINO)(window)
    actual = open_engine(tmp_path / "model.xml", Runtime.OPENVINO)(window)
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 0.1
    sizes = [(tmp_path / f"{name}.bin").stat().st_size for name in ("model", "fp32")]
    assert sizes[0] < 0.4 * sizes[1]
    assert capfd.readouterr().out == ""


def test_it_is_calibrated_on_windows_of_the_cases_it_is_given(make_study):
    study, cohort = make_study("export.calibration_cases=3", "augment.rotate_degrees=90", dims=2)
    cases = cohort.of(cohort.split.train)
    found = calibration_windows(cases, study.config)
    assert len(found) == 3
    images = [sample.image for sample in load_samples(cases, study.config)]
    for window in found:  # of 16 x 16 pixels, as the images are: each is one of them, unaugmented
        assert any(np.allclose(window[0], image, atol=1e-6) for image in images)
    again = calibration_windows(cases, study.config)
    np.testing.assert_array_equal(np.stack(found), np.stack(again))
