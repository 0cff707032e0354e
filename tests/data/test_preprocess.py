import dataclasses
import itertools

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.transforms import (
    ClipIntensityPercentiles,
    NormalizeIntensity,
    Orientation,
    Resize,
    ScaleIntensityRange,
    Spacing,
)
from scipy import ndimage

from medkd.data import nifti
from medkd.data.preprocess import from_grid, normalise, preprocess, to_grid
from medkd.errors import DataError
from medkd.options import PreprocessOptions
from medkd.types import Volume

RNG = np.random.default_rng(0)
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(["LR", "PA", "IS"])
    for codes in itertools.product(*axes)
]
WINDOW = (8, 8, 8)


def options(**values):
    return PreprocessOptions(**{"window": WINDOW} | values)


def volume_in(codes, *, shape=(9, 7, 5), spacing_mm=(1.0, 1.5, 4.0), channels=1):
    """Return noise whose axes point to ``codes``."""
    ornt = nibabel.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(ornt.astype(int)):
        affine[world, axis] = sign * spacing_mm[axis]
    affine[:, 3] = (11, -22, 33, 1)
    return Volume(RNG.normal(size=(channels, *shape)).astype(np.float32), affine)


def monai_oriented(volume, codes="RAS"):
    array = torch.from_numpy(volume.array.astype(np.float64))
    image = MetaTensor(array, affine=torch.from_numpy(volume.affine))
    return Orientation(codes, labels=None)(image)


def monai_spaced(volume, spacing_mm):
    """Resample with MONAI: the first voxel keeps its place."""
    spacing = Spacing(spacing_mm, mode="bilinear", padding_mode="border", align_corners=True)
    return spacing(monai_oriented(volume), dtype=torch.float64)


def monai_resized(volume, shape):
    resize = Resize(shape, mode="trilinear", align_corners=True, dtype=torch.float64)
    return np.asarray(resize(monai_oriented(volume)))


def on_grid(volume, **values):
    """Return the resampled image before its intensities are changed, and its grid."""
    _, grid = preprocess(volume, options(**values))
    return to_grid(volume.array, grid, order=1), grid


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_equals_monai_orientation_and_comes_back_exactly(codes):
    volume = volume_in(codes, channels=2)
    array, grid = on_grid(volume, channels=2)
    np.testing.assert_array_equal(array, np.asarray(monai_oriented(volume), np.float32))
    assert not grid.resampled
    np.testing.assert_array_equal(from_grid(array, grid, order=0), volume.array)


@pytest.mark.parametrize("target", ["RAS", "LPS", "SPR"])
def test_any_target_orientation_comes_back_exactly(target):
    volume = volume_in("PIL")
    array, grid = on_grid(volume, orientation=target)
    np.testing.assert_array_equal(array, np.asarray(monai_oriented(volume, target), np.float32))
    np.testing.assert_array_equal(from_grid(array, grid, order=0), volume.array)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
def test_equals_monai_spacing_where_the_last_centre_is_a_multiple(codes, factor):
    volume = volume_in(codes, shape=(9, 9, 9), spacing_mm=(1.0, 1.0, 1.0))
    spacing = (factor, 1.0, 0.5)
    array, grid = on_grid(volume, spacing_mm=spacing)
    np.testing.assert_allclose(array, monai_spaced(volume, spacing), atol=1e-5)
    assert grid.spacing_mm == pytest.approx(spacing)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "IRP", "PSR"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.2, 3.1), (3.0, 0.9, 4.3)])
def test_elsewhere_equals_monai_resize_to_the_shape_of_its_spacing(codes, spacing):
    # MONAI lets the last centre fall beside the image's; ours meets it, so that nothing is made up
    # and the way back is the same map. The spacing differs by less than half a step in all.
    volume = volume_in(codes, shape=(12, 9, 11), spacing_mm=(1.0, 1.5, 4.0))
    array, grid = on_grid(volume, spacing_mm=spacing)
    assert array.shape == tuple(monai_spaced(volume, spacing).shape)
    np.testing.assert_allclose(array, monai_resized(volume, grid.shape), atol=1e-5)
    steps = np.array(grid.shape) - 1
    assert (np.abs(np.array(grid.spacing_mm) / spacing - 1) * steps <= 0.5 + 1e-9).all()


def test_2d_size_equals_monai_resize():
    image = Volume(RNG.integers(0, 255, (3, 30, 41), dtype=np.uint8), np.eye(3))
    array, grid = preprocess(
        image, options(window=(16, 16), size=(16, 24), channels=3, intensity="unit")
    )
    resize = Resize((16, 24), mode="bilinear", align_corners=True, dtype=torch.float64)
    expected = np.asarray(resize(torch.from_numpy(image.array.astype(np.float64)))) / 255
    np.testing.assert_allclose(array, expected, atol=1e-5)
    assert from_grid(array, grid, order=1).shape == image.array.shape


