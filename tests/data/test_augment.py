import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import get_track_meta
from monai.transforms import RandAffine

from medkd.data.augment import augmentation
from medkd.errors import ConfigError
from medkd.options import AugmentOptions, PreprocessOptions
from medkd.seeding import derive_seed

SPATIAL = {
    "probability": 1.0,
    "flip_axes": (0, 1),
    "rotate_degrees": 20,
    "scale": 0.15,
    "translate": 0.1,
    "elastic_voxels": 1.0,
}
INTENSITY = {
    "probability": 1.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "gamma": 0.3,
    "noise_std": 0.1,
    "blur_sigma": 1.0,
    "bias_field": 0.2,
    "low_resolution": 0.5,
}
VALUES = np.array([-3.0, 2.0, 7.0], np.float32)  # of the image, by class
WINDOWS = [(32, 24), (16, 20, 12)]


def make(window, *, soft=True, spacing_mm=None, **options):
    """Return the augmentation, of arrays."""
    grid = PreprocessOptions(window=window, spacing_mm=spacing_mm)
    augment = augmentation(AugmentOptions(**options), grid, soft=soft)

    def of_arrays(patch, seed):
        moved = augment({key: torch.from_numpy(value) for key, value in patch.items()}, seed)
        assert {k: v.numpy().dtype for k, v in moved.items()} == {
            k: v.dtype for k, v in patch.items()
        }
        return {key: value.numpy() for key, value in moved.items()}

    return of_arrays


@pytest.fixture
def patch(blob):
    """Return a maker of patches whose image and soft target say what the label says."""

    def make(window):
        label = blob(window, seed=3, smooth=3.0).astype(np.uint8)
        label[blob(window, seed=4, smooth=3.0)] = 2
        soft = np.eye(3, dtype=np.float32)[label]
        valid = np.ones((1, *window), np.uint8)
        valid[:, :2] = 0
        return {
            "image": VALUES[label][None],
            "label": label[None],
            "soft": np.moveaxis(soft, -1, 0),
            "valid": valid,
        }

    return make


def copied(patch):
    return {key: value.copy() for key, value in patch.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", range(3))
def test_image_label_and_soft_target_move_together(window, seed, patch):
    before = patch(window)
    after = make(window, **SPATIAL)(copied(before), seed)
    assert not np.array_equal(after["label"], before["label"])
    nearest = np.abs(after["image"] - VALUES.reshape(3, *[1] * len(window))).argmin(axis=0)
    for class_of in (after["soft"].argmax(axis=0), nearest):
        assert (after["label"][0] == class_of).mean() > 0.9  # in 2D two passes, each rounds
    for key, value in before.items():
        assert after[key].shape == value.shape
    assert set(np.unique(after["label"])) <= {0, 1, 2}


def test_volumes_move_as_by_monai_map_by_map(patch):
    strength = {"rotate_degrees": 20, "scale": 0.15, "translate": 0.1}
    window, before = WINDOWS[1], patch(WINDOWS[1])
    after = make(window, probability=1.0, **strength)(copied(before), 7)
    monais = RandAffine(
        prob=1.0,
        rotate_range=[np.deg2rad(20)] * 3,
        scale_range=[0.15] * 3,
        translate_range=[0.1 * width for width in window],
        padding_mode="border",
    )
    monais.set_random_state(seed=derive_seed(7, 1))
    monais.randomize()
    for key, value in before.items():
        mode = "nearest" if key in ("label", "valid") else "bilinear"
        expected = np.asarray(monais(value, mode=mode, randomize=False))
        assert np.isclose(after[key], expected, atol=1e-4).mean() > 0.999  # ties of the nearest


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2, 2, 2), (1, 1, 3), (0.8, 2.4, 1.2)])
def test_bodies_are_turned_and_not_sheared_whatever_the_voxels(spacing_mm):
    window = (24, 24, 24)
    sides = np.array(spacing_mm).reshape(3, 1, 1, 1)
    places_mm = (sides * np.indices(window)).astype(np.float32)  # each voxel knows where it was
    before = {"image": places_mm, "valid": np.ones((1, *window), np.uint8)}
    augment = make(window, spacing_mm=spacing_mm, probability=1.0, rotate_degrees=10)
    inner = (slice(None), *[slice(9, 15)] * 3)  # beyond the border lies the border
    for seed in range(4):
        image = augment(copied(before), seed)["image"][inner]
        steps = [np.diff(image, axis=1 + axis).mean(axis=(1, 2, 3)) for axis in range(3)]
        turned = np.stack(steps, axis=1) / spacing_mm  # mm where it was, for a mm where it is
        np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=0.01)
        assert np.abs(turned - np.eye(3)).max() > 0.02


