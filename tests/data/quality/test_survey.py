import json
import shutil

import numpy as np
import pytest

from medkd.config import Config
from medkd.data import nifti
from medkd.data.findings import Level
from medkd.data.quality import survey as module
from medkd.data.quality.survey import survey
from medkd.study import Study
from tests.data.test_check import AFFINE, SPLIT, write_case


@pytest.fixture
def study(tmp_path, make_study):
    """Return a maker of a study of eight cases of four patients."""
    lines = ["case,image,label,patient"]
    for number in range(8):
        write_case(tmp_path, f"c{number}", seed=number)
        lines.append(f"c{number},c{number}.nii.gz,c{number}-label.nii.gz,p{number // 2}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    return lambda **split: make_study(data={"split": SPLIT | split})


def in_memory(study, size):
    """Return the study with so many bytes that a file may take."""
    values = study.config.model_dump()
    values["preprocess"]["reading"]["memory_gib"] = size / 2**30
    return Study(Config.model_validate(values), config_path=study.config_path)


def test_every_case_is_examined_and_dealt(study):
    found = survey(study())
    assert list(found.cases) == list(found.examined) == [f"c{number}" for number in range(8)]
    assert found.patients == 4
    assert not found.errors
    dealt = [case for part in vars(found.split).values() for case in part]
    assert sorted(dealt) == sorted(found.cases)
    assert set(found.strata) == {f"p{number}" for number in range(4)}


def test_findings_of_all_kinds_come_worst_first(study, tmp_path):
    (tmp_path / "c3.nii.gz").write_bytes(b"damaged")
    found = survey(study())
    assert [finding.case for finding in found.errors] == ["c3"]
    order = [list(Level).index(finding.level) for finding in found.findings]
    assert order == sorted(order)


def test_what_was_seen_is_remembered_until_a_file_changes(study, tmp_path, monkeypatch):
    seen = []
    examine = module.examine
    monkeypatch.setattr(module, "examine", lambda *a, **k: seen.append(a[0].id) or examine(*a, **k))
    first = survey(study(), keep=True)
    assert len(seen) == 8
    assert survey(study()).examined == first.examined
    assert len(seen) == 8
    write_case(tmp_path, "c5", seed=99)
    after = survey(study())
    assert seen[8:] == ["c5"]
    assert after.digest_of(["c5"]) != first.digest_of(["c5"])
    assert after.digest_of(["c4"]) == first.digest_of(["c4"])


def test_cases_that_are_read_at_once_share_the_memory_of_one(study, tmp_path, monkeypatch):
    size = 8 * 48**3
    nifti.write(
        tmp_path / "c3.nii.gz", np.random.default_rng(0).normal(size=(48,) * 3), affine=AFFINE
    )
    nifti.write(tmp_path / "c3-label.nii.gz", np.ones((48,) * 3, np.uint8), affine=AFFINE)
    whole, asked = survey(study()), []
    examine = module.examine
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(
        module,
        "examine",
        lambda case, *a, **k: asked.append((case.id, k["at_once"])) or examine(case, *a, **k),
    )
    assert survey(in_memory(study(), size)).examined == whole.examined
    assert [at_once for case, at_once in asked if case == "c3"] == [8, 2, 1]
    assert [at_once for case, at_once in asked if case != "c3"] == [8] * 7
    (error,) = survey(in_memory(study(), size - 1)).errors
    assert (error.case, error.message[:5]) == ("c3", "takes")


def test_a_study_that_is_only_looked_at_leaves_nothing_behind(study):
    survey(study())
    assert not study().folder.exists()


def test_labels_that_are_to_be_hidden_are_gone(study):
    found = survey(study(labelled=2))
    train = [found.cases[case] for case in found.split.train]
    hidden = [case.id for case in train if case.label is None]
    assert len(train) - len(hidden) == 2
    assert all(found.examined[case].voxels == {} for case in hidden)
    assert all(found.cases[case].label for case in found.split.test)


def test_a_split_that_is_none_is_a_finding(study):
    found = survey(study(column="part"))
    assert found.split is None
    assert found.balance == ()
    assert found.errors


@pytest.fixture
def given(study, tmp_path):
    """Return a maker of a study that is given the split of another one."""

    def make(**split):
        first = study(**split)
        found = survey(first)
        first.begin(found.split, digests=found.part_digests)
        (first.folder / "split.json").rename(tmp_path / "given.json")
        return study(file="given.json")

    return make


@pytest.mark.parametrize("labelled", [None, 1])
def test_a_split_of_the_same_files_is_taken_in_whatever_order_and_whoever_hides_labels(
    given, study, tmp_path, labelled
):
    second = given(labelled=labelled)
    assert not survey(second).errors
    assert not survey(study(file="given.json", labelled=2)).errors
    header, *lines = (tmp_path / "cases.csv").read_text().splitlines()
    (tmp_path / "cases.csv").write_text("\n".join([header, *lines[::-1]]))
    assert not survey(second).errors


@pytest.mark.parametrize("file", ["{}.nii.gz", "{}-label.nii.gz"])
def test_a_split_whose_files_have_changed_is_an_error(given, tmp_path, file):
    second = given()
    case = survey(second).split.test[0]
    donor = next(i for i in survey(second).cases if i != case)
    shutil.copy(tmp_path / file.format(donor), tmp_path / file.format(case))
    (error,) = survey(second).errors
    assert error.message.endswith("the files of the test split are not those it was made of")
    assert "remove `digests`" in error.remedy
    told = json.loads((tmp_path / "given.json").read_text())
    del told["digests"]
    (tmp_path / "given.json").write_text(json.dumps(told))
    assert not survey(second).errors
