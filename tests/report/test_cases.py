import pytest

from medkd.report import cases
from medkd.types import Role
from tests.report.conftest import LEAVES


def test_every_case_is_listed_the_worst_of_the_student_first(segmentation):
    table = cases.per_case(segmentation)
    student = segmentation.roles[Role.STUDENT].cases
    assert len(table.rows) == len(student)
    worst = min(student, key=lambda case: case.figures["dice"])
    assert table.rows[0][0].text == worst.case
    assert "student missed posterior" in table.rows[0][-1].text
    assert all(len(row) == len(table.head) for row in table.rows)


def test_a_case_that_a_role_lacks_stays_in_the_table(segmentation):
    student = segmentation.roles[Role.STUDENT]
    fewer = student.model_copy(update={"cases": student.cases[1:]})
    roles = {**segmentation.roles, Role.STUDENT: fewer}
    table = cases.per_case(segmentation.model_copy(update={"roles": roles}))
    assert len(table.rows) == len(student.cases)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "text.png", "link.png", "."])
def test_only_pictures_inside_the_study_are_read(path, segmentation, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(cases.PICTURES["png"])
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "text.png").write_text("no picture")
    overlay = segmentation.overlays[0].model_copy(update={"path": path})
    report = segmentation.model_copy(update={"overlays": (overlay,)})
    assert [picture.source for picture in cases.pictures(report, study_folder=folder)] == [""]
    layers = LEAVES.model_copy(update={"paths": {"image": path, "student": path}})
    overlay = overlay.model_copy(update={"layers": layers})
    report = segmentation.model_copy(update={"overlays": (overlay,)})
    assert [picture.layers for picture in cases.pictures(report, study_folder=folder)] == [{}]


def test_a_case_is_told_by_every_model_beside_its_picture(segmentation, study_folder):
    student = segmentation.roles[Role.STUDENT].cases[13]
    overlay = segmentation.overlays[0].model_copy(update={"case": student.case})
    report = segmentation.model_copy(update={"overlays": (overlay,)})
    (picture,) = cases.pictures(report, study_folder=study_folder)
    told = {row[0].text: row[-1].text for row in picture.table.rows}
    assert told == dict.fromkeys(("Teacher", "Student", "Baseline"), "missed posterior")


def test_swatches_are_the_colours_of_the_pictures(segmentation):
    from medkd.evaluate.overlays import COLOURS

    assert cases.COLOURS == COLOURS
    assert cases.swatches(segmentation) == list(
        zip(segmentation.classes[1:], COLOURS, strict=False)
    )


def test_a_classification_has_right_answers_and_nothing_that_is_missed(classification):
    table = cases.per_case(classification)
    assert cases.SLIPS not in [cell.text for cell in table.head]
    right = [i for i, cell in enumerate(table.head) if cell.text == "Right answer"]
    assert right
    assert {row[i].text for row in table.rows for i in right} <= {"yes", "no", cases.NONE}
    assert all(len(row) == len(table.head) for row in table.rows)


def test_a_missed_finding_is_told_with_its_case(findings):
    table = cases.per_case(findings)
    assert table.head[-1].text == cases.SLIPS
    name = findings.classes[1]
    (told,) = {row[-1].text for row in table.rows} - {""}
    assert told == f"teacher missed {name}; student missed {name}; baseline missed {name}"
