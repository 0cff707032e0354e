"""A release from file to file against the same network in MONAI's own pipeline."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from medkd.data import nifti
from medkd.device.answer import answer
from medkd.device.latency import measure_latency
from medkd.device.manifest import MANIFEST, WEIGHTS, Manifest, sha256
from medkd.export.onnx import export_onnx
from medkd.models.checkpoint import Checkpoint, save_checkpoint
from medkd.models.cost import macs, parameters
from medkd.options import PreprocessOptions
from medkd.types import Task

ROOT = Path(__file__).parents[2]
CLASSES = ("background", "anterior", "posterior")
QUERIES, THREADS = 16, 2
IMAGES = {  # shape, spacing in mm
    "hippocampus crop": ((35, 50, 36), (1.0, 1.0, 1.0)),
    "head, thick slices": ((180, 220, 60), (1.0, 1.0, 3.0)),
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The hippocampus study's student, with random weights, as a checkpoint and as a release."""
    torch.manual_seed(0)
    shape = PreprocessOptions(spacing_mm=(1, 1, 1), window=(48, 64, 48))
    model = {"name": "plain_unet", "channels": [8, 16, 16, 32, 36], "first_stride": 1}
    checkpoint = Checkpoint(model, Task.SEGMENTATION, 1, CLASSES, 3)
    folder, network = tmp_path_factory.mktemp("student"), checkpoint.build().eval()
    save_checkpoint(folder, network, checkpoint)
    (folder / "preprocess.json").write_text(shape.model_dump_json())
    export_onnx(network, folder / WEIGHTS, shape=(1, *shape.window))
    manifest = Manifest(
        role="student",
        task=Task.SEGMENTATION,
        classes=CLASSES,
        label_values=(0, 1, 2),
        preprocess=shape,
        temperature=1,
        model=model,
        parameters=parameters(network),
        macs=macs(network, (1, 1, *shape.window)),
        study={},
        parity={},
        files={WEIGHTS: sha256(folder / WEIGHTS)},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.mark.parametrize("kind", IMAGES)
def test_a_release_against_monai(student, tmp_path, kind):
    shape, spacing = IMAGES[kind]
    noise = np.random.default_rng(0).normal(size=shape)
    image = tmp_path / "image.nii.gz"
    smooth = 1000 * ndimage.gaussian_filter(noise, 2)
    nifti.write(image, smooth.astype(np.int16), affine=np.diag([*spacing, 1]))

    command = [sys.executable, "-m", "tests.benchmarks.monai_file_to_file", student, image]
    command += [tmp_path / "monai.nii.gz", "--queries", QUERIES, "--threads", THREADS]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    peer = json.loads(done.stdout)
    ours = measure_latency(student, [image], queries=QUERIES, threads=THREADS)

    answer(student, image, tmp_path / "ours.nii.gz")
    masks = [nib.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in ("ours", "monai")]
    agreement = float((masks[0] == masks[1]).mean())
    assert agreement > 0.99, "the two pipelines do not answer the same question"
    p50, p90 = ours.file_to_file_ms.p50, ours.file_to_file_ms.p90
    print(
        f"\n{kind}, {'x'.join(map(str, shape))}, {THREADS} threads, voxel agreement {agreement:.4f}"
        f"\n  file to file p50 / p90: medkd {p50:.0f} / {p90:.0f} ms, MONAI {peer['p50_ms']:.0f} / "
        f"{peer['p90_ms']:.0f} ms: {peer['p50_ms'] / p50:.1f} times faster"
        f"\n  peak memory: medkd {ours.peak_memory_mib:.0f} MiB, MONAI "
        f"{peer['peak_memory_mib']:.0f} MiB: {ours.peak_memory_mib / peer['peak_memory_mib']:.2f}"
    )
