import pytest

from medkd.data.findings import Level
from medkd.data.quality.examine import Intensities
from medkd.data.quality.outliers import outliers

BRIGHT = Intensities(least=0, low=0, median=5e4, high=9e4, most=1e5, mean=5e4, std=1e4)
DIM = Intensities(least=0, low=1, median=50, high=99, most=100, mean=50, std=20)
UNLIKE = {
    "spacing": ({"spacing_mm": (1.0, 1.0, 5.0)}, "the spacing from foot to head is 5,"),
    "size": ({"shape": (40, 50, 9)}, "the size from foot to head is 9,"),
    "intensities": ({"intensities": BRIGHT}, "the range of intensities is 9e+04,"),
    "one channel": (
        {"by_channel": (DIM, BRIGHT)},
        "the range of intensities of channel 2 is 9e+04,",
    ),
    "orientation": ({"orientation": "LAS"}, "is stored as LAS, 39 of 40 cases as RAS"),
    "volume": ({"voxels": {0: 900, 1: 2, 5: 60}}, "the volume of organ is 0.004,"),
    "structure": ({"voxels": {0: 900, 1: 100}}, "no lesion, which 39 of 40 cases hold"),
    "label": ({"voxels": {0: 900}}, "its label is empty: no organ, no lesion, which"),
}


@pytest.mark.parametrize("kind", list(UNLIKE))
def test_a_case_unlike_the_others_is_named(cohort, config, kind):
    change, message = UNLIKE[kind]
    usual = {"by_channel": (DIM, DIM)} if kind == "one channel" else {}
    _, examined = cohort(40, changes=dict.fromkeys(range(40), usual) | {7: change})
    (finding,) = outliers(examined, config)
    assert (finding.case, finding.level) == ("c007", Level.WARNING)
    assert finding.message.startswith(message)


def test_like_cases_are_not_outliers(cohort, config):
    _, examined = cohort(40)
    assert list(outliers(examined, config)) == []


def test_axes_are_compared_by_anatomy_however_they_are_stored(cohort, config):
    turned = {"orientation": "IRP", "shape": (30, 40, 50), "spacing_mm": (2.0, 1.0, 1.0)}
    _, examined = cohort(40, changes=dict.fromkeys(range(0, 40, 2), turned))
    (note,) = outliers(examined, config)
    assert note.message == "the cases are stored in several orientations: 20 IRP, 20 RAS"


def test_a_cohort_that_varies_is_said_once_and_not_case_by_case(cohort, config):
    thick = {"spacing_mm": (1.0, 1.0, 6.0)}
    _, examined = cohort(40, changes=dict.fromkeys(range(10), thick))
    found = [f for f in outliers(examined, config) if "spacing" in f.message]
    assert [(finding.case, finding.level) for finding in found] == [(None, Level.NOTE)]
    assert "10 of 40 cases are far from it" in found[0].message


def test_all_that_is_odd_of_one_case_is_one_finding(cohort, config):
    _, examined = cohort(40, changes={3: {"shape": (9, 9, 9)}})
    (finding,) = outliers(examined, config)
    assert finding.message.count("the size") == 3


def test_of_few_cases_nobody_can_say_what_is_usual(cohort, config):
    _, examined = cohort(9, changes={3: {"shape": (9, 9, 9)}})
    assert list(outliers(examined, config)) == []


def test_a_label_lacks_only_what_it_covers(cohort, config):
    bare = {"voxels": {0: 900, 1: 100}}
    _, examined = cohort(40, changes={3: bare | {"covers": ("organ",)}, 4: bare})
    (finding,) = outliers(examined, config)
    assert (finding.case, finding.message) == ("c004", "no lesion, which 38 of 39 cases hold")


@pytest.mark.parametrize(("count", "empty"), [(40, 20), (5, 1)], ids=["usual", "few cases"])
def test_empty_labels_are_counted_where_nobody_can_say_that_they_are_unusual(
    cohort, config, count, empty
):
    _, examined = cohort(count, changes={n: {"voxels": {0: 900}} for n in range(empty)})
    (finding,) = outliers(examined, config)
    assert (finding.level, finding.cases[0]) == (Level.NOTE, "c000")
    assert finding.text.startswith(f"{empty} of {count} labels are empty")
