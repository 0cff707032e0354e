"""A release from file to file: against its teacher and itself in MONAI's pipeline, and a script.

All of a comparison takes turns in one run on one machine; what is printed are ratios.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from medkd.data import nifti
from medkd.data.preprocess import preprocess
from medkd.device import load
from medkd.device.guard import describe, fit_guard
from medkd.device.manifest import MANIFEST, WEIGHTS, Manifest, sha256
from medkd.export.onnx import export_onnx
from medkd.export.openvino import Bias, quantise
from medkd.models.checkpoint import Checkpoint, save_checkpoint
from medkd.models.cost import macs, parameters
from medkd.options import PreprocessOptions
from medkd.results import Conformal
from medkd.types import Runtime, Task, Variant, Volume

ROOT = Path(__file__).parents[2]
CLASSES = ("background", "anterior", "posterior")
THREADS, WARM_UP, COLD_STARTS = 2, 2, 7
SHAPE = PreprocessOptions(spacing_mm=(1, 1, 1), window=(48, 64, 48))
LOOKS = describe(*preprocess(Volume(np.ones((1, 9, 9, 9)), np.eye(4)), SHAPE))
GUARD = fit_guard([LOOKS, LOOKS], [LOOKS], accept=0.95)  # as every release of a study has
NETWORKS = {  # random weights take as long
    "teacher": {"name": "dynunet", "filters": [16, 32, 64, 128]},  # of the hippocampus study
    "student": {"name": "plain_unet", "channels": [8, 16, 16, 32, 36], "first_stride": 1},
    "teacher of nnU-Net's width": {"name": "dynunet", "filters": [32, 64, 128, 256]},
    "student at half resolution": {"name": "plain_unet", "channels": [8, 16, 32, 64]},
}
CROP, FULL = "hippocampus crop", "full size, resampled"  # with MEDKD_DATA the crop is a real one
IMAGES = {  # shape, spacing in mm, queries
    CROP: ((35, 50, 36), (1.0, 1.0, 1.0), 64),
    FULL: ((220, 220, 155), (0.9, 0.9, 1.2), 5),
}
PREDICT = "from medkd.cli import main; main()"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Teacher and student, each as a checkpoint and as a release."""
    torch.manual_seed(0)
    folders = {}
    for role, model in NETWORKS.items():
        checkpoint = Checkpoint(model, Task.SEGMENTATION, 1, CLASSES, 3)
        folder, network = tmp_path_factory.mktemp("network"), checkpoint.build().eval()
        save_checkpoint(folder, network, checkpoint)
        (folder / "preprocess.json").write_text(SHAPE.model_dump_json())
        export_onnx(network, folder / WEIGHTS, shape=(1, *SHAPE.window))
        manifest = Manifest(
            role="student",
            runtimes=tuple(Runtime),
            task=Task.SEGMENTATION,
            classes=CLASSES,
            label_values=(0, 1, 2),
            preprocess=SHAPE,
            temperature=1.0,
            model=model,
            parameters=parameters(network),
            macs=macs(network, (1, 1, *SHAPE.window)),
            study={},
            files={},
            guard=GUARD,
            conformal=Conformal(promised=0.9, thresholds=dict.fromkeys(CLASSES[1:], 0.1), cases=20),
        )
        folders[role] = released(manifest, folder)
    for student in ("student", "student at half resolution"):
        folder = tmp_path_factory.mktemp("int8")
        folders[f"{student}, int8"] = in_int8(folders[student], folder)
    return folders


def released(manifest, folder):
    """Make a release of a folder that holds its files."""
    files = {path.name: sha256(path) for path in folder.glob("model.*")}
    made = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(made.model_dump_json())
    load(folder)  # chooses its runtime
    load(folder, threads=THREADS)
    return folder


