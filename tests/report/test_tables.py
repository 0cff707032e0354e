import pytest

from medkd.report.tables import UNKNOWN, holds, interval_cell, pairs, role_cell, roles_of
from medkd.results import Interval
from medkd.types import Role


def test_roles_come_in_one_order_and_missing_ones_are_left_out(segmentation):
    assert [r.role for r in roles_of(segmentation)] == [Role.TEACHER, Role.STUDENT, Role.BASELINE]
    roles = {Role.BASELINE: segmentation.roles[Role.BASELINE]}
    alone = segmentation.model_copy(update={"roles": roles})
    assert [r.role for r in roles_of(alone)] == [Role.BASELINE]


@pytest.mark.parametrize(
    ("interval", "below"),
    [
        (Interval(value=0.5, low=0.4, high=0.6, cases=52, patients=39), "[0.400, 0.600]"),
        (Interval(value=0.5, cases=52, patients=39), ""),
        (Interval(value=0.5, cases=3, patients=1), "over 3 cases of 1 patients"),
    ],
)
def test_a_cell_says_what_its_figure_holds_if_not_the_whole_split(interval, below, segmentation):
    cell = interval_cell(interval, key="dice", report=segmentation)
    assert (cell.text, cell.below) == ("0.500", below)


def test_what_is_missing_is_not_measured(segmentation):
    assert interval_cell(None, key="dice", report=segmentation) == UNKNOWN


def test_a_report_without_a_test_split_claims_no_cases(segmentation):
    assert holds(segmentation.model_copy(update={"split": {}})) == ""


def test_each_role_is_told_apart_in_words():
    assert len({(role_cell(role).text, role_cell(role).below) for role in Role}) == len(Role)


def test_pairs_have_heads():
    assert [cell.text for cell in pairs([], caption="").head] == ["Item", "Value"]
