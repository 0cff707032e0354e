import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medkd.train import distributed
from medkd.train.distributed import agreed, mean, share, workers

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FIT = """
import sys
from pathlib import Path
import torch
from medkd.options import TrainOptions
from medkd.track.tracker import RecordingTracker
from medkd.train import distributed
from medkd.train.loop import Fit, fit
from tests.train.test_loop import batches, step, validate

options = TrainOptions(
    steps=8, validate_every=3, learning_rate=0.05, precision="32-true", batch=4, patience=9
)
folder = Path(sys.argv[1])


def learn(job):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    mine, tracker = distributed.share(4), RecordingTracker()
    shared = lambda first, _: ({k: v[mine] for k, v in b.items()} for b in batches(first))
    fit(model, options, Fit("student", step, shared, validate, folder, tracker, 5, 2))
    return model, tracker.curve("train/loss")


with distributed.together():
    if distributed.rank() == 0:
        with distributed.shared({}):
            model, curve = learn(None)
        torch.save(model.state_dict(), folder / "weights.pt")
        torch.save(curve, folder / "curve.pt")
    else:
        distributed.follow(learn)
"""


def run(command, folder):
    done = subprocess.run(
        [*command, str(folder / "fit.py"), str(folder)],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [torch.load(folder / name, weights_only=True) for name in ("weights.pt", "curve.pt")]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(tmp_path):
    results = []
    for name, command in (("one", [sys.executable]), ("two", TORCHRUN)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "fit.py").write_text(FIT)
        results.append(run(command, folder))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


@pytest.mark.slow
def test_a_whole_study_under_torchrun_has_the_curves_of_one_process(make_config, tmp_path):
    losses = json.dumps([{"name": "pixel_kd"}])
    curves = []
    for name, command in (("one", [sys.executable]), ("two", TORCHRUN)):
        config = make_config(dims=2)
        options = {
            "study.name": name,
            "study.root": str(tmp_path),
            # batch norm and batch Dice are of each process's own share
            "student.model": "{name: dynunet, filters: [4, 8, 8]}",
            "teacher.train.steps": 12,
            "student.train.steps": 12,
            "teacher.train.batch": 4,
            "student.train.batch": 4,
            "distill.losses": losses,
            "gates": "[]",
        }
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        done = subprocess.run(
            [*command, str(ROOT / "pipelines/segmentation.py"), str(config), *sets],
            cwd=tmp_path,
            env=ENVIRONMENT,
            check=False,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().count("Dice") == 1  # the table, once
        events = map(json.loads, (tmp_path / name / "journal.jsonl").read_text().splitlines())
        curves.append(
            [
                (event["run"], key, value)
                for event in events
                if event["kind"] == "metrics"
                for key, value in event["values"].items()
                if key in ("train/loss", "validation/nll")
            ]
        )
    one, two = ([(role, key) for role, key, _ in curve] for curve in curves)
    assert one == two
    assert len(one) >= 6
    values = [[value for *_, value in curve] for curve in curves]
    assert values[1] == pytest.approx(values[0], rel=0.05)


def test_alone_a_process_has_all_and_decides_alone():
    assert share(4) == slice(0, 4)
    assert agreed(True)
    assert mean({"loss": torch.tensor(2.0), "dice": torch.tensor(0.5)}) == {"loss": 2, "dice": 0.5}


@pytest.mark.parametrize(
    ("asked", "gpu", "cores", "own", "here", "expected"),
    [
        (None, False, 16, 16, 1, 1),  # the others train
        (None, True, 16, 16, 1, 12),
        (None, True, 8, 8, 2, 3),
        (None, True, 32, 8, 4, 7),  # each process has its own
        (None, True, 16, 1, 1, 1),
        (0, True, 16, 16, 1, 0),
    ],
)
def test_beside_a_gpu_most_cores_load(monkeypatch, asked, gpu, cores, own, here, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(distributed, "cores", lambda: own)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    assert workers(asked) == expected
