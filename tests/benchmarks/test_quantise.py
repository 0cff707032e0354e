"""int8 against fp32 in OpenVINO, interleaved: networks of 32 channels and more."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medkd.device.engine import open_engine
from medkd.environment import environment
from medkd.export.onnx import export_onnx
from medkd.export.openvino import Bias, export_openvino, quantise
from medkd.models.students import plain_unet
from medkd.models.teachers import dynunet
from medkd.types import Runtime

ROUNDS, THREADS = 12, 2
SHAPES = {2: (1, 256, 256), 3: (1, 48, 64, 48)}
NETWORKS = {
    "plain_unet 32-64-128, 2D": (2, lambda: plain_unet(1, 3, 2, channels=[32, 64, 128])),
    "plain_unet 32-64-128, 3D": (3, lambda: plain_unet(1, 3, 3, channels=[32, 64, 128])),
    "dynunet 32-64-128-256, 3D": (3, lambda: dynunet(1, 3, 3, filters=[32, 64, 128, 256])),
    "plain_unet 8-16-16-32-36, 3D": (
        3,
        lambda: plain_unet(1, 3, 3, channels=[8, 16, 16, 32, 36], first_stride=1),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_against_fp32(name, tmp_path):
    dims, build = NETWORKS[name]
    torch.manual_seed(0)
    shape, rng = SHAPES[dims], np.random.default_rng(0)
    noise = [rng.normal(size=shape) for _ in range(8)]
    windows = [ndimage.gaussian_filter(n, 1.5)[None].astype(np.float32) * 4 for n in noise]
    export_onnx(build().eval(), tmp_path / "model.onnx", shape=shape)
    export_openvino(tmp_path / "model.onnx", tmp_path / "fp32.xml")
    quantise(tmp_path / "model.onnx", tmp_path / "int8.xml", windows, bias=Bias.FAST)
    engines = {
        "OpenVINO fp32": open_engine(tmp_path / "fp32.xml", Runtime.OPENVINO, threads=THREADS),
        "OpenVINO int8": open_engine(tmp_path / "int8.xml", Runtime.OPENVINO, threads=THREADS),
        "ONNX Runtime fp32": open_engine(
            tmp_path / "model.onnx", Runtime.ONNXRUNTIME, threads=THREADS
        ),
    }
    times = {key: [] for key in engines}
    for number in range(ROUNDS + 2):
        for key, engine in engines.items():
            start = time.perf_counter()
            engine(windows[number % len(windows)])
            if number >= 2:
                times[key].append(1000 * (time.perf_counter() - start))
    median = {key: float(np.median(taken)) for key, taken in times.items()}
    base = median["OpenVINO int8"]
    sizes = [(tmp_path / f"{n}.bin").stat().st_size / 2**20 for n in ("fp32", "int8")]
    print(
        f"\n{name}, {THREADS} threads, flags {environment()['processor_flags']}"
        + "".join(f"\n  {key}: {value:.1f} ms, {value / base:.2f}" for key, value in median.items())
        + f"\n  size {sizes[0]:.2f} and {sizes[1]:.2f} MiB"
    )


@pytest.mark.parametrize("release", ["teacher-int8", "student-int8"])
def test_what_a_trained_network_loses(release):
    """Of the study that the README begins with, where it has been run here."""
    path = Path("runs/hippocampus/releases") / release / "parity.json"
    if not path.exists():
        pytest.skip(f"{path}: export the study with this variant first")
    for runtime, parity in json.loads(path.read_text())["parity"].items():
        lost = parity["difference"]
        print(f"\n{release}, {runtime}: {lost['value']:+.4f} ({lost['low']}, {lost['high']})")
