from pathlib import Path

import pytest

from medkd.data.quality.privacy import OF_PATIENTS
from medkd.data.start.layout import Row
from medkd.data.start.patients import with_patients
from medkd.types import Case


def known(column, values):
    rows = [
        Row(f"case{chr(97 + n)}", Path("x"), 1, attributes={column: value, "site": "n"})
        for n, value in enumerate(values)
    ]
    cases = {row.case: Case(row.case, row.image, 1, row.case) for row in rows}
    return with_patients(rows, cases, {})


@pytest.mark.parametrize(
    "column", ["patient", "Patient ID", "patientid", "subject", "inferred_subject", "PatientNo"]
)
def test_a_column_of_patients_names_them_and_is_no_attribute_any_more(column):
    rows, patients = known(column, ["p", "q", "r", "p"])
    assert patients.are_told
    assert [row.patient for row in rows] == ["p", "q", "r", "p"]
    assert all(row.attributes == {"site": "n"} for row in rows)


@pytest.mark.parametrize(
    "column", ["patient_age", "age_group", "treatment_group", "subject_sex", "persons_weight"]
)
def test_a_column_about_patients_is_none_of_patients(column):
    assert not OF_PATIENTS.fullmatch(column)
    rows, patients = known(column, ["50", "60", "70", "50"])
    assert not patients.are_told
    assert patients.how.startswith("TODO: nobody tells whose 4 of 4 cases are")
    assert len({row.patient for row in rows}) == 4
    assert column in rows[0].attributes


def test_too_few_patients_for_a_split_are_a_todo_with_the_reason():
    _, patients = known("subject", ["head", "neck", "head", "neck"])
    assert not patients.are_told
    assert patients.how.endswith("the column subject holds 2 of them, too few to be split")
