import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from medkd.metrics.lesions import Lesions, count_lesions


def spots(*places, shape=(20, 20, 20), size=3):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[tuple(slice(start, start + size) for start in place)] = True
    return mask


THREE = spots((1, 1, 1), (8, 8, 8), (15, 2, 10))


def test_all_of_a_perfect_answer_are_found():
    assert count_lesions(THREE, THREE) == Lesions(reference=3, found=3, predicted=3, right=3)


def test_misses_and_false_alarms_are_counted_apart():
    counts = count_lesions(spots((1, 1, 1), (1, 15, 15)), THREE)
    assert counts == Lesions(reference=3, found=1, predicted=2, right=1)
    assert counts.sensitivity == pytest.approx(1 / 3)
    assert counts.ppv == 0.5


def test_one_blob_over_two_lesions_finds_both():
    counts = count_lesions(np.ones((20, 20, 20), bool), THREE, overlap=0.001)
    assert counts == Lesions(reference=3, found=3, predicted=1, right=1)


def test_a_touch_below_the_overlap_is_none():
    touched = spots((1, 1, 1), size=1)  # 1 of 27 voxels
    assert count_lesions(touched, spots((1, 1, 1)), overlap=0.1).found == 0
    assert count_lesions(touched, spots((1, 1, 1)), overlap=0.03).found == 1


def test_lesions_that_touch_at_a_corner_are_one():
    diagonal = np.eye(4, dtype=bool)
    assert count_lesions(diagonal, diagonal).reference == 1


def test_a_small_lesion_counts_as_much_as_a_large_one():
    reference = spots((0, 0, 0), size=10) | spots((15, 15, 15), size=1)
    counts = count_lesions(spots((0, 0, 0), size=10), reference)
    assert counts.sensitivity == 0.5


@pytest.mark.parametrize(
    ("prediction", "reference", "sensitivity", "ppv"),
    [(False, False, 1, 1), (False, True, 0, 0), (True, False, 0, 0)],
)
def test_empty_masks_follow_the_policy(prediction, reference, sensitivity, ppv):
    counts = count_lesions(np.full((3, 3), prediction), np.full((3, 3), reference))
    assert (counts.sensitivity, counts.ppv) == (sensitivity, ppv)


@pytest.mark.parametrize("seed", range(5))
def test_lesions_are_the_components_of_the_graph_of_touching_voxels(blob, seed):
    mask = blob((9, 10, 11), seed=seed, smooth=1.0)
    voxels = np.argwhere(mask)
    expected, _ = connected_components(cdist(voxels, voxels, "chebyshev") == 1)
    assert count_lesions(mask, mask).reference == expected > 1


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.integers(0, 15))
def test_a_voxel_less_never_finds_more(prediction, reference, voxel):
    masks = [
        np.array([number >> i & 1 for i in range(16)], bool) for number in (prediction, reference)
    ]
    worse = masks[0].copy()
    worse[voxel] = False
    assert count_lesions(worse, masks[1]).found <= count_lesions(*masks).found


def test_counts_of_cases_add_up():
    one = Lesions(reference=1, found=1, predicted=2, right=1)
    assert one + one + Lesions(0, 0, 1, 0) == Lesions(2, 2, 5, 2)


@pytest.mark.parametrize("overlap", [0.0, -0.1, 1.1])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap must lie"):
        count_lesions(THREE, THREE, overlap=overlap)
