"""A whole study through the command a user types, killed once on its way."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medkd.data import nifti
from medkd.device.answer import answer
from tests.conftest import NAMES, disclose, tiny_values, write_cases

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "pipelines" / "segmentation.py")]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_study(folder, *, name):
    values = tiny_values(folder, dims=3, task="segmentation")
    values["study"]["name"] = name
    values["gates"] = [{"figure": "parameters", "over": "teacher", "at_most": 1.0}]
    (folder / "data").mkdir(exist_ok=True)
    if not (folder / "data" / "cases.csv").exists():
        write_cases(folder / "data", dims=3, task="segmentation")
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def environment(folder):
    return os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}


def run(config, folder, *more):
    return subprocess.run(
        [*COMMAND, str(config), *more],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def run_and_kill(config, folder, *, when):
    """Start a study and kill it hard once ``when`` exists."""
    process = subprocess.Popen(
        [*COMMAND, str(config)],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not when.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the study ended before it could be killed"


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_like_an_undisturbed_one(tmp_path):
    killed, undisturbed = (write_study(tmp_path, name=name) for name in ("killed", "undisturbed"))
    run_and_kill(killed, tmp_path, when=tmp_path / "runs/killed/teacher/fold-0.partial/last.pt")
    run_and_kill(killed, tmp_path, when=tmp_path / "runs/killed/student.partial/last.pt")
    for config in (killed, undisturbed):
        done = run(config, tmp_path)
        assert done.returncode == 0, done.stderr
    for role in ("teacher/fold-0", "baseline", "student"):
        weights = [
            tmp_path / "runs" / n / role / "weights.safetensors" for n in ("killed", "undisturbed")
        ]
        assert digest(weights[0]) == digest(weights[1]), role

    again = run(killed, tmp_path)
    assert again.returncode == 0
    for stage in ("teacher/fold-0", "soft_targets", "baseline", "student"):
        assert f"{stage}: made before, and kept" in again.stdout, "it was made again"

    report = json.loads((tmp_path / "runs/killed/report.json").read_text())
    assert report["test_openings"] == 1
    assert report["verdict"] == "INCOMPLETE", "nobody has stated what only people know"
    assert all(gate["passed"] for gate in report["gates"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_stops_a_study_without_a_traceback(tmp_path, number, code):
    config = write_study(tmp_path, name="stopped")
    endless = ["--set", "teacher.train.steps=1000000", "--set", "teacher.train.workers=1"]
    process = subprocess.Popen(
        [*COMMAND, str(config), *endless],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    study = tmp_path / "runs/stopped"
    deadline = time.monotonic() + 120
    while not (study / "teacher/fold-0.partial/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "run the same command again" in said
    events = map(json.loads, (study / "journal.jsonl").read_text().splitlines())
    statuses = [(e["run"], e["values"]["status"]) for e in events if e["kind"] == "status"]
    assert statuses[-2:] == [("study", "KILLED"), ("teacher", "KILLED")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study whose ids, dates and file names tell who the patients are."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_study(folder, name="tiny")
    disclose(folder / "data")
    done = run(config, folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_every_release_answers_on_the_images_own_grid(finished, tmp_path):
    folder, _ = finished
    affine = np.array([[0, 0, 3.0, 5], [-1.0, 0, 0, 7], [0, 2.0, 0, -9], [0, 0, 0, 1]])
    image = np.random.default_rng(0).normal(size=(20, 14, 18)).astype(np.float32)
    nifti.write(tmp_path / "new.nii.gz", image, affine=affine)
    for role in ("teacher", "student", "baseline"):
        mask = tmp_path / f"{role}.nii.gz"
        summary = answer(folder / "runs/tiny/releases" / role, tmp_path / "new.nii.gz", mask)
        assert not summary.failed
        read = nib.load(mask)
        assert read.shape == image.shape
        np.testing.assert_allclose(read.affine, affine, atol=1e-5)


COSTS = "latency_p50_ms latency_p90_ms latency_p99_ms peak_memory_mib parameters macs"
FIGURES = {
    *(f"final/{name}" for name in f"dice nsd hd95_mm ece brier nll {COSTS}".split()),
    *(f"validation/{name}" for name in ("dice", "nll", "dice/ball", "dice/core")),
    *("train/loss", "train/dice_loss", "train/cross_entropy"),
    *("train/learning_rate", "time/epoch_s", "calibration/temperature"),
}
OWN_TERMS = {"teacher": set(), "baseline": set(), "student": {"train/pixel_kd"}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.parametrize("role", list(OWN_TERMS))
def test_mlflow_holds_every_name_that_a_user_relies_on(finished, role):
    import mlflow

    folder, _ = finished
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'medkd/tiny'")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.data.tags["medkd.role"] == role]

    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= FIGURES | OWN_TERMS[role]
    assert run.data.params.keys() >= {"model", "steps", "learning_rate", "parameters", "seed"}

    def files(folder=None):
        return {file.path for file in client.list_artifacts(run.info.run_id, folder)}

    assert "options.yaml" in files()
    assert files("calibration") == {f"calibration/reliability-{role}.png"}
    pictured = {re.sub(r"-case-\w{16}\.png$", "", Path(name).name) for name in files("overlays")}
    assert {"best", "median", "worst-1"} <= pictured

    report = json.loads((folder / "runs/tiny/report.json").read_text())
    seen = {
        data.tags[0].value: (data.dataset.name, data.dataset.digest)
        for data in run.inputs.dataset_inputs
    }
    parts = report["split"].items()
    assert seen == {name: ("cases", part["digest"]) for name, part in parts}


@pytest.mark.slow
def test_nothing_about_a_patient_leaves_the_study_folder(finished):
    folder, done = finished
    study = folder / "runs" / "tiny"
    leaving = [folder / "mlflow.db", study / "journal.jsonl", study / "report.json"]
    leaving += [study / name for name in ("report.html", "model_card.md", "sbom.cdx.json")]
    leaving += [study / "shared/report.json", *study.glob("releases/*/*")]
    leaving += [p for p in (folder / "mlartifacts").rglob("*") if p.is_file()]
    assert len(leaving) > 20
    for path in leaving:
        content = path.read_bytes() + path.name.encode()
        # a store in a folder knows where it keeps its own artifacts
        here = folder / "data" if path.name in ("mlflow.db", "MLmodel") else folder
        for name in (*NAMES, str(here)):
            assert name.encode() not in content, f"{name} in {path}"
    assert not any(name in done.stdout + done.stderr for name in NAMES)
