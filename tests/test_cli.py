"""The command line as a user meets it: help, exit codes, and one message instead of a traceback."""

import csv
import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from medkd import cli
from medkd.data import nifti
from medkd.device.engine import open_engine
from medkd.errors import ConfigError, DataError, FindingsError, MissingExtraError, ReleaseError
from tests.device.node.conftest import MEDKD, free_port, wait_until
from tests.device.test_answer import BY_COMMAND, on_a_device

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "pipelines" / "segmentation.py"
VERBS = sorted(typer.main.get_command(cli.app).commands)


@pytest.fixture
def config(make_config):
    """The config of a sound study; its folder is this test's own."""
    return make_config()


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a runner of ``medkd …`` or ``pipelines/segmentation.py …``: exit code and output."""

    def run(*args, pipeline=False):
        monkeypatch.setattr(sys, "argv", ["medkd", *map(str, args)])
        try:
            runpy.run_path(str(PIPELINE), run_name="__main__") if pipeline else cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture(params=["medkd check", "pipelines/segmentation.py"])
def refused(request, command, config):
    """Return what the command says when it refuses a study; it must leave nothing behind."""

    def run(*overrides):
        pipeline = request.param != "medkd check"
        verb = [] if pipeline else ["check"]
        more = [part for override in overrides for part in ("--set", override)]
        code, said = command(*verb, config, *more, pipeline=pipeline)
        assert "Traceback" not in said
        written = {path.name for path in (config.parent / "runs").glob("*/*")}
        assert written <= (set() if pipeline else {"check", ".salt"}), "something was written"
        return code, said

    return run


class TestHelp:
    def test_names_every_verb(self):
        shown = CliRunner().invoke(cli.app, ["--help"])
        assert shown.exit_code == 0
        assert all(verb in shown.output for verb in VERBS)
        designed = "check train soften distill evaluate export bench predict report sync ui doctor"
        assert set(designed.split()) <= set(VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_of_a_verb_shows_an_example(self, verb):
        shown = CliRunner().invoke(cli.app, [verb, "--help"])
        assert shown.exit_code == 0
        assert f"Example: medkd {verb}" in " ".join(shown.output.split())


class TestUsage:
    def test_the_version_is_shown(self, command):
        assert command("--version") == (0, f"medkd {metadata.version('medkd')}\n")

    @pytest.mark.parametrize(
        "args",
        [["chekc"], ["check"], ["check", "a.yaml", "--bugdet", "full"], ["train", "a.yaml"]],
    )
    def test_a_wrong_call_exits_with_2(self, command, args):
        assert command(*args)[0] == 2

    @pytest.mark.parametrize("verb", ["soften", "distill", "export", "evaluate"])
    def test_a_stage_of_a_study_that_was_not_begun_leaves_nothing_behind(
        self, command, config, verb
    ):
        code, said = command(verb, config)
        assert code == 2
        assert f"run medkd train {config} --role teacher first" in said
        assert f"python pipelines/segmentation.py {config} for all" in said
        assert not (config.parent / "runs").exists()

    def test_the_roles_that_train_takes_are_offered(self):
        shown = CliRunner().invoke(cli.app, ["train", "--help"]).output
        assert "teacher|baseline" in shown
        assert "|student" not in shown

    def test_the_student_is_not_trained_without_its_teacher(self, command, config):
        code, said = command("train", config, "--role", "student")
        assert code == 2
        assert "medkd distill" in said

    def test_a_config_that_is_not_there_is_named(self, command, tmp_path):
        code, said = command("check", tmp_path / "none.yaml")
        assert code == 2
        assert "none.yaml: no such config file" in said

    def test_a_report_that_is_not_written_yet_is_incomplete(self, command, config):
        assert command("report", config)[0] == 2

    def test_what_is_no_release_is_bad_input(self, command, tmp_path):
        code, said = command("predict", tmp_path, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
        assert code == 3
        assert "not a release" in said

    def test_square_brackets_in_a_message_are_printed(self, command, config):
        _, said = command("check", config, "--set", "data.labels.core=[3]")
        assert "[3]" in said

    def test_debug_shows_where_an_error_comes_from(self, command, config):
        with pytest.raises(ConfigError, match="unknown key"):
            command("check", config, "--set", "studi.name=x", "--debug")


CONFIG_MISTAKES = {
    "unknown key": ("teacher.trian.steps=3", ["teacher.trian", "did you mean 'train'?"]),
    "unknown model": ("student.model.name=plain_unit", ["student.model", "'plain_unet'?"]),
    "unknown model option": ("student.model.chanels=[4]", ["student.model", "'channels'?"]),
    "unknown loss": ("distill.losses=[{name: pixel_dk}]", ["distill.losses", "'pixel_kd'?"]),
    "window that does not fit": (
        "preprocess.window=[17, 16, 16]",
        ["teacher.model", "choose a window"],
    ),
    "variable that is not set": ("data.root=$NO_SUCH_ROOT", ["NO_SUCH_ROOT", "export", "--set"]),
}


@pytest.mark.parametrize("mistake", list(CONFIG_MISTAKES))
def test_a_mistake_in_the_config_is_named_with_its_remedy(refused, mistake):
    override, words = CONFIG_MISTAKES[mistake]
    code, said = refused(override)
    assert code == 2
    for word in words:
        assert word in said


def missing(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:200])


def nan(path):
    array = nifti.read(path).array[0].copy()
    array[3, 3, 3] = np.nan
    nifti.write(path, array, affine=np.eye(4))


def other_grid(path):
    nifti.write(path, np.zeros((16, 16, 15), np.uint8), affine=np.eye(4))


def other_place(path):
    nifti.write(path, nifti.read(path).array[0], affine=np.diag([1.0, 1.0, 2.0, 1.0]))


def undeclared(path):
    nifti.write(path, np.full((16, 16, 16), 9, np.uint8), affine=np.eye(4))


DATA_MISTAKES = {
    "missing image": (missing, "c3.nii.gz", ["no such file"]),
    "truncated image": (truncated, "c3.nii.gz", ["truncated", "copy it again"]),
    "NaN": (nan, "c3.nii.gz", ["1 voxels are NaN", "repair or remove"]),
    "label on another grid": (
        other_grid,
        "c3-label.nii.gz",
        ["(16, 16, 15)", "(16, 16, 16)", "resample the label"],
    ),
    "label in another place": (other_place, "c3-label.nii.gz", ["15.00 mm", "resample the label"]),
    "undeclared value": (undeclared, "c3-label.nii.gz", ["[9]", "data.labels", "declare"]),
}


@pytest.mark.parametrize("mistake", list(DATA_MISTAKES))
def test_a_bad_case_is_named_with_its_file_and_remedy(refused, config, mistake):
    spoil, name, words = DATA_MISTAKES[mistake]
    spoil(config.parent / "data" / name)
    code, said = refused()
    assert code == FindingsError.exit_code
    for word in ("case c3", name, *words):
        assert word in said


def test_a_truncated_medmnist_file_is_named(refused, config):
    path = config.parent / "m.npz"
    np.savez(path, train_images=np.zeros((9, 9, 9), np.uint8))
    truncated(path)
    code, said = refused("data.source=m.npz")
    assert code == DataError.exit_code
    for word in ("m.npz", "truncated", "copy it again"):
        assert word in said


def test_a_patient_on_two_sides_of_a_given_split_is_named(refused, config):
    path = config.parent / "data" / "cases.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1]["part"] = "test"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    code, said = refused()
    assert code == FindingsError.exit_code
    for word in ("case c1", "patient p0", "move all cases of a patient to one side"):
        assert word in said


def test_an_image_on_two_sides_of_the_split_is_named(refused, config):
    data = config.parent / "data"
    shutil.copy(data / "c0.nii.gz", data / "c9.nii.gz")
    code, said = refused()
    assert code == FindingsError.exit_code
    assert "c0" in said
    assert "c9" in said


def test_every_bad_case_is_named_in_one_pass(refused, config):
    for number in (2, 5, 8):
        truncated(config.parent / "data" / f"c{number}.nii.gz")
    code, said = refused()
    assert code == FindingsError.exit_code
    assert "3 problems" in said
    assert all(f"case c{number}" in said for number in (2, 5, 8))


def test_a_sound_study_is_counted_and_only_the_check_is_written(command, config):
    code, said = command("check", config)
    assert code == 0
    assert "10 cases of 5 patients are sound: 6 train, 2 validation, 2 test" in said
    assert {path.name for path in (config.parent / "runs/tiny").iterdir()} == {"check", ".salt"}
    assert command("distill", config)[0] == 2  # a check alone begins no study


def test_the_other_pipeline_is_named(make_config, command):
    code, said = command(make_config(dims=2, task="classification"), pipeline=True)
    assert code == 2
    assert "pipelines/classification.py" in said


@pytest.mark.parametrize(
    "start",
    [[Path(sys.executable).with_name("medkd"), "check"], [sys.executable, PIPELINE]],
    ids=["medkd", "pipeline"],
)
def test_a_process_of_its_own_ends_with_the_code_of_the_error(config, start):
    (config.parent / "data" / "c3.nii.gz").unlink()
    done = subprocess.run([*start, config], check=False, capture_output=True, text=True)
    assert done.returncode == FindingsError.exit_code == 1
    assert done.stderr.startswith("error: case c3")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "verb", ["check", "train --role teacher", "soften", "distill", "export", "evaluate"]
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(config, verb):
    done = on_a_device(BY_COMMAND, *verb.split(), config)
    assert done.returncode == MissingExtraError.exit_code
    missing = r"(torch|scipy) is not installed; pip install '\.\[train\]' in your clone of medkd"
    assert re.search(missing, done.stderr)
    assert "Traceback" not in done.stderr


class TestPredict:
    def test_answers_for_what_it_can_and_names_what_it_cannot(self, command, released, tmp_path):
        study, cohort = released
        (case, other) = cohort.of(cohort.split.test)
        inputs = tmp_path / "in"
        inputs.mkdir()
        shutil.copy(case.image, inputs)
        truncated(Path(shutil.copy(other.image, inputs)))
        code, said = command("predict", study.path("releases/student"), inputs, tmp_path / "out")
        assert code == 3
        assert "1 answered, 1 failed" in said
        assert other.image.name in said
        (mask,) = (tmp_path / "out").glob("*.nii.gz")
        assert nib.load(mask).shape == (16, 16, 16)

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_the_runtime_that_is_chosen_is_used(
        self, command, released, tmp_path, monkeypatch, runtime
    ):
        opened = []

        def spied(weights, runtime, **options):
            opened.append(runtime)
            return open_engine(weights, runtime, **options)

        monkeypatch.setattr("medkd.device.predictor.open_engine", spied)
        study, cohort = released
        release, (case, _) = study.path("releases/student"), cohort.of(cohort.split.test)
        mask = tmp_path / "mask.nii.gz"
        code, said = command("predict", release, case.image, mask, "--runtime", runtime)
        assert code == 0, said
        assert opened == [runtime]
        assert mask.exists()

    def test_a_runtime_that_the_release_is_not_for_is_refused(self, command, released, tmp_path):
        study, cohort = released
        release, (case, _) = study.path("releases/student"), cohort.of(cohort.split.test)
        asked = ["--runtime", "openvino-bf16"]
        code, said = command("predict", release, case.image, tmp_path / "mask.nii.gz", *asked)
        assert code == ReleaseError.exit_code
        assert "released for onnxruntime, openvino, not for openvino-bf16" in " ".join(said.split())
        assert not list(tmp_path.iterdir())
        asked = ["--runtime", "abacus"]
        assert command("predict", release, case.image, tmp_path / "mask.nii.gz", *asked)[0] == 2

    def test_an_image_unlike_the_validated_is_refused_if_that_is_asked(
        self, command, released, tmp_path
    ):
        study, cohort = released
        release, (case, _) = study.path("releases/student"), cohort.of(cohort.split.test)
        thick, mask = tmp_path / "thick.nii.gz", tmp_path / "mask.nii.gz"
        nifti.write(thick, nifti.read(case.image).array[0], affine=np.diag([1.0, 1.0, 6.0, 1.0]))
        verdict = "unlike the validated data: spacing of axis 2: 6 mm, expected 1-1"
        code, said = command("predict", release, thick, mask, "--strict")
        assert code == DataError.exit_code
        assert f"thick.nii.gz: refused: {verdict}" in " ".join(said.split())
        assert not mask.exists()
        code, said = command("predict", release, thick, mask)
        assert code == 0
        assert verdict in " ".join(said.split())
        assert mask.exists()


class TestBench:
    def test_measures_releases_side_by_side(self, command, released, tmp_path):
        study, cohort = released
        releases = [study.path(f"releases/{role}") for role in ("teacher", "student")]
        (case, _) = cohort.of(cohort.split.test)
        code, said = command(
            "bench",
            *releases,
            "--image",
            case.image,
            "--queries",
            1,
            "--json",
            tmp_path / "bench.json",
        )
        assert code == 0
        assert all(str(release) in said for release in releases)
        told = json.loads((tmp_path / "bench.json").read_text())
        assert [each["release"] for each in told] == list(map(str, releases))

    def test_a_missing_image_is_named_in_one_line(self, command, released, tmp_path):
        study, _ = released
        release = study.path("releases/student")
        code, said = command("bench", release, "--image", tmp_path / "nope.nii.gz")
        assert code == DataError.exit_code
        assert said.splitlines()[-1] == f"error: {tmp_path / 'nope.nii.gz'}: no such file"
        assert "Traceback" not in said

    @pytest.mark.parametrize(
        "option", [("--threads", 0), ("--queries", 0), ("--json", "gone/b.json")]
    )
    def test_what_cannot_be_measured_is_refused_before(self, command, released, tmp_path, option):
        study, _ = released
        image = tmp_path / "nope.nii.gz"
        code, said = command("bench", study.path("releases/student"), "--image", image, *option)
        assert code == 2
        assert option[0] in said


@pytest.mark.slow
def test_the_verbs_one_by_one_make_a_whole_study(command, config, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{config.parent}/mlflow.db")
    verbs = ["train --role teacher", "soften", "train --role baseline", "distill", "export"]
    for verb in [*verbs, "evaluate", "report"]:
        name, *options = verb.split()
        code, said = command(name, config, *options)
        assert code == (2 if verb == "report" else 0), f"{verb}: {said}"
    assert "INCOMPLETE" in said
    assert "no tiny.report.yaml" in said.replace("\n", " ")

    code, said = command("report", config, "--template")
    assert code == 0
    statement = config.with_name("tiny.report.yaml")
    assert command("report", config)[0] == 2, "a template answers nothing"
    code, said = command("report", config, "--sign-off")
    assert code == 2
    assert "INCOMPLETE, so it cannot be signed off" in said.replace("\n", " ")
    answers = dict.fromkeys(yaml.safe_load(statement.read_text()), "said")
    statement.write_text(yaml.safe_dump(answers | {"signed_on": "2026-01-31"}))
    code, said = command("report", config)
    assert (code, "READY FOR REVIEW" in said) == (0, True), said
    assert command("report", config, "--sign-off")[0] == 0
    study = config.parent / "runs/tiny"
    made = {"report.html", "report.json", "model_card.md", "sbom.cdx.json"}
    assert made <= {path.name for path in study.iterdir()}

    code, said = command("report", "--compare", study, study)
    assert code == 0, said
    assert (study / "changes.html").is_file()


def test_a_report_needs_a_config_or_two_studies(command):
    code, said = command("report")
    assert code == 2
    assert "--compare" in said


@pytest.mark.parametrize("said", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_part_that_is_none_is_refused(said):
    with pytest.raises(ConfigError, match=rf"--part {said}: give K/N"):
        cli._part(said)


def test_a_part_is_told_as_one_of_several():
    assert [cli._part(said) for said in ("1/1", "2/16")] == [(1, 1), (2, 16)]


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_is_none_is_refused(port):
    refused = CliRunner().invoke(cli.app, ["ui", "--port", port])
    assert refused.exit_code == 2
    assert "--port" in refused.output


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes here")
def test_who_stops_the_ui_stops_all_of_its_server(tmp_path):
    command = [sys.executable, "-c", MEDKD, "ui", "--port", str(free_port())]
    log = tmp_path / "log"
    with log.open("w") as said:
        server = subprocess.Popen(
            command, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
        )
    try:
        wait_until(lambda: "startup complete" in log.read_text(), seconds=120)
        server.terminate()
        server.wait(60)
        wait_until(lambda: not _is_alive(server.pid))
    finally:
        if _is_alive(server.pid):
            os.killpg(server.pid, signal.SIGKILL)


def _is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_warnings_are_shown_whatever_else_has_quietened_all_but_errors(caplog):
    caplog.set_level(logging.ERROR)
    caplog.handler.setLevel(logging.NOTSET)
    cli.guarded(lambda: logging.getLogger("medkd.track.journal").warning("tracking has a gap"))
    assert "tracking has a gap" in caplog.text
