import numpy as np
import pytest

from medkd.types import Volume, grid_distance_mm

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.fixture
def volume():
    return Volume(array=np.zeros((2, 5, 6, 7)), affine=AFFINE)


def test_a_volume_knows_its_grid(volume):
    assert (volume.dims, volume.shape, volume.spacing_mm) == (3, (5, 6, 7), (1.0, 2.0, 3.0))


def test_spacing_is_a_length_whatever_the_direction():
    turned = AFFINE[:, [1, 0, 2, 3]] * [1, -1, 1, 1]
    assert Volume(np.zeros((1, 2, 2, 2)), turned).spacing_mm == (2.0, 1.0, 3.0)


def test_a_grid_is_as_far_away_as_its_farthest_corner(volume):
    assert grid_distance_mm(volume, AFFINE) == 0
    moved = AFFINE.copy()
    moved[:3, 3] = [3, 4, 0]
    assert grid_distance_mm(volume, moved) == pytest.approx(5)
    coarser = np.diag([1.0, 2.0, 3.1, 1.0])  # the last of 7 slices, 6 steps away
    assert grid_distance_mm(volume, coarser) == pytest.approx(0.6)
    mirrored = np.diag([-1.0, 2.0, 3.0, 1.0])
    assert grid_distance_mm(volume, mirrored) == pytest.approx(8)