def test_a_spacing_that_is_already_there_changes_nothing():
    volume = volume_in("RAS")
    array, grid = on_grid(volume, spacing_mm=(1.0005, 1.5, 3.999))
    assert not grid.resampled
    np.testing.assert_array_equal(array, volume.array)


@pytest.mark.parametrize("shape", [(1, 7, 5), (9, 7, 1), (2, 2, 2)])
def test_thin_volumes_are_resampled_and_come_back(shape):
    volume = volume_in("LPS", shape=shape)
    array, grid = on_grid(volume, spacing_mm=(2.0, 2.0, 2.0))
    back = from_grid(array, grid, order=1)
    assert back.shape == volume.array.shape
    assert np.isfinite(back).all()


@pytest.mark.parametrize("codes", ["RAS", "PIL"])
def test_a_straight_ramp_survives_resampling_and_comes_back(codes):
    volume = volume_in(codes, shape=(12, 10, 8))
    ramp = np.tensordot([0.3, -0.2, 0.7], np.indices(volume.shape), axes=1)[None]
    _, grid = on_grid(volume, spacing_mm=(1.7, 1.1, 2.3))
    there = to_grid(ramp, grid, order=1)
    np.testing.assert_allclose(from_grid(there, grid, order=1), ramp, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("shape", [(1, 31, 8), (19, 5, 16), (12, 1, 30), (40, 10, 24)])
def test_resampling_equals_scipys(shape, order):
    volume = volume_in("RAS", shape=(12, 10, 8))
    _, grid = on_grid(volume)
    steps = [(n - 1) / (t - 1) if t > 1 else 1 for n, t in zip(volume.shape, shape, strict=True)]
    expected = ndimage.affine_transform(
        volume.array[0], steps, output_shape=shape, order=order, mode="nearest"
    )
    actual = to_grid(volume.array, dataclasses.replace(grid, shape=shape), order=order)[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.0, 1.0, 2.5), (0.8, 2.0, 3.0)])
def test_a_label_that_is_resampled_and_comes_back_is_nearly_the_same(spacing, blob):
    volume = volume_in("LPS", shape=(40, 36, 30), spacing_mm=(1.0, 1.2, 2.5))
    label = blob(volume.shape, seed=1, smooth=3.0)[None].astype(np.uint8)
    _, grid = on_grid(volume, spacing_mm=spacing)
    there = to_grid(label, grid, order=0)
    back = from_grid(there, grid, order=0)
    assert set(np.unique(there)) == {0, 1}
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) > 0.9


@pytest.mark.parametrize("intensity", ["zscore", "percentile"])
def test_intensities_have_mean_0_and_standard_deviation_1(intensity):
    array, _ = preprocess(volume_in("RAS"), options(intensity=intensity))
    assert array.mean() == pytest.approx(0, abs=1e-5)
    assert array.std() == pytest.approx(1, abs=1e-4)
    assert array.dtype == np.float32


@given(
    arrays(np.float64, (1, 3, 4, 5), elements=st.integers(-1000, 1000).map(float)),
    st.floats(0.01, 1e4),
    st.floats(-1e4, 1e4),
    st.sampled_from(["zscore", "percentile"]),
)
def test_the_scale_and_offset_of_the_scanner_do_not_matter(array, scale, offset, intensity):
    one = normalise(array, intensity, dtype=array.dtype)
    other = normalise(scale * array + offset, intensity, dtype=array.dtype)
    if array.std() > 1e-2:
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("intensity", ["zscore", "percentile"])
def test_the_channels_of_a_volume_are_scaled_one_by_one_and_colours_together(intensity):
    rng = np.random.default_rng(0)
    channels = np.stack([rng.normal(1000, 300, (8, 8, 8)), rng.normal(1, 0.3, (8, 8, 8))])
    volume = normalise(channels.astype(np.float32), intensity, dtype=np.dtype("f4"))
    np.testing.assert_allclose(volume.std(axis=(1, 2, 3)), 1, rtol=0.01)
    colours = normalise(channels[:, 0].astype(np.float32), intensity, dtype=np.dtype("f4"))
    assert colours.std() == pytest.approx(1, rel=0.01)
    assert colours[0].mean() > colours[1].mean() + 1