def in_int8(release, folder):
    """Make the int8 form of a release; random weights round as fast as trained ones."""
    rng = np.random.default_rng(0)
    windows = [
        4 * ndimage.gaussian_filter(rng.normal(size=SHAPE.window), 1.5)[None, None]
        for _ in range(8)
    ]
    windows = [window.astype(np.float32) for window in windows]
    quantise(release / WEIGHTS, folder / "model.xml", windows, bias=Bias.FAST)
    shutil.copy(release / "preprocess.json", folder)
    form = {"runtimes": (Runtime.OPENVINO,), "weights": "model.xml", "variant": Variant.INT8}
    return released(load(release).manifest.model_copy(update=form), folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, (shape, spacing, _) in IMAGES.items():
        noise = np.random.default_rng(0).normal(size=shape)
        smooth = 1000 * ndimage.gaussian_filter(noise, 2)
        nifti.write(
            folder / f"{name}.nii.gz", smooth.astype(np.int16), affine=np.diag([*spacing, 1])
        )
    written = {name: folder / f"{name}.nii.gz" for name in IMAGES}
    if root := os.environ.get("MEDKD_DATA"):
        written[CROP] = Path(root) / "hippocampus/imagesTr/hippocampus_003.nii.gz"
    return written


class Process:
    """Something that answers for images, and tells the milliseconds of each by stage."""

    def __init__(self, *command):
        self._command = [sys.executable, "-m", *map(str, command)]

    def __enter__(self):
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def ask(self, *images):
        self._process.stdin.write(json.dumps([str(image) for image in images]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def in_turns(processes, image, queries):
    """Return the laps of every query by process, and each one's peak memory."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(each) for name, each in processes.items()}
        laps = {name: [] for name in running}
        for number in range(-WARM_UP, queries):
            for name, process in running.items():
                answer = process.ask(image)
                laps[name] += [answer] if number >= 0 else []
        memory = {name: process.ask()["peak_memory_mib"] for name, process in running.items()}
    return laps, memory


def totals(laps):
    return [each.get("total", sum(each.values())) for each in laps]


def p90(laps):
    return float(np.percentile(totals(laps), 90))


def medkd(release):
    return Process("medkd.device.latency", release, "--threads", THREADS)


def peer(kind, folder, mask):
    return Process("tests.benchmarks.file_to_file", kind, folder, mask)


@pytest.mark.parametrize(
    ("kind", "student", "teacher"),
    [
        (CROP, "student", "teacher"),
        (CROP, "student at half resolution", "teacher of nnU-Net's width"),
        (FULL, "student", "teacher"),
        (FULL, "student at half resolution", "teacher of nnU-Net's width"),
    ],
)
def test_a_release_against_monai(networks, images, tmp_path, kind, student, teacher):
    queries = IMAGES[kind][2]
    masks = {name: tmp_path / f"{name}.nii.gz" for name in ("teacher", "student")}
    release = networks[student]
    processes = {
        "medkd": medkd(release),
        "medkd, int8": medkd(networks[f"{student}, int8"]),
        f"MONAI, {teacher}": peer("monai", networks[teacher], masks["teacher"]),
        f"MONAI, {student}": peer("monai", release, masks["student"]),
    }
    if kind == CROP:  # how fast it could be, with nothing but nibabel and ONNX Runtime
        processes["bare script"] = peer("bare", release, tmp_path / "bare.nii.gz")
    if find_spec("nnunetv2"):
        mask = tmp_path / "nnunet.nii.gz"
        processes[f"nnU-Net, {teacher}"] = peer("nnunet", networks[teacher], mask)
    else:
        print("\nnnunetv2 is not installed: nnU-Net's predictor is left out")
    laps, memory = in_turns(processes, images[kind], queries)
    ours = tmp_path / "ours.nii.gz"
    predict = [sys.executable, "-c", PREDICT, "predict", release, images[kind], ours]
    subprocess.run(list(map(str, predict)), check=True, capture_output=True)
    answers = [np.asarray(nib.load(path).dataobj) for path in (ours, masks["student"])]
    agreement = float((answers[0] == answers[1]).mean())
    assert agreement > 0.95, "the two pipelines do not answer the same question"
    best = min((name for name in processes if name.startswith("medkd")), key=lambda n: p90(laps[n]))
    stages = laps[best]
    runtime = load(release, threads=THREADS).runtime
    print(f"\n{kind}, {queries} queries in turns, {THREADS} threads, {runtime}")
    print(f"  voxels that agree with MONAI: {agreement:.4f}")
    for name in processes:
        print(
            f"  {name}: p50 {np.median(totals(laps[name])):.0f}, p90 {p90(laps[name]):.0f} ms, "
            f"{p90(laps[name]) / p90(laps[best]):.1f} times the best release's; "
            f"peak {memory[name]:.0f} MiB"
        )
    median = {name: np.median([each[name] for each in stages]) for name in stages[0]}
    whole = sum(median.values())
    shares = ", ".join(f"{name} {value / whole:.0%}" for name, value in median.items())
    print(f"  time of {best} goes to: {shares}")
    around = (median["preprocess"] + median["postprocess"]) / whole
    print(f"  resampling is within preprocess and postprocess: at most {around:.0%}")


def test_a_release_against_reading_network_and_writing_alone(networks, images, tmp_path):
    kind = CROP
    processes = {
        "medkd": medkd(networks["student"]),
        "bare": peer("bare", networks["student"], tmp_path / "bare.nii.gz"),
    }
    laps, memory = in_turns(processes, images[kind], IMAGES[kind][2])
    sums = [sum(each[stage] for stage in ("read", "network", "write")) for each in laps["bare"]]
    ratio = p90(laps["medkd"]) / float(np.percentile(sums, 90))
    print(
        f"\n{kind}: file to file {ratio:.2f} times bare reading, network and writing "
        f"(p90 of medkd {p90(laps['medkd']):.1f} ms); peak memory "
        f"{memory['medkd']:.0f} against {memory['bare']:.0f} MiB"
    )


def test_cold_start_against_a_bare_script_and_monai(networks, images, tmp_path):
    image = images[CROP]
    mask = tmp_path / "mask.nii.gz"
    script = "tests.benchmarks.file_to_file"
    commands = {
        "medkd predict": ["-c", PREDICT, "predict", networks["student"], image, mask],
        "nibabel and ONNX Runtime": ["-m", script, "bare", networks["student"], mask],
        "MONAI": ["-m", script, "monai", networks["student"], mask],
    }
    found = {name: [] for name in commands}
    for _ in range(COLD_STARTS):
        for name, command in commands.items():
            found[name].append(_once(command, image))
    found = {name: np.array(each[1:]) for name, each in found.items()}
    own = np.median(found["medkd predict"], axis=0)
    print(f"\ncold start, {COLD_STARTS - 1} in turns: process start to mask on disk")
    for name, each in found.items():
        wall, processor, memory = np.median(each, axis=0)
        print(
            f"  {name}: {wall:.2f} s ({processor:.2f} s of processor), {memory:.0f} MB; "
            f"medkd takes {own[0] / wall:.2f} of the time, {own[2] / memory:.2f} of the memory"
        )


def _once(command, image):
    """Return seconds on the clock and of processor, and peak MB, of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.write(f"{json.dumps([str(image)])}\n[]\n".encode())
    process.stdin.close()
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.returncode is None:  # what wait4 tells begins with the peak of this process
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        peak = max(peak, int(found[1]) if found else 0)
        done, code, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(code) if done else None
        time.sleep(0.004)
    wall = time.perf_counter() - start
    assert process.returncode == 0
    return wall, usage.ru_utime + usage.ru_stime, peak * 1024 / 1e6


def test_memory_on_a_large_volume(networks, tmp_path):
    shape = (512, 512, 300)
    plane = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape[:2]), 3)
    volume = np.broadcast_to((1000 * plane).astype(np.int16)[..., None], shape)
    print("\npeak memory, 512 x 512 x 300 voxels of 16 bits (150 MiB)")
    for what, spacing in (("at the network's spacing", 1.0), ("resampled to half", 0.5)):
        image = tmp_path / f"{spacing}.nii.gz"
        nifti.write(image, volume, affine=np.diag([spacing] * 3 + [1]))
        with medkd(networks["student"]) as process:
            laps = process.ask(image)
            memory = process.ask()["peak_memory_mib"]
        stages = ", ".join(f"{name} {value / 1000:.1f} s" for name, value in laps.items())
        print(f"  {what}: {memory:.0f} MiB; {stages}")


def test_size_of_the_base_install():
    sizes = {name: _size_mb(name) for name in _closure("medkd")}
    total = sum(sizes.values())
    print(f"\nbase install: {total:.0f} MB with compiled bytecode")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:12]:
        print(f"  {name}: {size:.1f} MB")


def _closure(package, seen=None):
    """Return a package and all that it needs without extras."""
    seen = set() if seen is None else seen
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in seen:
        return seen
    try:
        requirements = metadata.requires(package) or ()
    except metadata.PackageNotFoundError:  # needed on other systems alone
        return seen
    seen.add(name)
    for requirement in requirements:
        if "extra ==" not in requirement:
            _closure(re.match(r"[\w.-]+", requirement)[0], seen)
    return seen


def _size_mb(package):
    files = metadata.distribution(package).files or ()
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6
