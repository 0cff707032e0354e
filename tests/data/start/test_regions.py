import pytest

from medkd.data.start.naming import named
from medkd.data.start.regions import read
from medkd.errors import DataError

BRATS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


def test_classes_that_exclude_each_other_keep_their_values():
    for labels in ({"0": "background", "2": "Liver", "1": "Lesion"}, {"lesion": 1, "liver": 2}):
        found = read(labels)
        assert list(found.labels.items()) == [("lesion", 1), ("liver", 2)]
        assert (found.includes, found.ignore) == ({}, None)


def test_a_region_has_the_value_that_no_region_within_it_has():
    found = read(BRATS)
    assert list(found.labels.items()) == [
        ("whole_tumor", 1),
        ("tumor_core", 2),
        ("enhancing_tumor", 3),
    ]
    assert found.includes == {
        "whole_tumor": ("tumor_core", "enhancing_tumor"),
        "tumor_core": ("enhancing_tumor",),
    }


PAIR = {"kidneys": [1, 2], "left": 1, "right": 2, "ignore": 3}


def test_a_region_of_parts_alone_has_a_value_that_no_voxel_has():
    found = read(PAIR)
    assert dict(found.labels) == {"left": 1, "right": 2, "kidneys": 4}
    assert found.includes == {"kidneys": ("left", "right")}


@pytest.mark.parametrize("labels", [BRATS, PAIR])
def test_includes_say_what_the_lists_said(labels):
    """Every value is of the same structures by both."""
    found = read(labels)
    lists = {named(n): v if isinstance(v, list) else [v] for n, v in labels.items()}
    for owner, value in found.labels.items():
        holding = {owner} | {name for name, within in found.includes.items() if owner in within}
        listed = {name for name, values in lists.items() if value in values}
        assert holding == (listed or {"kidneys"})


def test_what_nobody_has_judged_is_no_structure():
    found = read({"background": 0, "liver": 1, "ignore": 2})
    assert (dict(found.labels), found.ignore) == ({"liver": 1}, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": [1, 2]}, r"'a' stands for \[1, 2\] and has 2 values of its own"),
        ({"a": 1, "b": 1}, "'a' and 'b' share the value 1"),
        ({"a": [1, 2], "b": 1, "c": [2, 3], "d": 3}, "'a' and 'c' share the value 2"),
    ],
)
def test_regions_that_a_value_each_cannot_tell_apart_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        read(labels)


@pytest.mark.parametrize("labels", [None, [], "liver", {}, {"background": 0}, {"x": "many"}])
def test_what_names_no_structure_gives_none(labels):
    assert read(labels).labels == {}
