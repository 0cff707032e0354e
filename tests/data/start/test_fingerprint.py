from dataclasses import replace

import numpy as np
import pytest

from medkd.data.quality.examine import Examined, Intensities
from medkd.data.start.fingerprint import fingerprint
from medkd.errors import DataError
from medkd.types import Case, Task

LABELS = {"organ": 1, "lesion": 2}


def read(voxels):
    spread = Intensities(least=-1, low=0, median=1, high=2, most=3, mean=1, std=1)
    told = {
        "shape": (10, 20, 30),
        "spacing_mm": (1.0, 2.0, 3.0),
        "orientation": "RAS",
        "channels": 1,
    }
    return Examined(**told, stored="int16", intensities=spread, voxels=voxels)


@pytest.fixture
def data(tmp_path):
    """Two cases of one patient, their structures of 64 and 27 voxels at the median."""
    case = Case("a", tmp_path / "a.nii", tmp_path / "a-label.nii", "p")
    cases = {"a": case, "b": replace(case, id="b")}
    return cases, {"a": read({0: 900, 1: 64, 2: 27}), "b": read({0: 945, 1: 64})}


def test_shares_are_of_all_voxels_and_the_thinnest_is_the_edge_of_a_cube(data):
    found = fingerprint(*data, LABELS)
    assert (found.task, found.cases, found.patients) == (Task.SEGMENTATION, 2, 1)
    assert found.shares == {
        "background": pytest.approx(1845 / 2000),
        "organ": pytest.approx(128 / 2000),
        "lesion": pytest.approx(27 / 2000),
    }
    assert found.thinnest == pytest.approx(3)


def test_axes_that_are_stored_otherwise_make_no_difference(data):
    cases, examined = data
    turned = {"shape": (30, 10, 20), "spacing_mm": (3.0, 1.0, 2.0), "orientation": "SLP"}
    other = {name: seen.model_copy(update=turned) for name, seen in examined.items()}
    one, two = fingerprint(cases, examined, LABELS), fingerprint(cases, other, LABELS)
    np.testing.assert_array_equal(one.shapes, two.shapes)
    np.testing.assert_array_equal(one.spacings_mm, two.spacings_mm)


def test_pictures_and_volumes_together_are_refused(data):
    cases, examined = data
    flat = {"shape": (10, 20), "spacing_mm": (1.0, 1.0), "orientation": ""}
    examined["b"] = examined["b"].model_copy(update=flat)
    with pytest.raises(DataError, match="pictures and volumes are mixed"):
        fingerprint(cases, examined, LABELS)
