from pathlib import Path

import pytest

from medkd.data.groups import UNKNOWN, band, bands, group_of, misgrouped
from medkd.options import SubgroupOptions
from medkd.types import Case

SITE = SubgroupOptions.model_validate("site")
AGE = SubgroupOptions(attribute="age", edges=(40.0, 60.0))


def case(**attributes):
    return Case("c", Path("c.png"), 0, "p", attributes)


def test_a_column_groups_by_its_words():
    assert [group_of(case(site=site), SITE) for site in ("north", " north ", "", "south")] == [
        "north",
        "north",
        UNKNOWN,
        "south",
    ]
    assert group_of(case(), SITE) == UNKNOWN


def test_numbers_are_cut_into_bands_that_hold_their_lower_edge():
    ages = [group_of(case(age=age), AGE) for age in ("12", "40", "59.9", "60", "")]
    assert ages == ["below 40", "40 to 60", "40 to 60", "60 and more", UNKNOWN]
    assert band(3.0, (3.0,)) == "3 and more"
    assert bands((0.5, 1.0, 10.0)) == ["below 0.5", "0.5 to 1", "1 to 10", "10 and more"]


def test_a_column_that_is_not_there_and_words_for_numbers_are_named():
    cases = [case(site="north", age="39"), case(site="south", age="old")]
    assert list(misgrouped(cases, SITE)) == []
    (absent,) = misgrouped(cases, SubgroupOptions.model_validate("scanner"))
    assert "no column 'scanner' in the datalist; it has age, site" in absent.line
    (wrong,) = misgrouped(cases, AGE)
    assert "case c: evaluate.subgroups: age is 'old', which is no number" in wrong.line
    assert "old" not in str(wrong.anonymous(lambda kind, name: kind))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribute": "age", "edges": [60, 40]}, "edges must rise"),
        ({"attribute": "age", "edges": [40, 40]}, "edges must rise"),
        ({"attribute": "volume_ml/core"}, "give the edges of its bands, in millilitres"),
    ],
)
def test_edges_that_make_no_bands_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SubgroupOptions.model_validate(options)