@pytest.mark.parametrize("window", WINDOWS)
def test_valid_voxels_move_with_the_image(window, patch):
    before = patch(window)
    before["label"] = before["valid"] * before["label"]
    marked = before | {"valid": before["label"].copy()}
    after = make(window, **SPATIAL)(marked, 1)
    np.testing.assert_array_equal(after["valid"], after["label"])


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("window", WINDOWS)
def test_soft_targets_stay_probabilities(window, classes, patch):
    before = patch(window)
    odds = np.random.default_rng(0).gamma(0.3, size=(classes, *window)) + 1e-6
    before["soft"] = (odds / odds.sum(axis=0)).astype(np.float32)
    augment = make(window, **SPATIAL)
    for seed in range(5):
        soft = augment(copied(before), seed)["soft"]
        assert soft.min() >= 0
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("sure", range(3))
@pytest.mark.parametrize("window", WINDOWS)
def test_what_is_hardly_likely_stays_so(window, sure, patch):
    """Tempered, a class that the teacher excludes must not come back from rounding."""
    before = patch(window)
    before["soft"] = np.full((3, *window), 1e-12, np.float32)
    before["soft"][sure] = 1 - 2e-12
    for seed in range(3):
        soft = make(window, **SPATIAL)(copied(before), seed)["soft"]
        np.testing.assert_allclose(np.delete(soft, sure, axis=0), 1e-12, rtol=1e-3)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_spatial_change_makes_up_no_intensity(window, patch):
    before = patch(window)
    after = make(window, **SPATIAL)(copied(before), 0)["image"]
    assert before["image"].min() - 1e-4 <= after.min()
    assert after.max() <= before["image"].max() + 1e-4
    flipped = make(window, flip_axes=(0, 1))(copied(before), 0)["image"]
    np.testing.assert_allclose(
        np.sort(flipped.ravel()), np.sort(before["image"].ravel()), atol=1e-5
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_an_intensity_change_touches_the_image_alone(window, patch):
    before = patch(window)
    after = make(window, **INTENSITY)(copied(before), 0)
    assert np.abs(after["image"] - before["image"]).max() > 0.01
    for key in ("label", "soft", "valid"):
        np.testing.assert_array_equal(after[key], before[key])


@pytest.mark.parametrize("window", WINDOWS)
def test_the_seed_decides_the_patch_whatever_came_before(window, patch):
    before = patch(window)
    augment = make(window, **SPATIAL | INTENSITY)
    first = {seed: augment(copied(before), seed) for seed in (1, 2, 3)}
    again = make(window, **SPATIAL | INTENSITY)
    for seed in (3, 1):
        assert_same(again(copied(before), seed), first[seed])
    assert not np.array_equal(first[1]["image"], first[2]["image"])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("options", [{"probability": 1.0}, SPATIAL | INTENSITY])
def test_without_strength_or_probability_nothing_changes(window, options, patch):
    before = patch(window)
    if len(options) > 1:
        options = options | {"probability": 0.0, "flip_axes": ()}
    after = make(window, **options)(copied(before), 0)
    for key, value in before.items():
        np.testing.assert_allclose(after[key], value, atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "strength",
    [
        {"rotate_degrees": 20},
        {"scale": 0.3},
        {"translate": 0.3},
        {"elastic_voxels": 2.0},
        {"flip_axes": (0,)},
    ],
)
def test_each_spatial_strength_moves_the_label(window, strength, patch):
    before, augment = patch(window), make(window, probability=1.0, **strength)
    moved = [augment(copied(before), seed)["label"] for seed in range(4)]
    assert any(not np.array_equal(label, before["label"]) for label in moved)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_translation_stays_below_its_share_of_the_window(window, patch):
    before = patch(window)
    for value in before.values():
        value[...] = 0
    corner = tuple(width // 2 for width in window)
    before["label"][(0, *corner)] = 1
    augment = make(window, probability=1.0, translate=0.2)
    for seed in range(6):
        places = np.argwhere(augment(copied(before), seed)["label"][0])
        if len(places):
            assert (np.abs(places - corner) <= 0.2 * np.array(window) + 1).all()


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (1, 1, 3)])
def test_a_translation_uses_its_share_of_the_window_along_each_axis(spacing_mm):
    window = (24, 24, 16)
    before = {"image": np.indices(window).astype(np.float32), "valid": np.ones((1, *window), bool)}
    augment = make(window, spacing_mm=spacing_mm, probability=1.0, translate=0.2)
    middle = (slice(None), *(width // 2 for width in window))
    came = np.array([augment(copied(before), seed)["image"][middle] for seed in range(20)])
    shares = np.abs(came - before["image"][middle]).max(axis=0) / window
    assert ((shares > 0.15) & (shares <= 0.2)).all()


@pytest.mark.parametrize("window", [(96, 80), (64, 64, 48)])
def test_an_elastic_change_moves_as_far_as_it_says_and_folds_nowhere(window):
    places = np.stack(np.indices(window)).astype(np.float32)  # each voxel knows where it was
    before = {"image": places, "valid": np.ones((1, *window), np.uint8)}
    augment = make(window, probability=1.0, elastic_voxels=1.5)
    inner = (slice(None), *[slice(16, -16)] * len(window))  # beyond the border lies the border
    moved = [augment(copied(before), seed)["image"][inner] - places[inner] for seed in range(6)]
    assert 0.9 < np.std(moved) < 2.2
    for bend in moved:
        for axis in range(len(window)):
            assert np.diff(bend[axis], axis=axis).min() > -1


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("strength", [{"bias_field": 0.3}, {"low_resolution": 0.6}])
def test_each_further_intensity_strength_changes_the_image(window, strength, patch):
    before, augment = patch(window), make(window, probability=1.0, **strength)
    after = augment(copied(before), 1)["image"]
    assert not np.allclose(after, before["image"])
    assert after.min() >= before["image"].min() - 1e-4  # a coil's gain leaves what is dark dark


def test_all_eight_symmetries_of_the_square_occur(patch):
    before, augment = patch((16, 16)), make((16, 16), transpose=True)
    seen = {augment(copied(before), seed)["label"].tobytes() for seed in range(60)}
    label = before["label"][0]
    turned = [np.rot90(view, k) for view in (label, label.T) for k in range(4)]
    assert seen == {np.ascontiguousarray(view).tobytes() for view in turned}


@pytest.mark.parametrize("window", [(16, 16), (16, 16, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_patch_without_label_and_soft_target_passes(window, channels):
    image = np.random.default_rng(0).normal(size=(channels, *window)).astype(np.float32)
    before = {"image": image, "valid": np.ones((1, *window), np.uint8)}
    after = make(window, **SPATIAL | INTENSITY | {"flip_axes": (0,)})(before, 0)
    assert {key: value.shape for key, value in after.items()} == {
        "image": (channels, *window),
        "valid": (1, *window),
    }


@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        ((16, 24), {"transpose": True}, "augment.transpose: needs a square 2D window"),
        ((16, 16, 16), {"transpose": True}, "augment.transpose: needs a square 2D window"),
        ((16, 16), {"flip_axes": (0, 2)}, r"augment.flip_axes: \[2\] are no axes"),
        ((16, 16), {"noise_std": 1.5}, r"augment.noise_std: 1.5 is more than images take; .* 1$"),
        ((16, 16), {"gamma": 0.995}, r"augment.gamma: 0.995 is more than images take; .* 0.99$"),
    ],
)
def test_a_change_that_the_window_cannot_have_is_refused(window, options, message):
    with pytest.raises(ConfigError, match=message):
        make(window, **options)


@pytest.mark.parametrize("turned", [{"rotate_degrees": 10}, {"transpose": True}])
def test_turning_pixels_that_are_no_squares_is_refused(turned):
    (name,) = turned
    with pytest.raises(ConfigError, match=rf"augment\.{name}: .* is \[1.0, 2.0\]\); make"):
        make((16, 16), spacing_mm=(1.0, 2.0), **turned)
    make((16, 16), spacing_mm=(2.0, 2.0005), **turned)
    make((16, 16), spacing_mm=(1.0, 2.0), scale=0.1, flip_axes=(0,))


def test_augmenting_asks_no_server():
    code = """
import sys
calls = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and calls.append(event))
from medkd.options import AugmentOptions, PreprocessOptions
from medkd.data.augment import augmentation
augmentation(AugmentOptions(rotate_degrees=9), PreprocessOptions(window=(8, 8)), soft=False)
assert "albumentations" in sys.modules
print([call for call in calls if call in ("socket.connect", "socket.getaddrinfo")])
"""
    inherited = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_augmenting_leaves_monai_as_it_was(patch):
    make((16, 20, 12), **SPATIAL | INTENSITY)(patch((16, 20, 12)), 0)
    assert get_track_meta()  # whether images keep their affines
