import pytest

from medkd.report import subgroups
from medkd.results import Interval, Subgroup, worst_gaps
from medkd.types import Role


def estimate(value):
    return Interval(value=value, low=value - 0.02, high=value + 0.02, cases=30, patients=24)


@pytest.fixture
def grouped(segmentation):
    """The report with two sites and one that is too small."""
    groups = [
        Subgroup(
            attribute="site",
            group=site,
            cases=30,
            patients=24,
            figure="dice",
            by_role={role: estimate(dice) for role in Role},
            difference=estimate(-0.011),
        )
        for site, dice in (("north", 0.912), ("south", 0.861))
    ]
    small = Subgroup(attribute="site", group="west", cases=3, patients=3, figure="dice")
    found = (*groups, small)
    return segmentation.model_copy(update={"subgroups": found, "gaps": worst_gaps(found)})


def test_a_row_says_how_many_and_how_good(grouped):
    table = subgroups.table(grouped)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts[1] == ["south", "24", "0.861", "0.861", "0.861", "\N{MINUS SIGN}0.011"]
    assert texts[2][2:] == ["not estimated"] * 4
    assert "Largest gap of the student by site: 0.051." in table.caption


def test_the_forest_holds_the_groups_that_could_be_estimated(grouped):
    text = subgroups.forest(grouped).svg.decode()
    assert "Site: north (24)" in text
    assert "west" not in text


def test_without_groups_nothing_is_shown(segmentation):
    assert not subgroups.table(segmentation).rows
    assert subgroups.forest(segmentation) is None
