from dataclasses import replace

import pytest

from medkd.evaluate import assemble
from medkd.evaluate.run import evaluate
from medkd.results import Verdict
from medkd.types import Role
from tests.conftest import NAMES


@pytest.fixture(scope="module")
def evaluated(released):
    """A study, its cohort and its report."""
    study, cohort = released
    return study, cohort, evaluate(study, cohort)


def test_the_verdict_is_that_of_gates_and_people(evaluated):
    report = evaluated[2]
    (gate,) = report.gates
    expected = report.roles[Role.STUDENT].parameters / report.roles[Role.TEACHER].parameters
    assert gate.judged == pytest.approx(expected)
    assert gate.passed
    # the gates are met, and nobody has stated what only people know
    assert report.verdict is Verdict.INCOMPLETE
    assert "tiny.report.yaml" in report.reasons[0]


def test_nothing_leaks_and_the_report_says_so(evaluated):
    leakage = evaluated[2].leakage
    assert leakage
    assert set(leakage.values()) == {0}


def test_what_lies_on_two_sides_is_counted(evaluated):
    _, cohort, _ = evaluated
    leaking, held = cohort.split.train[0], cohort.split.test[0]
    moved = replace(cohort.cases[held], patient=cohort.cases[leaking].patient)
    copied = cohort.images | {held: cohort.images[leaking]}
    leaks = assemble._leakage(replace(cohort, cases=cohort.cases | {held: moved}, images=copied))
    assert leaks == {
        "patients in more than one part": 1,
        "identical images in more than one part": 1,
    }


def test_no_patient_no_case_and_no_path_is_in_the_report(evaluated):
    study, cohort, _ = evaluated
    text = (study.folder / "report.json").read_text()
    case = next(iter(cohort.cases.values()))
    assert NAMES[0] in case.id
    assert NAMES[2] in case.patient
    for name in (*NAMES, str(study.folder.parent)):
        assert name not in text


def test_pictures_are_measured_in_pixels_and_the_report_says_so(evaluated):
    study, cohort, report = evaluated
    said = "Pictures have no spacing"
    assert not any(note.startswith(said) for note in report.notes)
    pictures = {
        name: replace(case, image=case.image.with_suffix(".png"))
        for name, case in cohort.cases.items()
    }
    notes = assemble._notes(study, replace(cohort, cases=pictures))
    assert any(note.startswith(said) for note in notes)


def test_images_that_were_mended_are_counted_by_how_without_their_ids(evaluated):
    study, cohort, report = evaluated
    assert not any("mended" in note for note in report.notes)
    slices = "resample_missing: 1 slices, 2.50 mm from the first"
    mended = {
        cohort.split.train[0]: (slices, "shear_correct: 12 degrees"),
        cohort.split.train[1]: (slices,),
        cohort.split.test[0]: (slices,),
    }
    notes = assemble._notes(study, replace(cohort, mended=mended))
    (note,) = (note for note in notes if "mended" in note)
    assert "3 images were mended while they were read, 1 of the test split" in note
    assert "resample_missing in 3, shear_correct in 1 (preprocess.reading)" in note
    assert not any(name in note for name in NAMES)


def test_soft_targets_in_fold_are_noted(evaluated):
    assert any(note.startswith("Soft targets are in fold") for note in evaluated[2].notes)


@pytest.mark.parametrize(
    ("data", "noted"),
    [({}, False), ({"patient": "case"}, True), ({"source": "m.npz"}, True)],
    ids=str,
)
def test_a_data_set_that_names_no_patients_is_noted(evaluated, data, noted):
    study, cohort, _ = evaluated
    data = study.config.data.model_copy(update=data)
    config = study.config.model_copy(update={"data": data})
    notes = assemble._notes(replace(study, config=config), cohort)
    assert any("names no patients: each image counts as one" in note for note in notes) == noted
