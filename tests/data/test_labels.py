from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medkd.config import Config
from medkd.data.labels import (
    class_indices,
    class_of,
    flattened,
    in_channels,
    of_judged_voxels,
    structure_masks,
    truth_of,
)
from medkd.errors import DataError
from medkd.types import UNLABELLED, Case, Volume
from tests.conftest import tiny_values


@pytest.fixture
def config(tmp_path):
    values = tiny_values(tmp_path, dims=3, task="segmentation")
    values["data"] |= {"labels": {"late": 255, "early": 3}, "ignore": 4}
    return Config.model_validate(values)


def test_values_become_indices_of_classes_in_order(config):
    label = np.array([[0, 255], [3, 4]])
    np.testing.assert_array_equal(class_indices(label, config), [[0, 2], [1, UNLABELLED]])


def test_where_nobody_has_judged_nothing_is_there():
    reference = np.array([0, 1, UNLABELLED, 2, UNLABELLED])
    answer, same = of_judged_voxels(np.array([1, 1, 1, 2, 0]), reference, reference=reference)
    assert answer.tolist() == [1, 1, 0, 2, 0]
    assert same.tolist() == [0, 1, 0, 2, 0]


OVERLAPPING = {
    "labels": {"whole": 2, "core": 3, "necrosis": 7},
    "includes": {"whole": ["core"], "core": ["necrosis"]},
    "ignore": 9,
    "overlapping": True,
}
PATH = Path("label.nii.gz")
CASE = Case("a", PATH, PATH, patient="p")


@pytest.fixture
def overlapping(tmp_path):
    values = tiny_values(tmp_path, dims=3, task="segmentation")
    return Config.model_validate(values | {"data": values["data"] | OVERLAPPING})


def volume(*channels):
    return Volume(np.array(channels), np.eye(3))


def test_structures_of_a_label_map_hold_what_lies_within_them(overlapping):
    found = in_channels(volume([[0, 2, 3, 7, 9]]), overlapping, path=PATH)
    assert found.array[:, 0].tolist() == [[0, 1, 1, 1, 9], [0, 0, 1, 1, 9], [0, 0, 0, 1, 9]]
    truth = truth_of(found, CASE, overlapping)
    assert truth.dtype == np.uint8
    assert truth[0, 0].tolist() == [0, 1, 1, 1, UNLABELLED]
    masks = [mask[0].tolist() for mask in structure_masks(truth, overlapping)]
    assert masks[1] == [False, False, True, True, False]


def test_channels_are_taken_as_they_are_and_judged_each_by_itself(overlapping):
    channels = volume([[1, 0, 9]], [[1, 1, 0]], [[0, 9, 1]])
    found = in_channels(channels, overlapping, path=PATH)
    np.testing.assert_array_equal(found.array, channels.array)
    truth = truth_of(found, CASE, overlapping)
    (answer,) = of_judged_voxels(np.ones_like(truth), reference=truth)
    assert answer[:, 0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 1]]


def test_what_a_label_does_not_cover_nobody_has_judged(overlapping):
    channels = volume([[1, 0]], [[1, 1]], [[0, 0]])
    truth = truth_of(channels, replace(CASE, annotated=("core",)), overlapping)
    assert truth[:, 0].tolist() == [[UNLABELLED] * 2, [1, 1], [UNLABELLED] * 2]


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        ([[[1, 0]], [[0, 1]]], "2 channels, and data.labels names 3 structures"),
        ([[[1, 0]], [[0, 2]], [[0, 0]]], r"values \[2\], which are none of a channel, 0 or 1"),
        ([[[2, 4, 3]]], r"values \[4\], which are none of data.labels"),
    ],
)
def test_a_label_that_does_not_hold_the_structures_is_refused(overlapping, channels, reason):
    with pytest.raises(DataError, match=f"label.nii.gz: .*{reason}.*; "):
        in_channels(volume(*channels), overlapping, path=PATH)


def test_in_a_picture_the_smaller_structure_lies_over_the_larger(overlapping):
    indices = np.array([[[0, 1, 1, 1]], [[0, 0, 0, 1]], [[0, 0, 1, 1]]], np.uint8)
    assert flattened(indices, overlapping)[0].tolist() == [0, 1, 3, 2]
    like = indices[[0, 2, 1]]
    assert flattened(indices, overlapping, like=like)[0].tolist() == [0, 1, 3, 3]


def test_exclusive_classes_have_masks_by_index(config):
    masks = list(structure_masks(np.array([0, 1, 2, 2, UNLABELLED]), config))
    assert [mask.sum() for mask in masks] == [1, 2]


@pytest.mark.parametrize(
    ("label", "annotated", "expected"),
    [
        (("large",), None, [1, 0]),
        ((), None, [0, 0]),
        (("marked",), ("marked",), [UNLABELLED, 1]),
        (None, None, [UNLABELLED, UNLABELLED]),
    ],
)
def test_findings_are_there_or_not_or_unjudged(tmp_path, label, annotated, expected):
    values = tiny_values(tmp_path, dims=2, task="classification")
    values["data"] |= {"overlapping": True, "labels": {"large": 1, "marked": 2}}
    case = replace(CASE, label=label, annotated=annotated)
    assert class_of(case, Config.model_validate(values)).tolist() == expected


@pytest.mark.parametrize(("label", "expected"), [(1, [1]), (None, [UNLABELLED])])
def test_a_class_is_its_index(tmp_path, label, expected):
    config = Config.model_validate(tiny_values(tmp_path, dims=2, task="classification"))
    assert class_of(replace(CASE, label=label), config).tolist() == expected
