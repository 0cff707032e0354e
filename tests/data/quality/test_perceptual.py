import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from medkd.data.quality.perceptual import BITS, NEAR_BITS, near_groups, perceptual_hash


def smooth(shape, *, seed):
    noise = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(noise, 3)
    return (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)


def apart(one, other):
    return (np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).view(np.uint8)


def bits_apart(one, other):
    return int(np.bitwise_count(apart(perceptual_hash(one), perceptual_hash(other))).sum())


@pytest.mark.parametrize("seed", range(4))
def test_equals_imagehash_where_that_resizes_nothing(seed):
    picture = smooth((32, 32), seed=seed)
    theirs = imagehash.phash(Image.fromarray(picture), hash_size=16, highfreq_factor=2)
    ours = np.unpackbits(np.frombuffer(perceptual_hash(picture[None]), np.uint8))
    assert np.array_equal(ours.reshape(16, 16).astype(bool), theirs.hash)


@pytest.mark.parametrize("shape", [(96, 80), (48, 40, 36)], ids=["2D", "3D"])
class TestHash:
    def test_outlives_scaling_noise_and_another_range(self, shape):
        image = smooth(shape, seed=0)[None].astype(np.float32)
        noise = np.random.default_rng(1).normal(size=image.shape)
        larger = ndimage.zoom(image, [1] + [1.5] * len(shape), order=1)
        for other in (3 * image + 100, image + 2 * noise, larger):
            assert bits_apart(image, other) <= NEAR_BITS

    def test_tells_other_images_apart(self, shape):
        image = smooth(shape, seed=0)[None]
        assert all(bits_apart(image, smooth(shape, seed=s)[None]) > 60 for s in range(1, 6))

    def test_has_no_say_of_a_shape_or_a_constant(self, shape):
        image = smooth(shape, seed=0)[None]
        assert perceptual_hash((image > 128).astype(np.uint8)) is None
        assert perceptual_hash(np.zeros_like(image)) is None


def flipped(row, *, bits, rng):
    spread = np.unpackbits(row)
    spread[rng.choice(BITS, bits, replace=False)] ^= 1
    return np.packbits(spread)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
@settings(max_examples=30)
def test_groups_are_those_of_comparing_all_with_all_up_to_15_bits(seed, count):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    for number in range(1, count, 3):
        rows[number] = flipped(rows[number - 1], bits=int(rng.integers(0, 15)), rng=rng)
    distance = np.bitwise_count(rows[:, None] ^ rows[None]).sum(axis=2)
    _, expected = connected_components(distance <= NEAR_BITS, directed=False)
    groups = [np.flatnonzero(expected == number).tolist() for number in np.unique(expected)]
    assert sorted(near_groups(rows)) == sorted(group for group in groups if len(group) > 1)


def test_pairs_among_100000_are_found_and_equal_ones_are_one_group():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (100_000, 32), dtype=np.uint8)
    planted = [[number, 50_000 + number] for number in range(1000)]
    for one, other in planted:
        rows[other] = flipped(rows[one], bits=one % 16, rng=rng)
    rows[90_000:93_000] = rows[90_000]
    assert sorted(near_groups(rows)) == [*planted, list(range(90_000, 93_000))]


def test_what_is_near_to_one_of_a_group_is_of_it():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, 32, dtype=np.uint8)
    spread = np.unpackbits(first)
    rows = [first]
    for number in range(3):
        spread[number * 10 : number * 10 + 10] ^= 1
        rows.append(np.packbits(spread))
    assert near_groups(np.stack(rows)) == [[0, 1, 2, 3]]


def test_without_hashes_there_are_no_groups():
    assert near_groups(np.empty((0, 32), np.uint8)) == []
