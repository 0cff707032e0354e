import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medkd.device import engine
from medkd.device.engine import BF16, lacks, open_engine
from medkd.environment import cpu_flags
from medkd.errors import ReleaseError
from medkd.export.onnx import export_onnx
from medkd.export.openvino import export_openvino
from medkd.types import Runtime

SHAPE = (2, 6, 7, 8)
FP32 = [Runtime.ONNXRUNTIME, Runtime.OPENVINO]
NAMES = {Runtime.ONNXRUNTIME: "ONNX Runtime", Runtime.OPENVINO: "OpenVINO"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.ConvTranspose3d(4, 3, 2, 2)
    ).eval()
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    export_onnx(network, path, shape=SHAPE)
    export_openvino(path, path.with_suffix(".xml"))
    return network, path


def answers(network, path, runtime, *, batch=2, threads=None):
    windows = np.random.default_rng(0).normal(size=(batch, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(windows)).numpy()
    return open_engine(path, runtime, threads=threads)(windows), expected


@pytest.mark.parametrize("runtime", FP32)
@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_answers_as_the_network_in_torch(exported, batch, threads, runtime):
    actual, expected = answers(*exported, runtime, batch=batch, threads=threads)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_openvinos_own_format_answers_the_same(exported):
    network, path = exported
    actual, expected = answers(network, path.with_suffix(".xml"), Runtime.OPENVINO)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def kinds(path):
    network = open_engine(path, Runtime.OPENVINO)._network.get_runtime_model()
    return [node.get_rt_info()["layerType"].astype(str) for node in network.get_ops()]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_phases_of_a_finer_grid_are_put_together_at_once(exported, suffix):
    found = kinds(exported[1].with_suffix(suffix))
    assert found.count("DepthToSpace") == 1
    assert "Transpose" not in found


class Turned(nn.Module):
    """Splits channels, transposes and joins axes, but in another order or by other steps."""

    def __init__(self, split, order, joined):
        super().__init__()
        self.split, self.order, self.joined = split, order, joined

    def forward(self, x):
        return x.reshape(-1, *self.split).permute(self.order).reshape(-1, *self.joined)


@pytest.mark.parametrize(
    ("split", "order", "joined"),
    [
        ((2, 2, 3, 5, 5), (0, 3, 4, 2, 5, 1), (3, 10, 10)),  # the phases of the axes change places
        ((3, 2, 2, 5, 5), (0, 1, 4, 2, 5, 3), (3, 10, 10)),  # channels first
        ((2, 2, 3, 5, 5), (0, 3, 4, 1, 5, 2), (6, 5, 10)),  # joined otherwise
        ((1, 4, 3, 5, 5), (0, 3, 4, 1, 5, 2), (3, 5, 20)),  # another step along each axis
    ],
)
def test_what_is_no_shuffle_of_phases_answers_as_it_did(tmp_path, split, order, joined):
    network = Turned(split, order, joined).eval()
    export_onnx(network, tmp_path / "model.onnx", shape=(12, 5, 5))
    x = torch.randn(2, 12, 5, 5)
    answer = open_engine(tmp_path / "model.onnx", Runtime.OPENVINO)(x.numpy())
    np.testing.assert_allclose(answer, network(x).numpy())


def test_shapes_that_are_not_known_before_are_no_shuffle(tmp_path):
    ov = engine.openvino()
    op = ov.opset13
    image = op.parameter(ov.PartialShape.dynamic(), np.float32)
    shape = op.parameter([-1], np.int64)  # of a rank that nobody knows
    chain = op.reshape(image, shape, special_zero=False)
    turned = op.transpose(chain, op.constant(np.array([], np.int64)))
    network = ov.Model([op.reshape(turned, shape, special_zero=False)], [image, shape], "x")
    engine._shuffle_at_once(network)
    assert [n.get_type_name() for n in network.get_ops()].count("Transpose") == 1


def test_openvino_writes_over_what_it_returned(exported):
    """Who keeps an answer copies it; ``predict_slabs`` says so, and ``predict_windows`` does."""
    engine = open_engine(exported[1], Runtime.OPENVINO)
    first = engine(np.zeros((1, *SHAPE), np.float32))
    kept = first.copy()
    engine(np.ones((1, *SHAPE), np.float32))
    assert np.abs(first - kept).max() > 0


@pytest.mark.skipif(not cpu_flags() & BF16, reason="the processor has no bf16")
def test_bf16_is_near(exported):
    actual, expected = answers(*exported, Runtime.OPENVINO_BF16)
    np.testing.assert_allclose(actual, expected, atol=0.1)
    assert np.abs(actual - expected).max() > 1e-5, "computed in fp32"


@pytest.mark.parametrize("runtime", FP32)
def test_windows_of_another_shape_are_refused(exported, runtime):
    with pytest.raises(ReleaseError, match=r"windows of .*6,\s?7,\s?8.*not \[1, 2, 5, 7, 8\]"):
        open_engine(exported[1], runtime)(np.zeros((1, 2, 5, 7, 8), np.float32))


@pytest.mark.parametrize("runtime", FP32)
@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_what_is_no_network_is_refused(tmp_path, content, runtime):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match=rf"model\.onnx: {NAMES[runtime]} cannot load it"):
        open_engine(tmp_path / "model.onnx", runtime)


