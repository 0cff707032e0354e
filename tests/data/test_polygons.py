import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.data.polygons import area, inside

SHAPE = (40, 50)


def circle(row, column, radius, *, corners=400, backwards=False):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)[:: -1 if backwards else 1]
    return np.stack([row + radius * np.sin(angles), column + radius * np.cos(angles)], axis=1)


def disc(row, column, radius):
    rows, columns = np.indices(SHAPE)
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def box(top, left, bottom, right):
    return np.array([(top, left), (top, right), (bottom, right), (bottom, left)], float)


@pytest.mark.parametrize("radius", [0.3, 1.02, 7.77, 15.13])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_circle_holds_the_pixels_nearer_than_its_radius(radius, backwards):
    drawn = inside(circle(20.1, 24.7, radius, corners=4000, backwards=backwards), SHAPE)
    np.testing.assert_array_equal(drawn, disc(20.1, 24.7, radius))


def test_a_box_holds_centres_on_its_top_and_left_and_not_on_its_bottom_and_right():
    drawn = inside(box(3, 4, 8, 10), SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[3:8, 4:10] = True
    np.testing.assert_array_equal(drawn, expected)


def test_neighbours_with_a_common_edge_share_nothing_and_leave_nothing_out():
    slant = (
        np.array([(5, 5.0), (5, 20), (25, 31), (25, 5)]),
        np.array([(5, 20.0), (5, 40), (25, 40), (25, 31)]),
    )
    one, other = (inside(points, SHAPE) for points in slant)
    assert not (one & other).any()
    np.testing.assert_array_equal(one | other, inside(box(5, 5, 25, 40), SHAPE))


@given(st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 55)), min_size=3, max_size=12))
def test_any_polygon_is_filled_as_ray_casting_fills_it(corners):
    """Against a ray cast to the right of each pixel, one by one."""
    points = np.array(corners)
    drawn = inside(points, SHAPE)
    edges = list(zip(points, np.roll(points, -1, axis=0), strict=True))
    for row, column in [(0, 0), (7, 13), (20, 25), (39, 49), (13, 40)]:
        crossed = 0
        for (y0, x0), (y1, x1) in edges:
            if (y0 <= row < y1) or (y1 <= row < y0):
                crossed += x0 + (row - y0) * (x1 - x0) / (y1 - y0) > column
        assert drawn[row, column] == (crossed % 2 == 1)


@pytest.mark.parametrize("points", [box(-10, -10, 60, 70), box(5, -20, 9, 80)])
def test_what_reaches_beyond_is_cut_off(points):
    rows = slice(max(0, int(points[0, 0])), int(points[2, 0]))
    expected = np.zeros(SHAPE, bool)
    expected[rows] = True
    np.testing.assert_array_equal(inside(points, SHAPE), expected)


@pytest.mark.parametrize("points", [np.zeros((1, 2)), np.zeros((2, 2)), box(3, 4, 3, 10)])
def test_what_encloses_nothing_is_empty(points):
    assert not inside(points, SHAPE).any()


def test_a_keyhole_is_a_hole():
    outer, inner = circle(20, 25, 14.3), circle(20, 25, 6.2, backwards=True)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    ring = disc(20, 25, 14.3) & ~disc(20, 25, 6.2)
    np.testing.assert_array_equal(inside(keyhole, SHAPE), ring)


@pytest.mark.parametrize("xor", [False, True])
def test_an_outline_within_an_outline_is_a_hole_and_one_within_that_an_island(xor):
    outlines = [circle(20, 25, radius) for radius in (6.2, 14.3, 2.1)]
    target = disc(20, 25, 14.3) & ~disc(20, 25, 6.2) | disc(20, 25, 2.1)
    np.testing.assert_array_equal(area(outlines, SHAPE, xor=xor), target)


def test_outlines_that_cross_add_up_unless_they_are_said_to_cancel():
    outlines = [circle(20, 20, 9.3), circle(20, 30, 8.2)]
    one, other = disc(20, 20, 9.3), disc(20, 30, 8.2)
    np.testing.assert_array_equal(area(outlines, SHAPE, xor=False), one | other)
    np.testing.assert_array_equal(area(outlines, SHAPE, xor=True), one ^ other)


def test_an_outline_that_is_there_twice_counts_once():
    outlines = [circle(20, 20, 9.3), circle(20, 20, 9.3, backwards=True)]
    np.testing.assert_array_equal(area(outlines, SHAPE, xor=False), disc(20, 20, 9.3))
