import pytest

from medkd.report import robustness
from medkd.types import Role


def test_every_stress_has_a_panel_and_every_role_a_line(segmentation):
    drawing = robustness.curves(segmentation)
    text = drawing.svg.decode()
    for curve in segmentation.stress:
        assert curve.unit in text
        assert curve.stress in drawing.alt
    assert all(role.value.title() in text for role in Role)


def test_the_table_holds_the_harshest_strength_beside_the_images_as_they_are(segmentation):
    first, *rows = robustness.suffered(segmentation).rows
    assert [cell.text for cell in first] == ["images as they are", "0.893", "0.884", "0.871", ""]
    for row, curve in zip(rows, segmentation.stress, strict=True):
        assert (row[0].text, row[-1].text) == (curve.stress, "100 %")
        assert float(row[1].text) == pytest.approx(curve.suffered[Role.TEACHER][-1].value, abs=5e-4)


def test_the_guard_is_told_by_what_it_lets_pass_and_what_it_flags(segmentation):
    rows = [[cell.text for cell in row] for row in robustness.guard(segmentation).rows]
    assert rows[0] == ["Test images that pass, share", "0.920"]
    assert rows[2][1] == "85 %"


def test_where_nothing_was_measured_nothing_is_shown(classification):
    assert robustness.curves(classification) is None
    assert not robustness.suffered(classification).rows
    assert not robustness.guard(classification).rows


def bent(report, stress, role, *lost):
    """The report in which a role loses this much at each strength of a stress, alone."""
    curves = tuple(
        curve.model_copy(
            update={
                "suffered": {
                    other: tuple(
                        start.model_copy(update={"value": start.value - (loss if told else 0)})
                        for loss in lost
                    )
                    for other, start in curve.untouched.items()
                    for told in [curve.stress == stress and other is role]
                }
            }
        )
        for curve in report.stress
    )
    return report.model_copy(update={"stress": curves})


def test_a_fall_is_the_mildest_strength_that_costs_more_than_the_margin(segmentation):
    report = bent(segmentation, "missing slices", Role.STUDENT, 0.01, 0.019, 0.021, 0.1)
    (slices,) = robustness.falls(report).rows
    assert [c.text for c in slices] == ["missing slices", "at none", "0.2", "at none", "75 %"]
    assert slices[2].below == "0.863, as is 0.884"
    assert "0.02 of Dice" in robustness.falls(report).caption


def test_without_a_margin_no_fall_is_notable(segmentation):
    assert not robustness.falls(segmentation.model_copy(update={"config": {}})).rows