@pytest.mark.parametrize("runtime", FP32)
def test_a_missing_file_is_refused(tmp_path, runtime):
    with pytest.raises(ReleaseError, match=rf"gone\.onnx: {NAMES[runtime]} cannot load it"):
        open_engine(tmp_path / "gone.onnx", runtime)


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from medkd.device.engine import open_engine
from medkd.types import Runtime
signal.signal(signal.SIGUSR1, lambda *_: None)
engines = [open_engine(Path(sys.argv[1]), Runtime.OPENVINO, threads=1) for _ in range(3)]
while engines:
    del engines[0]
    os.kill(os.getpid(), signal.SIGUSR1)
print("alive")
"""


def test_engines_may_be_closed_in_any_order_and_signals_still_arrive(exported):
    command = [sys.executable, "-c", SIGNALLED, str(exported[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_what_a_runtime_lacks_is_said(monkeypatch):
    assert lacks(Runtime.ONNXRUNTIME) is None
    monkeypatch.setattr(engine, "cpu_flags", set)
    assert lacks(Runtime.OPENVINO_BF16) == "a processor that computes in bf16"
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert "pip install '.[openvino]'" in lacks(Runtime.OPENVINO)


QUIET = "from medkd.device.engine import openvino; openvino(); import openvino.tools.ovc"
QUANTISED = """
from medkd.export.onnx import export_onnx
from medkd.export.openvino import Bias, quantise
import numpy, pathlib, torch
folder = pathlib.Path(sys.argv[2])
export_onnx(torch.nn.Conv2d(1, 2, 3).eval(), folder / "model.onnx", shape=(1, 8, 8))
windows = [numpy.ones((1, 1, 8, 8), numpy.float32)]
quantise(folder / "model.onnx", folder / "model.xml", windows, bias=Bias.FAST)
"""
WATCHED = """
import os, sys, time
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        with open(sys.argv[1], "a") as file:
            file.write(event + "\\n")
        raise OSError("the network is closed")
sys.addaudithook(watch)
"""


def connections(code, folder):
    """Run code and return what it tried to reach, in this process and those that it forks."""
    seen = folder / "seen"
    environment = {k: v for k, v in os.environ.items() if k not in {"CI", "NNCF_CI", "NNCF_DEV"}}
    command = [sys.executable, "-c", f"{WATCHED}\n{code}\ntime.sleep(3)", seen, folder]
    home = environment | {"HOME": str(folder)}
    done = subprocess.run(command, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return seen.read_text() if seen.exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize("code", [QUIET, QUANTISED])
def test_openvino_and_nncf_call_nobody(tmp_path, code):
    assert connections(code, tmp_path) == ""


@pytest.mark.slow
def test_openvino_by_itself_calls_home_and_would_be_seen(tmp_path):
    assert "socket" in connections("import openvino.tools.ovc", tmp_path)
