"""Every code block of the README is run, as it stands, from the folder of a new user.

Only numbers are made smaller: the networks of the example config and the steps of the studies.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from medkd.config import load
from medkd.data import nifti
from medkd.data.datalist import read_datalist
from medkd.distill.objective import FEATURE_LOSSES, LOSSES
from medkd.options import ExternalOptions
from medkd.study import Study
from medkd.train.check_models import check_models
from tests.conftest import ball

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv" / "bin"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
TEXTS = [text for _, text in BLOCKS]
DEMO, TEST, ACTIVATE, TABLE, PATIENTS, CONFIG, STUDY, ANSWER, PYTHON, STUDIES, LAYOUT = TEXTS[:11]
EVALUATE, TEACHERS, LAYERS = TEXTS[11:]
SMALL = {
    "teacher": {"model": {"filters": [4, 8, 8]}, "train": {"steps": 4}},
    "student": {"model": {"channels": [4, 8]}, "train": {"steps": 4}},
    "preprocess": {"window": [16, 16, 16]},
    "latency": {"queries": 2},
}


def shell(line, folder, **more):
    """Run a line as a new user would, whose home holds ``my_data`` and ``data``."""
    # only what the README says may put the environment on the path
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != str(BIN))
    ours = {"MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"}  # of these tests, not of a user
    values = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=values | {"HOME": str(folder), "PATH": path} | more,
        capture_output=True,
        text=True,
        check=False,
    )


def activated(line, folder):
    """Run a line as ``shell`` does, after the README's line that activates the environment."""
    return shell(ACTIVATE + line, folder)


def checkout(folder):
    """Give ``folder`` what a clone of the repository holds."""
    for name in (".venv", "Makefile", "configs", "data_cards", "medkd", "pipelines"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("pyproject.toml", "constraints.txt"):  # old, so that make installs nothing anew
        shutil.copy(ROOT / name, folder / name)
        os.utime(folder / name, (0, 0))
    return folder


def test_every_block_is_one_that_is_tested_here():
    assert [language for language, _ in BLOCKS] == [
        *("bash", "bash", "bash", "csv", "csv", "yaml", "bash", "bash", "python", "bash", ""),
        *("yaml", "yaml", "yaml"),
    ]


@pytest.mark.parametrize("block", [DEMO, TEST])
def test_the_two_commands_are_targets_with_a_line_of_help(block):
    make, target = block.split()
    assert make == "make"
    subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, check=True)
    shown = subprocess.run([make, "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^{target} +\w", shown.stdout, flags=re.MULTILINE)


def test_an_active_environment_has_the_commands_of_the_readme(tmp_path):
    folder = checkout(tmp_path)
    for name in ("medkd", "python"):
        assert shell(f"command -v {name}", folder).stdout.strip() != str(BIN / name)
        found = activated(f"command -v {name}", folder).stdout.strip()
        assert found == str(BIN / name), f"{BIN}/activate belongs to another clone: make clean test"


def write_own_data(folder):
    """Write the table of the README, with more patients of the same kind, and its images."""
    folder.mkdir()
    header, *rows = TABLE.splitlines()
    more = [
        f"images/{n}.nii.gz,labels/{n}.nii.gz,patient-{n:02d},{'north' if n % 2 else 'south'}"
        for n in range(3, 11)
    ]
    (folder / "cases.csv").write_text("\n".join([header, *rows, *more]) + "\n")
    for number, row in enumerate([*rows, *more]):
        image, label, *_ = row.split(",")
        intensities, structures = ball(3, seed=number)
        affine = np.diag([1.5, 1.5, 1.5, 1])
        nifti.write(folder / image, intensities.astype(np.float32), affine=affine)
        nifti.write(folder / label, structures.astype(np.uint8), affine=affine)
    return folder / image


def smaller(values, numbers):
    """Put smaller numbers in their place; a name that the README does not use is an error."""
    return values | {
        key: smaller(values.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in numbers.items()
    }


def test_the_config_is_right_as_it_stands(tmp_path):
    (tmp_path / "my_study.yaml").write_text(CONFIG)
    config = load(tmp_path / "my_study.yaml")
    assert config.study.name == "my_study"
    assert set(TABLE.splitlines()[0].split(",")) >= {"image", "label", config.data.patient}


def with_section(folder, block):
    """Put a section in the place of the example's."""
    path = folder / "my_study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(CONFIG) | yaml.safe_load(block)))
    return load(path)


def test_what_is_asked_of_the_answers_fits_the_config(tmp_path):
    evaluated = with_section(tmp_path, EVALUATE).evaluate
    assert [group.structure for group in evaluated.subgroups] == [None, None, "lesion"]
    assert evaluated.lesions == ("lesion",)


def test_the_teachers_that_are_brought_along_fit_the_config(tmp_path):
    config = with_section(tmp_path, TEACHERS)
    kinds = [external.kind for external in config.teacher.external]
    assert sorted(kinds) == sorted(get_args(ExternalOptions.model_fields["kind"].annotation))
    assert set(config.classes) == set(config.teacher.external[2].classes)


def test_the_layers_are_those_of_the_example(tmp_path):
    check_models(with_section(tmp_path, LAYERS))


def test_every_loss_and_no_other_is_listed():
    section = README.partition("## What a student can be told")[2].partition("All take")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE)) == {
        *LOSSES,
        *FEATURE_LOSSES,
    }


