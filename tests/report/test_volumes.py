from medkd.report import volumes
from medkd.types import Role


def test_bias_and_limits_stand_for_every_structure_and_role(segmentation):
    rows = [[cell.text for cell in row] for row in volumes.table(segmentation).rows]
    assert len(rows) == 2 * len(Role)
    minus = "\N{MINUS SIGN}"
    assert rows[0] == ["Teacher", "anterior", f"{minus}0.012", f"{minus}0.210 to +0.186", "52"]


def test_every_structure_and_role_has_a_panel(segmentation):
    drawing = volumes.plots(segmentation)
    text = drawing.svg.decode()
    assert text.count("Student") == 2
    assert "anterior: difference, ml" in text
    assert "posterior" in drawing.alt


def test_classes_have_no_volume(classification):
    assert not volumes.table(classification).rows
    assert volumes.plots(classification) is None
