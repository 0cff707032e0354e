from medkd.report.margins import margins, may_lose
from medkd.types import Role


def test_a_margin_is_the_bound_of_a_paired_criterion(segmentation):
    assert margins(segmentation) == {
        ("dice", Role.STUDENT, Role.TEACHER): -0.02,
        ("dice", Role.STUDENT, Role.BASELINE): -0.005,
    }
    assert may_lose(segmentation, "dice") == 0.02
    assert may_lose(segmentation, "nsd") is None


def test_no_criteria_are_no_margins(segmentation):
    bare = segmentation.model_copy(update={"config": {}})
    assert margins(bare) == {}
    assert may_lose(bare, "dice") is None