def test_a_decathlon_data_set_is_read_with_the_table_and_the_entry_of_the_readme(tmp_path):
    (tmp_path / "patients.csv").write_text(PATIENTS + "liver_131,patient-03,north\n")
    names = [line.partition(",")[0] for line in PATIENTS.splitlines()[1:]]
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    unlabelled = json.loads(re.search(r"`(\{\"image\".*?\})`", README)[1])
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [*listed, unlabelled]}))
    (tmp_path / "my_study.yaml").write_text(CONFIG)
    where = [f"data.root={tmp_path}", "data.source=dataset.json", "data.table=patients.csv"]
    config = load(tmp_path / "my_study.yaml", overrides=where)
    cases = read_datalist(Study(config, config_path=tmp_path / "my_study.yaml"))
    assert [case.id for case in cases] == [*names, "liver_131"]
    assert [case.label is None for case in cases] == [False] * len(names) + [True]
    assert [case.attributes["site"] for case in cases] == ["north", "north", "south", "north"]


@pytest.fixture(scope="module")
def own_study(tmp_path_factory):
    """The folder of a user who has followed "Your own data" up to the report."""
    folder = checkout(tmp_path_factory.mktemp("user"))
    scan = write_own_data(folder / "my_data")
    (folder / "folder_of_scans").mkdir()
    for copy in ("scan.nii.gz", "folder_of_scans/one.nii.gz", "folder_of_scans/two.nii.gz"):
        (folder / copy).write_bytes(scan.read_bytes())
    values = smaller(yaml.safe_load(CONFIG), SMALL)
    (folder / "my_study.yaml").write_text(yaml.safe_dump(values))
    for line in STUDY.splitlines():
        done = activated(line, folder)
        # networks of four steps fail their gates, or have too few patients to be judged
        judged = {0, 1, 2} if "report" in line else {0}
        assert done.returncode in judged, f"{line}: {done.stdout}{done.stderr}"
    return folder


@pytest.mark.slow
def test_the_student_answers_on_the_command_line_and_in_python(own_study):
    for line in ANSWER.splitlines():
        done = activated(line, own_study)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    assert (own_study / "mask.nii.gz").is_file()
    told = {f"{name}{kind}" for name in ("one", "two") for kind in (".nii.gz", ".json")}
    assert {path.name for path in (own_study / "masks").iterdir()} == told | {"summary.json"}
    (own_study / "block.py").write_text(PYTHON + "print(mask.shape)\n")
    done = activated("python block.py", own_study)
    assert done.stdout.strip() == "(16, 16, 16)", done.stderr


@pytest.mark.slow
def test_a_study_lies_on_disk_as_drawn(own_study):
    head, *tree = LAYOUT.splitlines()
    assert head == "runs/<study>/"
    names = [name for line in tree for name in re.split(r"\s{3,}", line.strip())[0].split()]
    assert "soft_targets/" in names
    for name in set(names) - {"data/"}:  # only for sources that are written as files first
        assert (own_study / "runs/my_study" / name).exists(), name


def test_docker_installs_what_the_readme_says():
    dockerfile = (ROOT / "Dockerfile").read_text()
    extras = re.search(r"^ARG EXTRAS=(\S+)$", dockerfile, re.MULTILINE)[1]
    written = dockerfile.replace('".[$EXTRAS]"', f"'.[{extras}]'")
    steps = re.findall(r"^RUN (pip install .*)$", written, re.MULTILINE)
    assert len(steps) == 2
    for step in steps:
        assert "-c constraints.txt " in step
        said = step.replace("--no-cache-dir ", "").replace("-c constraints.txt ", "")
        assert f"`{said}`" in README