def test_percentiles_cut_off_what_is_extreme():
    array = np.append(RNG.normal(size=999), 1e6).reshape(1, 10, 10, 10)
    assert normalise(array, "zscore", dtype=array.dtype).max() > 30
    assert normalise(array, "percentile", dtype=array.dtype).max() < 4


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_unit_is_the_range_of_the_type(dtype, top):
    volume = Volume(np.array([[[0, top], [top // 2, top]]], dtype), np.eye(3))
    array, _ = preprocess(volume, options(window=(2, 2), intensity="unit", orientation=None))
    np.testing.assert_allclose(array, volume.array / np.float32(top), rtol=1e-6)


def test_a_constant_image_becomes_zeros():
    volume = Volume(np.full((1, 4, 4, 4), 7, np.int16), np.eye(4))
    assert not preprocess(volume, options())[0].any()


def test_grey_becomes_colour_and_colour_becomes_luma():
    grey = Volume(RNG.integers(0, 255, (1, 4, 4), dtype=np.uint8), np.eye(3))
    colour = Volume(np.repeat(grey.array, 3, axis=0), grey.affine)
    two_d = {"window": (4, 4), "intensity": "unit"}
    as_colour, _ = preprocess(grey, options(channels=3, **two_d))
    np.testing.assert_array_equal(as_colour, preprocess(colour, options(channels=3, **two_d))[0])
    as_grey, _ = preprocess(colour, options(channels=1, **two_d))
    np.testing.assert_allclose(as_grey, preprocess(grey, options(**two_d))[0], atol=1e-6)


@pytest.mark.parametrize(
    ("array", "window", "message"),
    [
        (np.ones((1, 4, 4)), (8, 8, 8), "2 spatial axes, preprocess.window has 3"),
        (np.ones((1, 4, 4, 4)), (8, 8), "3 spatial axes, preprocess.window has 2"),
        (np.ones((2, 4, 4, 4)), (8, 8, 8), "2 channels, preprocess.channels is 1"),
        (np.full((1, 4, 4), np.nan), (8, 8), "NaN or infinite voxels; repair it"),
        (np.full((1, 4, 4), np.inf), (8, 8), "NaN or infinite voxels; repair it"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(array, window, message):
    with pytest.raises(DataError, match=message):
        preprocess(Volume(array, np.eye(array.ndim)), options(window=window))


def test_a_header_in_the_wrong_unit_is_refused_before_its_volume_is_made():
    metres = Volume(np.zeros((1, 40, 40, 40), np.uint8), np.diag([1000.0, 1000, 1000, 1]))
    with pytest.raises(DataError, match=r"preprocess\.reading\.memory_gib"):
        preprocess(metres, options(spacing_mm=(1, 1, 1)))


@pytest.mark.data
@pytest.mark.parametrize("case", ["STS_003", "STS_019", "STS_035"])
def test_equals_monai_on_real_images(case, data_root):
    volume = nifti.read(data_root / "sts_mr" / "imagesTr" / f"{case}.nii.gz")
    array, grid = on_grid(volume, spacing_mm=(1.2, 1.2, 2.5))
    assert array.shape == tuple(monai_spaced(volume, (1.2, 1.2, 2.5)).shape)
    scale = volume.array.max()
    resized = monai_resized(volume, grid.shape)
    np.testing.assert_allclose(array / scale, resized / scale, atol=1e-5)
    normal, _ = preprocess(volume, options(spacing_mm=(1.2, 1.2, 2.5)))
    np.testing.assert_allclose(normal, NormalizeIntensity()(torch.from_numpy(resized)), atol=1e-3)
    label = nifti.read(data_root / "sts_mr" / "labelsTr" / f"{case}.nii.gz").array.astype(np.uint8)
    back = from_grid(to_grid(label, grid, order=0), grid, order=0)
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) > 0.9


@pytest.mark.data
@pytest.mark.parametrize("case", ["STS_003", "STS_019", "STS_035"])
def test_every_way_to_scale_intensities_equals_monais_on_real_images(case, data_root):
    volume = nifti.read(data_root / "sts_mr" / "imagesTr" / f"{case}.nii.gz")
    image = torch.from_numpy(volume.array.astype(np.float32))
    clipped = ClipIntensityPercentiles(0.5, 99.5)(image)
    top = np.iinfo(np.int16).max
    for intensity, expected in {
        "zscore": NormalizeIntensity()(image),
        "percentile": NormalizeIntensity()(clipped),
        "unit": ScaleIntensityRange(0, top, 0, 1)(image),
    }.items():
        scaled = normalise(volume.array.astype(np.int16), intensity, dtype=np.dtype(np.int16))
        np.testing.assert_allclose(scaled, np.asarray(expected), atol=1e-4, err_msg=intensity)
