import csv
import json
import re
import shutil
from dataclasses import replace

import pytest

from medkd.config import load
from medkd.data.quality import account
from medkd.data.quality.survey import survey
from medkd.data.quality.telling import BURNED_IN, MAY_BE_BURNED_IN
from medkd.study import Study
from tests.conftest import NAMES


@pytest.fixture
def told(make_config):
    """Return a maker of a study whose files tell names, and of what a check wrote of it."""

    def make(spoil=None, *overrides):
        path = make_config(disclosing=True)
        if spoil:
            spoil(path.parent / "data")
        study = Study(load(path, overrides=overrides), config_path=path)
        found = survey(study, keep=True)
        page = account.write(study, found)
        return found, page.read_text(), page.with_suffix(".json").read_text()

    return make


def copied(data):
    """Put a training image into the test split, and spoil another."""
    shutil.copy(data / f"{NAMES[0]}-c0.nii.gz", data / f"{NAMES[0]}-c9.nii.gz")
    (data / f"{NAMES[0]}-c3-label.nii.gz").write_bytes(b"nothing")


@pytest.mark.parametrize("spoil", [None, copied], ids=["sound", "spoilt"])
def test_json_and_page_name_nobody_and_no_file(told, spoil):
    found, page, content = told(spoil)
    assert bool(found.errors) == bool(spoil)
    for name in (*NAMES, ".nii.gz", str(next(iter(found.cases.values())).image.parent)):
        assert name not in content
        assert name not in page


def test_json_counts_what_was_found(told):
    _, _, text = told(copied)
    content = json.loads(text)
    assert content["counts"]["error"] == 2
    assert [f["level"] for f in content["findings"]][:2] == ["error", "error"]
    assert {part: of["cases"] for part, of in content["split"].items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    assert all(re.match(r"(case-[0-9a-f]{16})?$", f["case"]) for f in content["findings"])


def test_the_page_needs_nothing_but_itself_and_shows_every_case(told):
    _, page, _ = told(copied)
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert not re.search(r"<script|@import|url\(", page)
    assert page.count('src="data:image/png;base64,') == 9
    assert page.count("cannot be read") == 1


@pytest.mark.parametrize("said", [BURNED_IN, MAY_BE_BURNED_IN])
def test_the_page_shows_no_case_whose_pixels_may_hold_text(make_config, said):
    path = make_config()
    study = Study(load(path), config_path=path)
    found = survey(study, keep=True)
    first = next(iter(found.cases))
    seen = found.examined[first].model_copy(update={"telling": (said,)})
    page = account.write(study, replace(found, examined=found.examined | {first: seen}))
    assert page.read_text().count('src="data:image/png;base64,') == 9
    assert page.read_text().count("may show text") == 1


def test_suspected_patients_are_a_table_that_the_config_can_name(make_config):
    path = make_config()
    data = path.parent / "data"
    with (data / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["case"] = f"person{row['patient']}_{'left' if int(row['case'][1:]) % 2 else 'right'}"
    with (data / "cases.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    hiding = ["data.patient=case", "data.split={validation: 0.2, test: 0.2}"]
    study = Study(load(path, overrides=hiding), config_path=path)
    account.write(study, survey(study, keep=True))
    suspected = study.folder / "check" / account.SUSPECTED
    naming = [hiding[1], f"data.table={suspected}", "data.patient=suspected_patient"]
    mended = survey(Study(load(path, overrides=naming), config_path=path))
    assert mended.patients == 5
    assert mended.kinships == ()


def test_on_a_page_of_many_cases_those_with_findings_come_first():
    ids = [f"c{number}" for number in range(1000)]
    shown = account._shown(["c999", "c500", "c999"], ids)
    assert shown[:2] == ["c999", "c500"]
    assert len(shown) == len(set(shown)) <= account.PICTURES
    assert len(shown) > account.PICTURES / 2
