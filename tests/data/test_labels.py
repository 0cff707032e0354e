import numpy as np
import pytest

from medkd.config import Config
from medkd.data.labels import class_indices, of_judged_voxels
from medkd.types import UNLABELLED
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
