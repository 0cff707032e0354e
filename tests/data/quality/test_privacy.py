from pathlib import Path

import pytest

from medkd.config import load
from medkd.data.findings import Level
from medkd.data.quality.examine import Examined
from medkd.data.quality.privacy import identifying, may_be_drawn, personal
from medkd.data.quality.telling import BURNED_IN, MAY_BE_BURNED_IN, looks_like
from medkd.types import Case

SECRETS = ("Doe", "19560304", "1956-03-04", "MRN0042", "Mercy")


@pytest.fixture
def config(make_config):
    return load(make_config())


def found(config, *, case="c1", label=None, patient="p1", attributes=None, told=()):
    cases = {case: Case(case, config.folder / "a.nii", label, patient, attributes or {})}
    return list(identifying(cases, {case: Examined(telling=told)}, config))


def test_headers_are_told_once_for_all_cases(config):
    warning, note = found(config, told=("PatientName", "StudyDate", "NIfTI descrip: a name"))
    assert warning.level is Level.WARNING
    assert "1 of 1 cases say who a patient is: NIfTI descrip: a name, PatientName" in warning.text
    assert note.level is Level.NOTE
    assert "StudyDate" in note.text


def test_burned_in_text_is_an_error_of_its_case(config):
    (error,) = found(config, told=(BURNED_IN,))
    assert (error.level, error.case) == (Level.ERROR, "c1")


@pytest.mark.parametrize("said", [BURNED_IN, MAY_BE_BURNED_IN])
def test_pixels_that_show_text_perhaps_are_drawn_once_that_is_allowed(config, said):
    seen, data = Examined(telling=(said,)), config.data.model_copy(update={"burned_in": "allow"})
    allowing = config.model_copy(update={"data": data})
    assert (may_be_drawn(seen, config), may_be_drawn(seen, allowing)) == (False, True)
    assert found(config, told=(said,))
    assert not found(allowing, told=(said,))
    assert may_be_drawn(Examined(telling=("PatientID",)), config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": "DOE^JANE"}, "1 case ids seem to hold a name"),
        ({"label": Path("DOE^JANE.nii.gz")}, "1 names of files or folders seem to hold a name"),
        ({"patient": "19560304"}, "1 patient ids seem to hold a date"),
        ({"attributes": {"surname": "Doe"}}, "the column 'surname' goes by a name that speaks"),
        ({"attributes": {"seen": "1956-03-04"}}, "the column 'seen' seems to hold a date"),
        ({"attributes": {"site": "Mercy", "sex": "F"}}, None),
    ],
)
def test_names_and_columns_are_notes(config, changes, message):
    notes = found(config, **changes)
    assert [note.level for note in notes] == ([Level.NOTE] if message else [])
    assert not message or message in notes[0].text
    assert not any(secret in note.line for note in notes for secret in SECRETS)


@pytest.mark.parametrize("pattern", ["DOE^JANE*", "*1956-03-04*", "*19560304*"])
def test_a_rule_that_a_release_would_carry_is_an_error(make_config, pattern):
    rule = "preprocess.reading.series={description: '%s'}"
    (error,) = found(load(make_config(), overrides=[rule % pattern]))
    assert error.level is Level.ERROR
    assert "series.description seems to hold a" in error.message
    assert not any(secret in error.line for secret in (*SECRETS, "DOE"))
    assert not found(load(make_config(), overrides=[rule % "*T1*"]))


@pytest.mark.parametrize("name", ["DOE^JANE", "seen by Dr Roe", "1956-03-04"])
def test_a_class_that_a_report_would_name_is_an_error(config, name):
    named = config.data.model_copy(update={"labels": {"liver": 1, name: 2}})
    (error,) = found(config.model_copy(update={"data": named}))
    assert (error.level, error.message[:23]) == (Level.ERROR, "name 2 of data.labels s")
    assert name not in error.line


def test_a_group_that_a_report_would_name_is_an_error(make_config):
    config = load(make_config(), overrides=["evaluate.subgroups=[birth_date]"])
    (error,) = found(config, attributes={"birth_date": "1956-03-04"})
    assert error.level is Level.ERROR
    assert "evaluate.subgroups" in error.remedy


@pytest.mark.parametrize(
    ("column", "is_personal"),
    [
        *((name, True) for name in ("patient_id", "Patient", "surname", "Referring Physician")),
        *(
            (name, True)
            for name in (
                "Operator",
                "operator_id",
                "scan_operator",
                "pid",
                "anon_patient_id",
                "inferred_patient",
            )
        ),
        *((name, False) for name in ("Patient Age", "patient_sex", "subject_age", "operator_type")),
    ],
)
def test_columns_are_personal_by_what_they_name(column, is_personal):
    assert bool(personal(column, ["1", "2"])) is is_personal


def test_words_of_medicine_are_no_names():
    words = ["DR mild", "dr severe", "MR flair", "MR contrast", "MR brain"]
    assert not any(map(looks_like, words))
