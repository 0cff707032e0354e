import nibabel
import numpy as np
import pytest
from scipy import ndimage, special

from medkd.data.activation import softmax
from medkd.data.preprocess import from_grid, preprocess
from medkd.data.reader import read_image
from medkd.device import load
from medkd.device.window import predict_windows
from medkd.errors import DataError, ReleaseError
from medkd.types import Volume

ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "IRP"]
VALUES = np.array([0, 7, 255])


def volume_in(array, codes, spacing_mm):
    """Return a RAS image with its axes reordered to point to ``codes``."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-20, 5, 40)
    image = nibabel.Nifti1Image(array, affine)
    target = nibabel.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), target)
    )
    return Volume(turned.get_fdata(dtype=np.float32)[None], turned.affine)


def in_ras(array, affine):
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine)).get_fdata()


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.0, 1.2, 3.0)], ids=["same", "resampled"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_mask_lies_on_the_images_own_grid_whatever_its_orientation(
    release_3d, scan, codes, spacing
):
    predictor, array = load(release_3d), scan((21, 17, 12))
    upright = predictor.predict(volume_in(array, "RAS", spacing))
    volume = volume_in(array, codes, spacing)
    mask = predictor.answer(volume).mask
    assert mask.shape == volume.shape
    assert set(np.unique(upright)) == set(VALUES)
    np.testing.assert_array_equal(in_ras(mask.astype(np.int16), volume.affine), upright)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.0, 1.2, 3.0)], ids=["same", "resampled"])
def test_probabilities_sum_to_1_and_the_likeliest_is_the_mask(release_3d, scan, spacing):
    volume = volume_in(scan((21, 17, 12)), "LPS", spacing)
    predictor = load(release_3d)
    answer = predictor.answer(volume, with_probabilities=True)
    assert answer.probabilities.shape == (3, *volume.shape)
    np.testing.assert_allclose(answer.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(VALUES[answer.probabilities.argmax(axis=0)], answer.mask)
    np.testing.assert_array_equal(predictor.answer(volume).mask, answer.mask)
    assert predictor.answer(volume).probabilities is None


def test_equals_its_parts_put_together_by_hand(release_3d, scan):
    volume = volume_in(scan((21, 17, 12)), "PIR", (1.0, 1.2, 3.0))
    predictor = load(release_3d, threads=1)
    array, grid = preprocess(volume, predictor.manifest.preprocess)
    logits = predict_windows(predictor._engine, array, window=(8, 8, 8), overlap=0.25)
    expected = from_grid(softmax(logits / 1.5), grid, order=1)
    actual = predictor.answer(volume, with_probabilities=True).probabilities
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_release_may_decide_before_the_way_back(release_3d, changed, scan):
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.0, 1.2, 3.0))
    predictor = load(changed(release_3d, postprocess={"argmax_first": True}), threads=1)
    array, _ = preprocess(volume, predictor.manifest.preprocess)
    logits = predict_windows(predictor._engine, array, window=(8, 8, 8), overlap=0.25)
    steps = [(n - 1) / (t - 1) for n, t in zip(array.shape[1:], volume.shape, strict=True)]
    places = np.meshgrid(*(np.arange(n) * s for n, s in zip(volume.shape, steps, strict=True)),
                         indexing="ij")  # fmt: skip
    nearest = tuple(np.floor(p + 0.5).astype(int) for p in places)
    expected = VALUES[logits.argmax(axis=0)[nearest]]
    np.testing.assert_array_equal(predictor.answer(volume).mask, expected)


def test_rules_of_the_manifest_tidy_the_mask(release_3d, changed, scan):
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.5, 1.5, 1.5))
    before = load(release_3d).answer(volume).mask
    rules = {"largest_component": ["lesion"], "fill_holes": ["organ"]}
    after = load(changed(release_3d, postprocess=rules)).answer(volume).mask
    numbered, count = ndimage.label(before == 255, structure=np.ones((3, 3, 3)))
    assert count > 1
    largest = numbered == np.bincount(numbered.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(after == 255, largest)
    assert (after[before == 7] == 7).all()


def test_a_release_without_a_guard_cannot_be_strict(release_3d, scan):
    predictor = load(release_3d)
    assert predictor.manifest.guard is None
    with pytest.raises(DataError, match="has no guard"):
        predictor.answer(Volume(scan((20, 20, 20))[None], np.eye(4)), strict=True)


def test_confidence_is_the_mean_probability_of_what_was_found(release_3d, scan):
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.5, 1.5, 1.5))
    answer = load(release_3d).answer(volume, with_probabilities=True)
    for index, name in ((1, "organ"), (2, "lesion")):
        inside = answer.probabilities[index][answer.mask == VALUES[index]]
        assert answer.confidence[name] == pytest.approx(inside.mean(), abs=1e-5)
    assert "background" not in answer.confidence


def test_a_promise_tells_the_volume_of_all_that_may_be_a_structure(release_3d, changed, scan):
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.5, 1.5, 1.5))
    promise = {"promised": 0.9, "thresholds": {"organ": 0.2, "lesion": 0.4}, "cases": 30}
    answer = load(changed(release_3d, conformal=promise)).answer(volume, with_probabilities=True)
    for index, (name, threshold) in enumerate(promise["thresholds"].items(), start=1):
        possible = (answer.probabilities[index] >= threshold).sum() * 1.5**3 / 1000
        assert answer.conformal_ml[name] == pytest.approx(possible, rel=1e-3)
    assert load(release_3d).answer(volume).conformal_ml == {}


@pytest.mark.parametrize(("threshold", "possible"), [(0.0, 2), (0.9999, 1)])
def test_a_promise_tells_which_classes_are_possible(release_classes, changed, threshold, possible):
    promise = {"promised": 0.9, "thresholds": {"set": threshold}, "cases": 30}
    image = Volume(np.full((1, 20, 12), 30, np.uint8), np.eye(3))
    answer = load(changed(release_classes, conformal=promise)).answer(image)
    assert len(answer.possible) == possible
    assert "dark" in answer.possible
    assert answer.confidence == {"dark": pytest.approx(answer.probabilities[0])}


@pytest.mark.parametrize("shape", [(16, 16), (9, 40), (50, 33)])
def test_pictures_of_any_size(release_2d, scan, shape):
    image = Volume(np.clip(scan(shape), 0, 255).astype(np.uint8)[None], np.eye(3))
    answer = load(release_2d).answer(image, with_probabilities=True)
    assert answer.mask.shape == shape
    assert set(np.unique(answer.mask)) <= set(VALUES)
    np.testing.assert_array_equal(VALUES[answer.probabilities.argmax(axis=0)], answer.mask)


def test_a_temperature_softens_and_moves_no_mask(release_2d, changed, scan):
    image = Volume(scan((30, 20))[None], np.eye(3))
    hot = changed(release_2d, temperature=6.0)
    one, other = (load(r).answer(image, with_probabilities=True) for r in (release_2d, hot))
    np.testing.assert_array_equal(one.mask, other.mask)
    assert other.probabilities.max(axis=0).mean() < one.probabilities.max(axis=0).mean()


@pytest.mark.parametrize(("value", "likeliest"), [(30, 0), (220, 1)])
def test_classes_are_tempered_probabilities(release_classes, value, likeliest):
    image = Volume(np.full((1, 20, 12), value, np.uint8), np.eye(3))
    answer = load(release_classes).answer(image)
    logits = np.array([-4, 4]) * value / 255 + [2, -2]
    np.testing.assert_allclose(answer.probabilities, softmax(logits / 1.5), atol=1e-5)
    assert answer.probabilities.argmax() == likeliest
    assert answer.mask is None
    np.testing.assert_array_equal(load(release_classes).predict(image), answer.probabilities)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 9, 9)), "2 spatial axes, preprocess.window has 3"),
        (np.zeros((2, 9, 9, 9)), "2 channels, preprocess.channels is 1"),
        (np.full((1, 9, 9, 9), np.nan), "NaN or infinite voxels"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(release_3d, array, reason):
    with pytest.raises(DataError, match=reason):
        load(release_3d).answer(Volume(array, np.eye(array.ndim)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("release", ["release_3d", "release_overlapping", "release_classes"])
def test_an_answer_that_is_not_finite_is_none(request, release, value):
    predictor = load(request.getfixturevalue(release))
    engine, window = predictor._engine, predictor.manifest.preprocess.window

    def broken(windows):
        logits = engine(windows).copy()
        logits[:, :, *[-1] * (logits.ndim - 2)] = value
        return logits

    predictor._engine = broken
    image = np.random.default_rng(0).integers(0, 255, (1, *window)).astype(np.uint8)
    with pytest.raises(DataError, match=r"not finite: .* correct their scale"):
        predictor.answer(Volume(image, np.diag([*[1.5] * len(window), 1])))


@pytest.mark.parametrize("names", [2, 4])
def test_a_network_of_other_classes_than_the_manifest_is_refused(release_3d, changed, names):
    values = {"classes": list("abcd"[:names]), "label_values": list(range(names))}
    image = Volume(np.zeros((1, 9, 9, 9)), np.eye(4))
    with pytest.raises(ReleaseError, match=f"answers for 3 classes, the manifest names {names}"):
        load(changed(release_3d, **values)).answer(image)


@pytest.mark.data
def test_a_dicom_series_and_its_nifti_twin_get_the_same_mask(release_3d, data_root):
    folder = data_root / "dicom" / "series" / "sts_025_mr"
    predictor, masks = load(release_3d), []
    for path in (folder / "dicom", folder / "image.nii.gz"):
        volume = read_image(path)
        masks.append(in_ras(predictor.answer(volume).mask.astype(np.int16), volume.affine))
    assert (masks[0] != masks[1]).mean() < 1e-4


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (1.0, 1.2, 3.0)])
def test_structures_that_overlap_are_where_their_own_probability_is_a_half(
    release_overlapping, scan, codes, spacing_mm
):
    volume = volume_in(scan((21, 17, 12)), codes, spacing_mm)
    predictor = load(release_overlapping, threads=1)
    answer = predictor.answer(volume, with_probabilities=True)
    assert answer.mask.shape == answer.probabilities.shape == (2, *volume.shape)
    sure = np.abs(answer.probabilities - 0.5) > 1e-4
    np.testing.assert_array_equal(answer.mask[sure], (answer.probabilities >= 0.5)[sure])
    organ, lesion = answer.mask.astype(bool)
    assert 0 < (organ & lesion).sum() == lesion.sum() < organ.sum()
    array, grid = preprocess(volume, predictor.manifest.preprocess)
    logits = predict_windows(predictor._engine, array, window=(8, 8, 8), overlap=0.25)
    expected = from_grid(special.expit(logits / 1.5), grid, order=1)
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


def test_confidence_and_promises_of_structures_that_overlap_are_their_own(
    release_overlapping, changed, scan
):
    promise = {"promised": 0.9, "thresholds": {"organ": 0.2, "lesion": 0.8}, "cases": 30}
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.5, 1.5, 1.5))
    release = changed(release_overlapping, conformal=promise)
    answer = load(release).answer(volume, with_probabilities=True)
    for index, (name, threshold) in enumerate(promise["thresholds"].items()):
        p = answer.probabilities[index]
        expected = p[answer.mask[index] == 1].mean()
        assert answer.confidence[name] == pytest.approx(expected, abs=1e-5)
        volume_ml = (p >= threshold).sum() * 1.5**3 / 1000
        assert answer.conformal_ml[name] == pytest.approx(volume_ml, rel=1e-3)


def test_rules_tidy_structures_that_overlap_each_by_itself(release_overlapping, changed, scan):
    volume = volume_in(scan((21, 17, 12)), "RAS", (1.5, 1.5, 1.5))
    before = load(release_overlapping).answer(volume).mask
    rules = {"largest_component": ["lesion"]}
    after = load(changed(release_overlapping, postprocess=rules)).answer(volume).mask
    numbered, count = ndimage.label(before[1], structure=np.ones((3, 3, 3)))
    assert count > 1
    largest = numbered == np.bincount(numbered.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(after, np.stack([before[0], largest]))


def test_one_temperature_a_structure_moves_no_mask(release_overlapping_2d, changed, scan):
    image = Volume(scan((30, 20))[None], np.eye(3))
    hot = changed(release_overlapping_2d, temperature=[6.0, 0.5])
    one, other = (
        load(r).answer(image, with_probabilities=True) for r in (release_overlapping_2d, hot)
    )
    np.testing.assert_array_equal(one.mask, other.mask)
    logits = special.logit(one.probabilities.astype(float))
    expected = special.expit(1.5 * logits / np.array([6.0, 0.5]).reshape(2, 1, 1))
    np.testing.assert_allclose(other.probabilities, expected, atol=1e-4)


class TestFindings:
    """Probabilities are independent, and each finding has its own thresholds."""

    def answer(self, release, left, right):
        picture = np.full((1, 8, 8), right, np.uint8)
        picture[..., :4] = left
        return load(release).answer(Volume(picture, np.eye(3)))

    @pytest.mark.parametrize(
        ("left", "right", "found"),
        [(0, 0, []), (255, 255, ["dark"]), (200, 0, ["bright"]), (255, 64, ["dark", "bright"])],
    )
    def test_both_neither_or_one_may_be_found(self, release_findings, left, right, found):
        answer = self.answer(release_findings, left, right)
        logits = np.array([6 * (left + right) / 510 - 3, 6 * (left - right) / 255 - 3])
        np.testing.assert_allclose(answer.probabilities, 1 / (1 + np.exp(-logits / 1.5)), atol=1e-4)
        assert list(answer.confidence) == found
        assert answer.mask is None

    def test_a_finding_is_found_from_its_operating_point_on(self, release_findings, changed):
        release = changed(
            release_findings,
            operating_points={"dark": 0.1, "bright": 0.99},
            conformal={"promised": 0.9, "thresholds": {"dark": 0.3, "bright": 0.01}, "cases": 9},
        )
        answer = self.answer(release, 0, 0)
        assert answer.confidence == {"dark": pytest.approx(1 / (1 + np.e**2), abs=1e-4)}
        assert answer.possible == ("bright",)
