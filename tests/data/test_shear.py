import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.data.shear import at_right_angles, grid_at_right_angles, skew_degrees
from medkd.types import Volume

ANGLES = st.floats(-35, 35)


@st.composite
def skewed(draw):
    """A grid with any spacing, turned anyhow, whose last axis leans."""
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(3, 3)))
    lean = np.eye(3)
    lean[0, 2], lean[1, 2] = (np.tan(np.radians(draw(ANGLES))) for _ in range(2))
    affine = np.eye(4)
    affine[:3, :3] = turn @ lean @ np.diag(draw(st.tuples(*[st.floats(0.5, 3)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-99, 99)] * 3))
    return affine


@given(skewed())
def test_the_straight_grid_is_at_right_angles_and_covers_the_skewed_one(affine):
    shape = (4, 5, 6)
    larger, straight = grid_at_right_angles(shape, affine, slice_axis=2)
    assert skew_degrees(straight) < 1e-3
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    world = affine @ np.vstack([corners, np.ones(8)])
    places = (np.linalg.inv(straight) @ world)[:3]
    assert (places > -1e-3).all()
    assert (places < np.array(larger)[:, None] - 1 + 1e-3).all()
    np.testing.assert_allclose(straight[:3, :2], affine[:3, :2], atol=1e-9)  # slices stay as fine


def test_an_image_linear_in_the_world_stays_what_it_is():
    affine = np.array([[2, 0, 1.2, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])
    slope = np.array([3.0, -2, 5])
    places = affine @ np.vstack([np.indices((8, 9, 7)).reshape(3, -1), np.ones(504)])
    volume = Volume((1000 + slope @ places[:3]).reshape(1, 8, 9, 7).astype(np.float32), affine)
    straight = at_right_angles(volume, order=1)
    covered = straight.array[0] > volume.array.min()
    found = straight.affine @ np.vstack([np.argwhere(covered).T, np.ones(covered.sum())])
    np.testing.assert_allclose(straight.array[0][covered], 1000 + slope @ found[:3], rtol=1e-5)
    assert straight.remedies == (
        f"shear_correct: axes {skew_degrees(affine):.1f} degrees off right angles",
    )


def test_a_label_map_keeps_its_values_and_is_empty_where_nothing_was():
    affine = np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    label = Volume(np.full((1, 6, 6, 6), 7, np.int32), affine)
    straight = at_right_angles(label, order=0)
    assert set(np.unique(straight.array)) == {0, 7}
    assert straight.array.dtype == np.int32


@pytest.mark.parametrize("degrees", [0, 0.1, 5, 30])
def test_skew_is_the_angle_missing_to_a_right_one(degrees):
    affine = np.diag([0.7, 3, 2, 1.0])
    affine[0, 2] = 2 * np.tan(np.radians(degrees))
    assert skew_degrees(affine) == pytest.approx(degrees, abs=1e-4)
