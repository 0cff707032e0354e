import nibabel
import numpy as np
import pytest
import surface_distance as deepmind
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medkd.metrics.surface import assd, hd95, nsd, surface_distances

# The oracle is frozen and calls SciPy by its old names.
pytestmark = pytest.mark.filterwarnings(r"ignore:Please import `\w+` from the `scipy.ndimage`")

GRIDS = [((24, 20, 9), (1.0, 1.0, 5.0)), ((20, 24, 16), (0.7, 1.3, 2.1)), ((40, 30), (0.5, 1.7))]
MASKS = arrays(bool, (5, 4, 4)).filter(np.any)


def metrics(prediction, reference, *, spacing_mm, tolerance_mm):
    distances = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    return nsd(distances, tolerance_mm=tolerance_mm), hd95(distances), assd(distances)


def deepmind_metrics(prediction, reference, *, spacing_mm, tolerance_mm):
    distances = deepmind.compute_surface_distances(reference, prediction, spacing_mm)
    return (
        deepmind.compute_surface_dice_at_tolerance(distances, tolerance_mm),
        deepmind.compute_robust_hausdorff(distances, 95),
        np.mean(deepmind.compute_average_surface_distance(distances)),
    )


def assert_equal_to_deepmind(prediction, reference, **grid):
    ours = metrics(prediction, reference, **grid)
    assert ours == pytest.approx(deepmind_metrics(prediction, reference, **grid), abs=5e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_equals_deepmind(shape, spacing, seed, blob):
    prediction, reference = blob(shape, seed=seed), blob(shape, seed=seed + 100)
    assert_equal_to_deepmind(prediction, reference, spacing_mm=spacing, tolerance_mm=2.05)


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_equals_deepmind_for_masks_that_touch_the_edge(shape, spacing):
    prediction, reference = np.ones(shape, bool), np.zeros(shape, bool)
    reference[2:] = True
    assert_equal_to_deepmind(prediction, reference, spacing_mm=spacing, tolerance_mm=0.9)


@pytest.mark.data
@pytest.mark.parametrize("case", ["STS_003", "STS_019", "STS_035"])
def test_equals_deepmind_on_tumours(case, data_root):
    image = nibabel.load(data_root / "sts_mr" / "labelsTr" / f"{case}.nii.gz")
    spacing = tuple(float(s) for s in image.header.get_zooms())
    reference = np.asanyarray(image.dataobj) > 0
    shifted = np.roll(reference, (3, -2, 1), axis=(0, 1, 2))
    for prediction in (shifted, ndimage.binary_erosion(reference, iterations=2)):
        assert_equal_to_deepmind(prediction, reference, spacing_mm=spacing, tolerance_mm=2.05)


def test_parallel_planes_are_as_far_apart_as_they_are():
    prediction, reference = np.zeros((2, 40, 40, 12), bool)
    prediction[:, :, :5] = reference[:, :, :7] = True
    distances = surface_distances(prediction, reference, spacing_mm=(1.0, 1.0, 2.5))
    assert distances.to_reference.max() == 5.0
    assert nsd(distances, tolerance_mm=5.0) == 1.0
    assert nsd(distances, tolerance_mm=4.9) < 0.8


def test_the_surface_of_a_cuboid_is_nearly_its_textbook_area():
    cuboid = np.pad(np.ones((30, 20, 10), bool), 2)
    distances = surface_distances(cuboid, cuboid, spacing_mm=(1.0, 2.0, 3.0))
    textbook = 2 * (30 * 40 + 30 * 30 + 40 * 30)
    assert distances.reference_areas.sum() == pytest.approx(textbook, rel=0.06)


def test_rounding_of_the_spacing_does_not_move_a_distance_over_the_tolerance():
    reference = np.pad(np.ones((8, 8, 8), bool), 3)
    prediction = np.roll(reference, 1, axis=0)
    spacing = (1 + 1e-7, 1.0, 1.0)
    assert metrics(prediction, reference, spacing_mm=spacing, tolerance_mm=1.0)[0] == 1.0


@given(MASKS, MASKS)
def test_both_orders_of_the_masks_score_the_same(prediction, reference):
    grid = {"spacing_mm": (1.0, 1.5, 4.0), "tolerance_mm": 1.2}
    there, back = metrics(prediction, reference, **grid), metrics(reference, prediction, **grid)
    assert there == pytest.approx(back)


@given(MASKS, MASKS, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_the_world_leaves_nsd_and_scales_distances(prediction, reference, scale):
    spacing = (1.0, 1.5, 4.0)
    small = metrics(prediction, reference, spacing_mm=spacing, tolerance_mm=1.5)
    large = metrics(
        prediction,
        reference,
        spacing_mm=tuple(scale * s for s in spacing),
        tolerance_mm=scale * 1.5,
    )
    assert large == pytest.approx((small[0], scale * small[1], scale * small[2]))


@given(MASKS, st.tuples(*[st.integers(0, 3)] * 3))
def test_moving_both_masks_changes_nothing(reference, shift):
    prediction = reference[::-1]
    grid = {"spacing_mm": (1.0, 1.5, 4.0), "tolerance_mm": 1.2}
    pad = [(s, 3 - s) for s in shift]
    moved = metrics(np.pad(prediction, pad), np.pad(reference, pad), **grid)
    assert moved == pytest.approx(metrics(prediction, reference, **grid))


@given(MASKS, MASKS, st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_wider_tolerance_never_scores_worse(prediction, reference, one, other):
    distances = surface_distances(prediction, reference, spacing_mm=(1.0, 1.5, 4.0))
    narrow, wide = sorted([one, other])
    assert nsd(distances, tolerance_mm=narrow) <= nsd(distances, tolerance_mm=wide)


def test_a_prediction_that_spills_further_never_scores_better():
    reference = np.pad(np.ones((8, 8, 8), bool), 10)
    predictions = np.zeros((10, *reference.shape), bool)
    for spill, prediction in enumerate(predictions):
        prediction[(slice(10 - spill, 18 + spill),) * 3] = True
    grid = {"spacing_mm": (1.0, 1.0, 2.0), "tolerance_mm": 1.5}
    scores = [metrics(prediction, reference, **grid) for prediction in predictions]
    overlaps, *distances = np.array(scores).T
    assert scores[0] == (1.0, 0.0, 0.0)
    assert (np.diff(overlaps) <= 0).all()
    assert (np.diff(distances) >= 0).all()


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(tolerance):
    distances = surface_distances(*np.ones((2, 3, 3), bool), spacing_mm=(1.0, 1.0))
    with pytest.raises(ValueError, match=f"positive, got {tolerance}"):
        nsd(distances, tolerance_mm=tolerance)


def test_masks_of_one_or_four_axes_are_refused():
    for dims in (1, 4):
        with pytest.raises(ValueError, match="2D and 3D"):
            surface_distances(*np.ones((2, *[3] * dims), bool), spacing_mm=[1.0] * dims)
