import numpy as np
import pytest

from medkd.evaluate.stress import STRESSES, stressed, turned
from medkd.types import Volume

SHAPES = {2: (40, 36), 3: (24, 22, 20)}
PAIRS = [(stress, dims) for stress in STRESSES for dims in stress.dims]


@pytest.fixture
def image(blob):
    """Return a maker of an image with a bright structure, and the structure."""

    def make(dims, *, dtype=np.int16):
        mask = blob(SHAPES[dims], seed=0)
        rng = np.random.default_rng(0)
        array = 100 * mask + 30 + 5 * rng.normal(size=mask.shape)
        return Volume(array[None].astype(dtype), np.eye(dims + 1)), mask

    return make


def change(one, other):
    return float(np.abs(one.array.astype(float) - other.array).mean())


@pytest.mark.parametrize(("stress", "dims"), PAIRS, ids=lambda value: getattr(value, "name", value))
class TestEach:
    def test_grid_type_and_shape_stay(self, stress, dims, image):
        volume, _ = image(dims)
        worse = stressed(volume, stress, stress.strengths[-1], seed=0, case="a")
        assert (worse.array.shape, worse.array.dtype) == (volume.array.shape, volume.array.dtype)
        np.testing.assert_array_equal(worse.affine, volume.affine)
        assert change(worse, volume) > 0.5

    def test_harsher_is_further_away(self, stress, dims, image):
        volume, _ = image(dims)
        changes = [
            change(stressed(volume, stress, strength, seed=0, case="a"), volume)
            for strength in stress.strengths
        ]
        assert changes == sorted(changes)

    def test_the_seed_decides_and_the_original_is_left_alone(self, stress, dims, image):
        volume, _ = image(dims)
        before = volume.array.copy()
        one, same, other = (
            stressed(volume, stress, stress.strengths[-1], seed=seed, case=case).array
            for seed, case in ((0, "a"), (0, "a"), (0, "b"))
        )
        np.testing.assert_array_equal(one, same)
        np.testing.assert_array_equal(volume.array, before)
        is_random = stress.name in ("noise", "bias field", "missing slices")
        assert np.array_equal(one, other) != is_random

    def test_a_constant_image_passes(self, stress, dims, image):
        volume, _ = image(dims)
        flat = Volume(np.full_like(volume.array, 7), volume.affine)
        worse = stressed(flat, stress, stress.strengths[-1], seed=0, case="a")
        assert np.isfinite(worse.array.astype(float)).all()

    def test_intensities_are_relative(self, stress, dims, image):
        """An image in other units suffers alike."""
        volume, _ = image(dims, dtype=np.float64)
        scaled = Volume(3 * volume.array + 50, volume.affine)
        one, other = (
            stressed(each, stress, stress.strengths[1], seed=0, case="a").array
            for each in (volume, scaled)
        )
        np.testing.assert_allclose(3 * one + 50, other, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_label_turns_with_its_image(dims, image):
    volume, mask = image(dims)
    rotation = next(stress for stress in STRESSES if stress.name == "rotation")
    worse = stressed(volume, rotation, 20.0, seed=0, case="a")
    found, expected = worse.array[0] > 80, turned(mask.astype(np.uint8), 20.0).astype(bool)
    assert (found != expected).mean() < 0.03 < (found != mask).mean()


def test_channels_turn_together(image):
    volume, _ = image(2)
    colours = Volume(np.concatenate([volume.array] * 3), volume.affine)
    for stress, dims in PAIRS:
        if dims == 2 and stress.name != "noise":
            worse = stressed(colours, stress, stress.strengths[2], seed=0, case="a").array
            np.testing.assert_array_equal(worse[0], worse[2])


def test_a_field_of_slices_is_lost():
    volume = Volume(np.arange(1.0, 101.0).reshape(1, 1, 1, 100), np.eye(4))
    stress = next(stress for stress in STRESSES if stress.name == "missing slices")
    lost = stressed(volume, stress, 0.2, seed=0, case="a").array == 1
    assert lost.sum() in (20, 21)  # the first slice is dark as it is
