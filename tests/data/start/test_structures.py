import pytest

from medkd.data.quality.examine import Examined
from medkd.data.start.layout import Layout
from medkd.data.start.structures import held
from medkd.errors import DataError
from medkd.types import Task


def found(labels, values, **more):
    layout = Layout("any", Task.SEGMENTATION, labels=labels, **more)
    return held(layout, {"a": Examined(voxels=dict.fromkeys(values, 9))})


def test_what_is_declared_and_held_stays_as_it_is():
    assert found({"liver": 1, "lesion": 2}, [0, 1, 2, 9], ignore=9) == Layout(
        "any", Task.SEGMENTATION, labels={"liver": 1, "lesion": 2}, ignore=9
    )


def test_what_no_label_map_holds_is_left_out_and_said():
    layout = found({"liver": 1, "cyst": 2, "lesion": 3}, [0, 1, 3])
    assert layout.labels == {"liver": 1, "lesion": 3}
    assert layout.remarks == ("no label map holds cyst: left out",)


def test_a_region_is_held_where_what_lies_in_it_is():
    includes = {"organ": ("liver", "cyst"), "liver": ("cyst",)}
    labels = {"liver": 1, "cyst": 2, "organ": 3}
    layout = found(labels, [0, 1], includes=includes, overlap="keep")
    assert layout.labels == {"liver": 1, "organ": 3}
    assert layout.includes == {"organ": ("liver",)}


def test_a_value_without_a_name_gets_one_to_be_replaced():
    layout = found({"liver": 2}, [0, 1, 2, 4])
    assert layout.labels == {"label_1": 1, "liver": 2, "label_4": 4}
    assert layout.remarks[0].startswith("TODO: label maps hold label_1, label_4")


def test_where_nothing_is_named_values_are():
    assert found({}, [0, 255]).labels == {"foreground": 255}
    layout = found({}, [0, 1, 3])
    assert layout.labels == {"structure_1": 1, "structure_3": 3}
    assert layout.remarks == ("TODO: give the structures their names",)


def test_label_maps_of_nothing_are_refused():
    with pytest.raises(DataError, match="no label map holds anything but 0"):
        found({"liver": 1}, [0])
