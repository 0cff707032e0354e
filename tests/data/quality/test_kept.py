import os

import pytest

from medkd.data.quality import survey as survey_module
from medkd.data.quality.kept import Kept
from medkd.data.quality.survey import survey
from medkd.study import Study


@pytest.fixture
def study(make_config):
    """A study of ten cases, none of them read yet."""
    from medkd.config import load

    path = make_config()
    return Study(load(path), config_path=path)


@pytest.fixture
def read(monkeypatch):
    """The ids of the cases that are really read."""
    ids, real = [], survey_module.examine

    def counting(case, config, **how):
        ids.append(case.id)
        return real(case, config, **how)

    monkeypatch.setattr(survey_module, "examine", counting)
    return ids


def test_a_second_pass_reads_nothing_and_finds_the_same(study, read):
    first = survey(study, keep=True)
    assert len(read) == 10
    assert survey(study) == first
    assert len(read) == 10


def test_a_pass_that_is_not_kept_leaves_nothing_behind(study, read):
    survey(study)
    assert not study.folder.exists()


def test_a_killed_pass_goes_on_where_it_was(study, read):
    survey(study, keep=True)
    path = study.folder / "check/examined.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], lines[6][:80]]) + "\n")
    read.clear()
    survey(study)
    assert sorted(read) == ["c6", "c7", "c8", "c9"]


def test_a_file_that_changes_is_read_anew(study, read):
    image = next(iter(survey(study, keep=True).cases.values())).image
    read.clear()
    later = image.stat().st_mtime_ns + 1_000_000
    os.utime(image, ns=(later, later))
    survey(study)
    assert read == ["c0"]


def test_what_could_not_be_read_is_tried_again(study, read):
    image = next(iter(survey(study).cases.values())).image
    image.write_bytes(image.read_bytes()[:99])
    assert len(survey(study, keep=True).errors) == 1
    read.clear()
    survey(study)
    assert read == ["c0"]


def test_a_config_that_asks_something_else_reads_anew(study, tmp_path):
    found = survey(study, keep=True)
    case, seen = next(iter(found.cases.values())), next(iter(found.examined.values()))
    path = study.folder / "check/examined.jsonl"
    assert Kept(path, study.config).get(case) == seen
    data = study.config.data.model_copy(update={"labels": {"ball": 1, "core": 3}})
    assert Kept(path, study.config.model_copy(update={"data": data})).get(case) is None


@pytest.mark.parametrize("change", [{"overlapping": True}, {"ignore": 7}])
def test_labels_that_are_read_in_another_way_are_read_anew(study, read, change):
    survey(study, keep=True)
    read.clear()
    data = study.config.data.model_copy(update=change)
    survey(Study(study.config.model_copy(update={"data": data}), study.config_path))
    assert len(read) == 10
