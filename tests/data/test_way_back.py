import tracemalloc

import numpy as np
import pytest

from medkd.data.preprocess import Grid, from_grid
from medkd.data.way_back import WayBack, WayBackApart


def grid_of(image, network):
    axes = np.stack([np.arange(len(image)), np.ones(len(image))], axis=1)
    return Grid(image, np.eye(len(image) + 1), axes, network, (1.0,) * len(image))


def probabilities(shape, *, classes=4, seed=0):
    raw = np.random.default_rng(seed).random((classes, *shape)).astype(np.float32) ** 8
    return raw / raw.sum(axis=0)


def carried(grid, p, cuts):
    back = WayBack(grid)
    for slab in np.split(p, cuts, axis=1):
        back.add(slab)
    return back.answer[0]


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 7], list(range(1, 12))])
@pytest.mark.parametrize(
    "image", [(30, 20, 9), (5, 9, 10), (12, 20, 8), (1, 4, 4), (12, 9, 10), (23, 9, 10)]
)
def test_equals_interpolating_all_at_once_whatever_the_slabs(image, cuts):
    grid, p = grid_of(image, (12, 9, 10)), probabilities((12, 9, 10))
    expected = from_grid(p, grid, order=1)
    indices = carried(grid, p, cuts)
    # a class that is nowhere likeliest nearby is not looked at: that is where they may differ
    chosen = np.take_along_axis(expected, indices[None].astype(int), axis=0)[0]
    assert (expected.max(axis=0) - chosen).max() < 0.05
    assert (indices == expected.argmax(axis=0)).mean() > 0.99


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 7], list(range(1, 12))])
@pytest.mark.parametrize("image", [(30, 20, 9), (5, 9, 10), (12, 20, 8), (1, 4, 4), (23, 9, 10)])
@pytest.mark.parametrize("at", [(0, 0, 0), (4, 3, 4), (10, 7, 8)])
def test_a_structure_that_is_small_is_carried_whole(image, cuts, at):
    p = np.zeros((3, 12, 9, 10), np.float32)
    p[0] = 0.9
    p[1, *(slice(place, place + 2) for place in at)] = 0.95
    p[2, *(slice(place, place + 1) for place in at)] = 2
    p /= p.sum(axis=0)
    grid = grid_of(image, p.shape[1:])
    expected = from_grid(p, grid, order=1)
    first, second = np.sort(expected, axis=0)[[-1, -2]]
    certain = first - second > 1e-5
    actual = carried(grid, p, cuts)
    np.testing.assert_array_equal(actual[certain], expected.argmax(axis=0)[certain])


def test_two_classes_are_exact():
    grid, p = grid_of((30, 20, 9), (12, 9, 10)), probabilities((12, 9, 10), classes=2)
    expected = from_grid(p, grid, order=1)
    certain = np.abs(expected[0] - expected[1]) > 1e-5
    actual = carried(grid, p, [3, 8])
    np.testing.assert_array_equal(actual[certain], expected.argmax(axis=0)[certain])


def test_pictures(blob):
    grid, p = grid_of((40, 33), (16, 16)), probabilities((16, 16))
    indices = carried(grid, p, [7])
    assert (indices == from_grid(p, grid, order=1).argmax(axis=0)).mean() > 0.99


def test_memory_grows_by_the_answer_alone():
    def extra(rows):
        slab = probabilities((4, 32, 32), classes=6)
        grid = grid_of((2 * rows, 64, 64), (rows, 32, 32))
        tracemalloc.start()
        back = WayBack(grid)
        for _ in range(rows // 4):
            back.add(slab)
        peak = tracemalloc.get_traced_memory()[1] - back.answer.nbytes
        tracemalloc.stop()
        return peak

    assert extra(400) < 1.3 * extra(40)


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 7]])
@pytest.mark.parametrize("image", [(30, 20, 9), (5, 9, 10), (1, 4, 4)])
def test_structures_that_overlap_are_each_where_their_own_probability_is_a_half(image, cuts):
    network = (12, 9, 10)
    grid, p = grid_of(image, network), np.random.default_rng(1).random((3, *network), np.float32)
    back = WayBackApart(grid, channels=3)
    for slab in np.split(p, cuts, axis=1):
        back.add(slab)
    there = from_grid(p, grid, order=1)
    sure = np.abs(there - 0.5) > 1e-5
    np.testing.assert_array_equal(back.answer[sure], (there >= 0.5)[sure])
