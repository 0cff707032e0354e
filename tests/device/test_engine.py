import numpy as np
import pytest
import torch
from torch import nn

from medkd.device.engine import Engine
from medkd.errors import ReleaseError
from medkd.export.onnx import export_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 1)
    ).eval()
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    export_onnx(network, path, shape=(2, 6, 7, 8))
    return network, path


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_answers_as_the_network_in_torch(exported, batch, threads):
    network, path = exported
    windows = np.random.default_rng(0).normal(size=(batch, 2, 6, 7, 8)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(Engine(path, threads=threads)(windows), expected, atol=1e-5)


def test_windows_of_another_shape_are_refused(exported):
    with pytest.raises(ReleaseError, match=r"takes windows of .*6, 7, 8.*not \[1, 2, 5, 7, 8\]"):
        Engine(exported[1])(np.zeros((1, 2, 5, 7, 8), np.float32))


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_what_is_no_network_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        Engine(tmp_path / "model.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match=r"gone\.onnx: ONNX Runtime cannot load it"):
        Engine(tmp_path / "gone.onnx")
