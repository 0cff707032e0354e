import re

import numpy as np
import pytest
from scipy import ndimage
from sklearn.covariance import ledoit_wolf

from medkd.data.preprocess import preprocess
from medkd.device.guard import (
    PERCENTILES,
    Guard,
    _percentiles,
    describe,
    fit_guard,
    shrunk_covariance,
)
from medkd.evaluate.stress import STRESSES, stressed
from medkd.options import PreprocessOptions
from medkd.types import Volume

OPTIONS = {
    3: PreprocessOptions(window=(16, 16, 16), intensity="zscore"),
    2: PreprocessOptions(window=(16, 16), intensity="zscore", orientation=None),
}
SHAPES = {3: (30, 34, 28), 2: (60, 64)}
DIMS = [2, 3]


def scan(dims, *, seed, spacing_mm=1.0):
    """Return an image of one kind: smooth structures, a little noise, any scale."""
    rng = np.random.default_rng(seed)
    shape = [n + int(rng.integers(-2, 3)) for n in SHAPES[dims]]
    structure = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    array = structure / structure.std() + 0.05 * rng.normal(size=shape)
    array = rng.uniform(10, 1000) * (array + rng.uniform(5, 6))
    affine = np.diag([*[spacing_mm * rng.uniform(0.97, 1.03)] * dims, 1.0])
    return Volume(array[None].astype(np.float32), affine)


def described(volume):
    return describe(*preprocess(volume, OPTIONS[volume.dims]))


@pytest.fixture(scope="module", params=DIMS, ids=["2D", "3D"])
def guarded(request):
    """A guard for images of one kind, and how many axes they have."""
    dims = request.param
    training = [described(scan(dims, seed=seed)) for seed in range(80)]
    held_out = [described(scan(dims, seed=1000 + seed)) for seed in range(40)]
    return fit_guard(training, held_out, accept=0.95), dims


def test_images_of_the_same_kind_pass_about_as_often_as_was_asked(guarded):
    guard, dims = guarded
    found = [guard.check(described(scan(dims, seed=5000 + seed))) for seed in range(100)]
    assert 0.85 <= np.mean([not finding.is_unlike for finding in found]) <= 1
    assert np.mean([finding.distance for finding in found]) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_a_harsh_stress_is_noticed(guarded, stress):
    guard, dims = guarded
    if dims not in stress.dims or stress.name == "rotation":  # this kind looks alike from all sides
        pytest.skip("not for these images")
    # gamma bends to either side, and below 1 it hardly bends images of few dark voxels
    harsh = 2.0 if stress.name == "gamma" else stress.strengths[-1]
    flags = []
    for seed in range(10):
        worse = stressed(scan(dims, seed=seed), stress, harsh, seed=0, case="a")
        flags.append(guard.check(described(worse)).is_unlike)
    assert np.mean(flags) >= 0.8


def test_what_is_foreign_is_flagged_and_named(guarded):
    guard, dims = guarded
    finding = guard.check(described(scan(dims, seed=0, spacing_mm=2.0)))
    assert finding.is_unlike
    (spacing, *_) = [reason for reason in finding.reasons if reason.startswith("spacing of axis")]
    assert re.search(r": (2|1\.9\d) mm, expected 0\.97\d?-1\.03", spacing)
    noise = np.random.default_rng(0).normal(size=(1, *SHAPES[dims])).astype(np.float32)
    assert guard.check(described(Volume(noise, np.eye(dims + 1)))).is_unlike
    empty = Volume(np.zeros((1, *SHAPES[dims]), np.float32), np.eye(dims + 1))
    assert guard.check(described(empty)).is_unlike


@pytest.mark.parametrize("scale", [1e20, 1e36])
def test_what_leaves_float32_is_flagged(guarded, scale):
    guard, dims = guarded
    volume, unit = scan(dims, seed=0), OPTIONS[dims].model_copy(update={"intensity": "unit"})
    array = np.float32(scale) * (volume.array / volume.array.max())
    huge = Volume(array, volume.affine)
    finding = guard.check(describe(*preprocess(huge, unit)))
    assert finding.is_unlike
    assert finding.verdict.startswith("unlike the validated data")


