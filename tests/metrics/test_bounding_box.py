import numpy as np
import pytest

from medkd.metrics.bounding_box import bounding_box


def test_holds_the_whole_mask_and_no_more(blob):
    mask = np.pad(blob((9, 8, 7), seed=0), ((3, 2), (4, 1), (0, 5)))
    box = mask[bounding_box(mask, margin=(0, 0, 0))]
    assert box.sum() == mask.sum()
    assert all(box.any(axis=tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3))


def test_margin_stops_at_the_edge_of_the_grid():
    mask = np.zeros((10, 10), bool)
    mask[1, 5] = True
    assert bounding_box(mask, margin=(3, 2)) == (slice(0, 5), slice(3, 8))


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match=r"empty mask of shape \(2, 3\)"):
        bounding_box(np.zeros((2, 3), bool), margin=(0, 0))
