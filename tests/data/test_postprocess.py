import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medkd.data.postprocess import fill_holes, largest_component, postprocess, postprocess_apart
from medkd.options import PostprocessOptions

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=7))


def sizes_of(mask):
    numbered, count = ndimage.label(mask, structure=np.ones([3] * mask.ndim))
    return numbered, np.bincount(numbered.ravel(), minlength=count + 1)[1:]


@given(MASKS)
def test_what_is_kept_is_one_of_the_largest_components_that_scipy_finds(mask):
    kept = largest_component(mask)
    numbered, sizes = sizes_of(mask)
    assert kept.sum() == sizes.max(initial=0)
    assert len(np.unique(numbered[kept])) == (1 if mask.any() else 0)
    assert not (kept & ~mask).any()


@given(MASKS)
def test_holes_are_filled_as_scipy_does(mask):
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@given(MASKS, st.sampled_from([largest_component, fill_holes]))
def test_a_rule_applied_twice_changes_nothing_more_and_the_mask_is_left_alone(mask, rule):
    before = mask.copy()
    once = rule(mask)
    np.testing.assert_array_equal(rule(once), once)
    np.testing.assert_array_equal(mask, before)


def test_a_spiral_is_one_component():
    spiral = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1],
                       [1, 1, 1, 1, 1]], dtype=bool)  # fmt: skip
    np.testing.assert_array_equal(largest_component(spiral), spiral)


@pytest.mark.parametrize("smooth", [2.0, 0.6])
def test_large_masks_equal_scipys(blob, smooth):
    mask = blob((90, 80, 70), seed=1, smooth=smooth)
    numbered, sizes = sizes_of(mask)
    np.testing.assert_array_equal(largest_component(mask), numbered == sizes.argmax() + 1)
    np.testing.assert_array_equal(fill_holes(~mask), ndimage.binary_fill_holes(~mask))


def test_rules_are_of_structures_and_leave_others_alone():
    mask = np.array(
        [[7, 7, 7, 0, 7], [7, 0, 7, 0, 0], [7, 9, 7, 0, 9], [7, 7, 7, 0, 9]], dtype=np.uint8
    )
    rules = PostprocessOptions(largest_component=("organ",), fill_holes=("organ",))
    expected = mask.copy()
    expected[0, 4] = 0  # a smaller piece
    expected[1, 1] = 7  # a hole; the lesion beside it, in the same hole, stays
    values = {"organ": 7, "lesion": 9}
    np.testing.assert_array_equal(postprocess(mask, rules, values), expected)
    assert postprocess(mask, PostprocessOptions(), values) is mask


def test_structures_that_overlap_are_tidied_each_by_itself(blob):
    masks = np.stack([blob((20, 18, 16), seed=seed) for seed in (1, 2, 3)]).astype(np.uint8)
    before = masks.copy()
    rules = PostprocessOptions(largest_component=("b",), fill_holes=("a", "b"))
    tidy = postprocess_apart(masks, rules, ("a", "b", "c"))
    np.testing.assert_array_equal(tidy[0], ndimage.binary_fill_holes(before[0]))
    largest = largest_component(before[1].astype(bool))
    np.testing.assert_array_equal(tidy[1], ndimage.binary_fill_holes(largest))
    np.testing.assert_array_equal(tidy[2], before[2])
    np.testing.assert_array_equal(masks, before)
    assert postprocess_apart(masks, PostprocessOptions(), ("a", "b", "c")) is masks