@pytest.mark.parametrize("dims", DIMS)
def test_a_scale_that_preprocessing_removes_plays_no_part(dims):
    volume = scan(dims, seed=0)
    scaled = Volume(7 * volume.array + 100, volume.affine)
    for name, value in described(volume).items():
        assert described(scaled)[name] == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_the_axes_are_the_networks(guarded):
    guard, dims = guarded
    if dims == 2:
        pytest.skip("images have no orientation")
    volume = scan(dims, seed=0)
    array = np.moveaxis(volume.array, 1, 3)[:, :, :, ::-1]  # stored otherwise, in the same place
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]]) * volume.spacing_mm[0]
    stored = described(Volume(np.ascontiguousarray(array), affine))
    assert stored == pytest.approx(described(volume), rel=1e-3, abs=1e-3)
    del guard


def test_it_is_the_same_after_writing_and_reading(guarded):
    guard, dims = guarded
    read = Guard.model_validate_json(guard.model_dump_json())
    assert read == guard
    image = described(scan(dims, seed=3))
    assert read.check(image) == guard.check(image)


def test_a_guard_judges_by_as_many_voxels_as_it_was_fitted_on(guarded):
    guard, dims = guarded
    shape = (200, 200) if dims == 2 else (40, 40, 30)
    array, grid = preprocess(
        Volume(np.random.default_rng(0).normal(size=(1, *shape)), np.eye(dims + 1)), OPTIONS[dims]
    )
    assert guard.judge(array, grid) == guard.check(describe(array, grid, sample=2**14))
    former = Guard.model_validate(guard.model_dump(exclude={"sample"}))  # as it was written then
    exact = former.judge(array, grid)
    assert exact == guard.check(describe(array, grid, sample=2**16))
    assert exact != guard.judge(array, grid)


@pytest.mark.parametrize("images", [8, 30, 300])
def test_the_shrunk_covariance_is_scikit_learns(images):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(images, 12)) @ rng.normal(size=(12, 12))
    expected, _ = ledoit_wolf(rows)
    np.testing.assert_allclose(shrunk_covariance(rows), expected, atol=1e-4)


def test_of_few_validation_images_the_furthest_sets_the_limit():
    training = [described(scan(2, seed=seed)) for seed in range(20)]
    held_out = [described(scan(2, seed=100 + seed)) for seed in range(4)]
    guard = fit_guard(training, held_out, accept=0.95)
    assert guard.limit == max(guard.check(each).distance for each in held_out)


def test_a_guard_of_nothing_is_refused():
    one = described(scan(2, seed=0))
    with pytest.raises(ValueError, match="1 and 1"):
        fit_guard([one], [one], accept=0.95)
    with pytest.raises(ValueError, match="2 and 0"):
        fit_guard([one, one], [], accept=0.95)


def test_percentiles_are_numpys():
    sample = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    np.testing.assert_allclose(_percentiles(sample), np.percentile(sample, PERCENTILES), rtol=1e-6)


@pytest.mark.parametrize("shape", [(128, 128, 64), (256, 256, 32), (64, 128, 130)])
def test_a_large_image_is_described_as_all_its_voxels_would_be(shape):
    """Shapes whose voxels lie in steps that a regular sample would meet again and again."""
    rng = np.random.default_rng(0)
    body = ndimage.gaussian_filter(rng.normal(size=shape), 4)
    body[: shape[0] // 8] = body.min()  # air at one side
    array = normalised(body)
    exact = np.percentile(array, PERCENTILES)
    for order in ("C", "F"):
        image = np.asarray(array, order=order)[None]
        found = describe(image, grid_of(shape))
        told = [found[f"percentile {p}"] for p in PERCENTILES]
        np.testing.assert_allclose(told, exact, atol=0.05)
        assert found["mean intensity"] == pytest.approx(0, abs=1e-3)
        assert found["spread of intensities"] == pytest.approx(1, abs=1e-3)
        assert found["share at the minimum"] == pytest.approx(0.125, abs=0.01)


def normalised(array):
    return ((array - array.mean()) / array.std()).astype(np.float32)


def grid_of(shape):
    options = OPTIONS[3].model_copy(update={"intensity": "unit"})
    return preprocess(Volume(np.zeros((1, *shape), np.float32), np.eye(4)), options)[1]
