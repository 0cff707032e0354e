import itertools

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from medkd.data.turned import canonical, turned_onto
from medkd.types import Volume

RNG = np.random.default_rng(0)
AFFINE = np.array([[0, 0, 1.2, 5], [0.6, -0.8, 0, 7], [0.8, 0.6, 0, -9], [0, 0, 0, 1]])
GRID = Volume(RNG.normal(size=(2, 3, 4, 5)), AFFINE)
TURNS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def stored(order, signs):
    """Return GRID's voxels with other axes, in the places where they are."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    to_grid = np.zeros((4, 4))
    to_grid[3, 3] = 1
    for axis, (of, sign) in enumerate(zip(order, signs, strict=True)):
        to_grid[of, axis] = sign
        to_grid[of, 3] = 0 if sign > 0 else GRID.shape[of] - 1
    array = GRID.array.transpose(0, *(1 + of for of in order))[(slice(None), *flips)]
    return Volume(array, AFFINE @ to_grid, ("mended",), "1.2")


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_the_same_voxels_are_the_same_however_their_axes_run(order, signs):
    turned = turned_onto(stored(order, signs), GRID)
    np.testing.assert_array_equal(turned.array, GRID.array)
    np.testing.assert_allclose(turned.affine, GRID.affine, atol=1e-9)
    assert (turned.remedies, turned.frame_uid) == (("mended",), "1.2")


@pytest.mark.parametrize("change", ["moved", "coarser", "rotated", "cut", "flat"])
def test_another_grid_stays_as_it_is(change):
    volume = stored((2, 0, 1), (1, -1, 1))
    affine = volume.affine.copy()
    if change == "moved":
        affine[0, 3] += 0.02
    if change == "coarser":
        affine[:3, 0] *= 1.01
    if change == "rotated":
        affine = np.array([[1, -0.1, 0, 0], [0.1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    array = volume.array[:, 1:] if change == "cut" else volume.array
    other = Volume(array[0], np.eye(3)) if change == "flat" else Volume(array, affine)
    assert turned_onto(other, GRID) is other


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_canonical_axes_are_the_same_however_they_run_and_nothing_is_copied(order, signs):
    volume = stored(order, signs)
    upright = canonical(volume)
    assert aff2axcodes(upright.affine) == ("R", "A", "S")
    assert np.shares_memory(upright.array, volume.array)
    np.testing.assert_array_equal(upright.array, canonical(GRID).array)
    np.testing.assert_allclose(upright.affine, canonical(GRID).affine, atol=1e-9)
    assert (upright.remedies, upright.frame_uid) == (("mended",), "1.2")


def test_of_a_picture_there_is_one_way_to_hold_it():
    picture = Volume(GRID.array[0], np.eye(3))
    assert canonical(picture) is picture
