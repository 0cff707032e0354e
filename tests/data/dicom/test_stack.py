from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydicom import Dataset

from medkd.data.dicom.frames import Frame, Place
from medkd.data.dicom.stack import stack
from medkd.errors import DataError

STEPS = st.floats(0.3, 12)
SEEDS = st.integers(0, 10_000)


def turned(seed):
    """Return directions of columns and rows, and their normal, turned anyhow."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes[:2], np.cross(axes[0], axes[1])


def frames(distances, *, seed, spacing_mm=(0.7, 0.9), shift=(0.0, 0.0)):
    """Return frames at distances along their normal, each shifted within its plane, shuffled."""
    axes, normal = turned(seed)
    header = Dataset()
    header.SliceThickness = 3
    made = []
    for distance in distances:
        place = distance * normal + distance * (shift[0] * axes[0] + shift[1] * axes[1])
        made.append(Frame(Path("x"), 0, (header,), Place(place, axes, spacing_mm)))
    return [made[i] for i in np.random.default_rng(seed).permutation(len(made))]


def stacked(made, *, missing=0, shear=False):
    return stack(made, resample_missing=missing, shear_correct=shear)


@given(SEEDS, STEPS, st.integers(2, 30), st.floats(-200, 200))
def test_slices_in_any_order_and_turned_anyhow_lie_where_they_say(seed, step, count, first):
    found = stacked(frames(first + step * np.arange(count), seed=seed))
    for number, frame in enumerate(found.frames):
        index = np.array([number, 0, 0, 1])
        np.testing.assert_allclose((found.affine @ index)[:3], frame.place.position_mm, atol=1e-6)
    assert np.linalg.norm(found.step_mm) == pytest.approx(step)
    assert np.linalg.det(found.affine[:3, :3]) > 0
    assert not found.missing


@given(SEEDS, STEPS, st.integers(4, 30), st.data())
def test_slices_that_are_missing_are_counted_and_placed(seed, step, count, data):
    """A slice at an end is not missed: nobody can know of it."""
    inner = st.sets(st.integers(1, count - 2), min_size=1, max_size=max(1, count // 4))
    gone = data.draw(inner)
    kept = np.array(sorted(set(range(count)) - gone))
    assume((np.diff(kept) == 1).any())  # two neighbours tell what the step is
    widest = int(np.diff(kept).max()) - 1
    made = frames(step * kept, seed=seed)
    with pytest.raises(
        DataError, match=rf"missing slices: {len(gone)}, .*resample_missing: {widest}"
    ):
        stacked(made, missing=widest - 1)
    found = stacked(made, missing=widest)
    assert set(found.missing) == {
        count - 1 - number for number in gone
    }  # counted from the other end
    assert np.linalg.norm(found.step_mm) == pytest.approx(step)


@given(SEEDS, STEPS, st.integers(3, 20), st.integers(0, 19))
def test_a_slice_that_is_there_twice_is_refused(seed, step, count, twice):
    distances = step * np.arange(count)
    made = frames([*distances, distances[twice % count]], seed=seed)
    with pytest.raises(DataError, match="several slices in one place"):
        stacked(made, missing=99, shear=True)


@given(SEEDS, STEPS, st.integers(2, 8), st.integers(2, 5))
def test_slices_of_many_times_are_in_one_place_however_it_is_rounded(seed, step, count, times):
    rounding = 1e-4 * np.random.default_rng(seed).random((count, times))
    made = frames((step * np.arange(count)[:, None] + rounding).ravel(), seed=seed)
    with pytest.raises(DataError, match=f"several slices in one place: {times} at each of"):
        stacked(made, missing=99, shear=True)


@given(SEEDS, st.floats(3, 40), st.floats(1, 5))
def test_a_tilt_is_refused_with_its_angle_unless_it_is_to_be_corrected(seed, degrees, step):
    made = frames(step * np.arange(12), seed=seed, shift=(0, np.tan(np.radians(degrees))))
    with pytest.raises(DataError, match=rf"tilted by {degrees:.1f} degrees"):
        stacked(made)
    found = stacked(made, shear=True)
    assert found.is_tilted
    assert found.tilt_degrees == pytest.approx(degrees, abs=1e-6)


@given(SEEDS, st.floats(2, 5), st.integers(1, 8), st.floats(0.3, 0.45))
@example(seed=0, step=2.0, which=1, share=0.45)  # nearly on a grid of half the step
def test_one_slice_out_of_step_is_refused(seed, step, which, share):
    distances = step * np.arange(10)
    distances[which] += share * step
    with pytest.raises(DataError, match="odd distances"):
        stacked(frames(distances, seed=seed), missing=99, shear=True)


def test_one_slice_shifted_sideways_is_refused():
    made = frames(2.0 * np.arange(8), seed=1)
    one = made[3]
    moved = Place(one.place.position_mm + 3 * one.place.axes[0], one.place.axes, (0.7, 0.9))
    made[3] = Frame(one.file, 0, one.groups, moved)
    with pytest.raises(DataError, match="shifted sideways by up to 3"):
        stacked(made, missing=99, shear=True)


def test_a_tilt_that_changes_within_the_series_is_mixed_orientation():
    made = [*frames([0.0, 2, 4], seed=1), *frames([6.0, 8], seed=2)]
    with pytest.raises(DataError, match=r"mixed orientations: 3 slices of .* 2 slices of"):
        stacked(made, missing=99, shear=True)


@pytest.mark.parametrize("last", [60.0, 1e5])
def test_a_series_that_is_mostly_missing_is_none(last):
    with pytest.raises(DataError, match="odd distances"):
        stacked(frames([0.0, 1, 2, last], seed=1), missing=10**9, shear=True)
