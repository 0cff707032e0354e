"""An epoch of the student: on labels alone, on stored soft targets, with the teacher in the loop.

The latter is how torchdistill and its like distil. Networks have random weights: an epoch takes as
long whatever they have learned. The forms take turns, so that a machine that slows down slows all.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CASES, STEPS, WARM_UP = 12, 64, 4
TEACHERS = {
    "DynUNet 32-64-128-256": {"name": "dynunet", "filters": [32, 64, 128, 256]},
    "SwinUNETR 24": {"name": "swin_unetr", "feature_size": 24},
}
ROUNDS = {"baseline": 5, "stored": 5, "in the loop": 1}
OPTIONS = {
    "study": {"name": "epoch"},
    "data": {
        "source": "phantom",
        "labels": {"shell": 1, "core": 2, "lesion": 3},
        "split": {"validation": 0.1, "test": 0.1},
        "phantoms": {"cases": CASES, "cases_per_patient": 1, "shape": [64, 64, 64]},
    },
    "preprocess": {"spacing_mm": [1, 1, 1], "window": [64, 64, 64]},
    "augment": {
        "rotate_degrees": 15,
        "scale": 0.15,
        "contrast": 0.25,
        "gamma": 0.3,
        "noise_std": 0.1,
        "blur_sigma": 1.0,
    },
    "student": {
        "model": {"name": "plain_unet", "channels": [8, 16, 16, 32, 36], "first_stride": 1},
        "train": {"steps": STEPS, "validate_every": STEPS, "batch": 2},
    },
    "distill": {"losses": [{"name": "pixel_kd"}]},
}


def prepare(folder, teacher):
    """Write a config, its cases, an untrained teacher and its soft targets."""
    from medkd.config import load
    from medkd.data.check import check, labelled
    from medkd.models.checkpoint import Checkpoint, save_checkpoint
    from medkd.study import Study
    from medkd.train.run import stage_inputs
    from medkd.train.soften import soften

    train = {"steps": 1, "batch": 2}
    values = OPTIONS | {"teacher": {"model": teacher, "train": train}}
    values["study"] = {"name": "epoch", "root": str(folder)}
    path = folder / "epoch.yaml"
    path.write_text(yaml.safe_dump(values))
    study = Study(load(path), config_path=path)
    cohort = check(study)

    def make(stage):
        described = Checkpoint(
            model=teacher,
            task=study.config.task,
            in_channels=1,
            classes=study.config.classes,
            spatial_dims=3,
        )
        save_checkpoint(stage, described.build(), described)

    with study.hold(cohort.split, digests=cohort.part_digests):
        cases = labelled(cohort.of(cohort.split.train))
        inputs = stage_inputs(study, cohort, "teacher/fold-0", cases)
        study.stage("teacher/fold-0", inputs=inputs, make=make)
        soften(study, cohort)
    return path


def run(form, path, folder):
    """Train for some steps; print seconds a step, the share of waiting for data, and memory."""
    from medkd.config import load
    from medkd.data.check import check
    from medkd.data.samples import load_samples
    from medkd.study import Study
    from medkd.track.tracker import NullTracker
    from medkd.train import run as training

    overrides = ["distill.online=true"] if form == "in the loop" else []
    study = Study(load(path, overrides=overrides), config_path=path)
    cohort = check(study)
    waited, worked = [], []

    def watched(*args, **options):
        before = time.perf_counter()
        for batch in batches(*args, **options):
            ready = time.perf_counter()
            yield batch
            waited.append(ready - before)
            before = time.perf_counter()
            worked.append(before - ready)

    batches, training.batches = training.batches, watched
    cases = cohort.of(cohort.split.train)
    validation = load_samples(cohort.of(cohort.split.validation), study.config)
    name = "baseline" if form == "baseline" else "student"
    training._job(study, cohort, name, cases, validation, folder, NullTracker()).fit()
    counted = slice(WARM_UP, STEPS - 1)  # the last one holds the validation
    step_s = np.array(waited[counted]) + np.array(worked[counted])
    status = Path("/proc/self/status").read_text().splitlines()
    peak_mib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    share = float(np.sum(waited[counted]) / step_s.sum())
    result = {"epoch_s": float(step_s.mean() * len(cases) / 2), "waiting": share, "mib": peak_mib}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("teacher", list(TEACHERS))
def test_epoch(teacher, tmp_path):
    path = prepare(tmp_path, TEACHERS[teacher])
    measured = {form: [] for form in ROUNDS}
    for number in range(max(ROUNDS.values())):
        for form in (form for form, rounds in ROUNDS.items() if number < rounds):
            measured[form].append(measure(form, path, tmp_path / f"{form}-{number}"))
    print(f"\nan epoch of the student, windows of 64x64x64, teacher {teacher}")
    for form, results in measured.items():
        ratios = [
            result["epoch_s"] / baseline["epoch_s"]
            for result, baseline in zip(results, measured["baseline"], strict=False)
        ]
        median = {key: np.median([result[key] for result in results]) for key in results[0]}
        print(
            f"  {form}: {median['epoch_s']:.1f} s, {np.median(ratios):.2f} of the baseline's "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {100 * median['waiting']:.0f} % waiting "
            f"for data; {median['mib']:.0f} MiB"
        )


def measure(form, path, folder):
    """Run a form in a process of its own."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.benchmarks.test_epoch", form, path, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads((folder / "result.json").read_text())


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
