import numpy as np
import pytest
from PIL import Image

from medkd.evaluate.layers import LONGEST, MOST_BYTES, MOST_SLICES, draw_layers, uncertainty
from medkd.types import Volume

MARKS = ("reference", "teacher", "student", "disagreement", "uncertainty")


def volume(shape, *, spacing=None, channels=1):
    array = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    return Volume(array=array, affine=np.diag([*(spacing or (1.0,) * len(shape)), 1.0]))


def masks(shape):
    reference = np.zeros(shape, np.int64)
    reference[4:20, 5:15, 6:12] = 1
    reference[8:14, 7:11, 8:10] = 2
    student = np.roll(reference, 2, axis=0)
    differs = (reference != student).astype(np.uint8)
    marks = {"reference": reference, "teacher": reference.copy(), "student": student}
    return marks | {"disagreement": differs}


def sheet(folder, layers, name):
    """A layer's opacity, ``[slices, height, width]``."""
    with Image.open(folder / layers.paths[name]) as picture:
        opacity = np.asarray(picture.convert("RGBA"))[..., 3]
    return opacity.reshape(len(layers.slices), layers.height, layers.width)


@pytest.fixture
def drawn(tmp_path):
    shape = (24, 24, 20)
    unsure = np.zeros(shape)
    unsure[12, 12, 8] = 1.0
    layers = draw_layers(tmp_path, volume(shape), masks(shape), unsure=unsure, name="x")
    return tmp_path, layers


def test_the_slices_are_those_the_masks_touch_and_begin_where_the_reference_is_largest(drawn):
    _, layers = drawn
    assert layers.slices == tuple(range(6, 14)), "one more than touched, counted from 1"
    assert layers.of_slices == 20
    area = (masks((24, 24, 20))["reference"] > 0).sum(axis=(0, 1))
    assert layers.slices[layers.start] == area.argmax() + 1


def test_every_layer_has_the_same_slices_below_each_other(drawn):
    folder, layers = drawn
    assert set(layers.paths) == {"image", *MARKS}
    for name, path in layers.paths.items():
        with Image.open(folder / path) as picture:
            size = (layers.width, layers.height * len(layers.slices))
            assert picture.size == size, name
            assert picture.format == ("JPEG" if name == "image" else "PNG")


def test_the_student_is_filled_where_its_mask_is(drawn):
    folder, layers = drawn
    place = layers.slices.index(9)
    truth = np.rot90(masks((24, 24, 20))["student"][:, :, 8]) > 0
    shown = sheet(folder, layers, "student")[place] > 0
    step = layers.height / truth.shape[0]
    centres = ((np.arange(24) + 0.5) * step).astype(int)
    np.testing.assert_array_equal(shown[np.ix_(centres, centres)], truth)


def test_marks_differ_in_pattern_and_not_in_colour_alone(drawn):
    folder, layers = drawn
    share = {name: (sheet(folder, layers, name) > 0).mean() for name in MARKS}
    assert share["reference"] < 0.5 * share["student"], "an outline"
    assert 0.2 * share["student"] < share["teacher"] < 0.5 * share["student"], "a hatch"


def test_disagreement_lies_only_where_teacher_and_student_differ(drawn):
    folder, layers = drawn
    given = masks((24, 24, 20))
    agree = given["teacher"] == given["student"]
    for place, level in enumerate(layers.slices):
        shown = sheet(folder, layers, "disagreement")[place] > 0
        centres = ((np.arange(24) + 0.5) * layers.height / 24).astype(int)
        same = np.rot90(agree[:, :, level - 1])
        assert not (shown[np.ix_(centres, centres)] & same).any()
    assert (sheet(folder, layers, "disagreement") > 0).any()


def test_uncertainty_is_densest_where_the_student_is_least_sure(drawn):
    folder, layers = drawn
    shown = sheet(folder, layers, "uncertainty")
    assert set(np.unique(shown)) == {0, 230}
    assert (shown > 0).any(axis=(1, 2)).tolist() == [level == 9 for level in layers.slices]


def test_many_slices_are_thinned_and_the_bound_holds_for_the_noisiest_image(tmp_path):
    shape = (300, 280, 90)
    rng = np.random.default_rng(1)
    noisy = {name: rng.integers(0, 7, shape) for name in MARKS[:4]}
    layers = draw_layers(tmp_path, volume(shape), noisy, unsure=rng.random(shape), name="x")
    assert len(layers.slices) == MOST_SLICES
    assert max(layers.width, layers.height) == LONGEST
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < MOST_BYTES


def test_thick_pixels_are_drawn_in_their_true_proportions(tmp_path):
    shape = (24, 24, 20)
    image = volume(shape, spacing=(1.0, 2.0, 3.0))
    layers = draw_layers(tmp_path, image, masks(shape), unsure=np.zeros(shape), name="x")
    assert layers.height == pytest.approx(2 * layers.width, abs=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_has_one_slice(tmp_path, channels):
    flat = {name: mask[:, :, 8] for name, mask in masks((24, 24, 20)).items()}
    image = volume((24, 24), channels=channels)
    layers = draw_layers(tmp_path, image, flat, unsure=np.zeros((24, 24)), name="x")
    assert (layers.slices, layers.start) == ((1,), 0)


def test_empty_masks_are_drawn(tmp_path):
    empty = {name: np.zeros((12, 12, 9), int) for name in MARKS[:4]}
    layers = draw_layers(
        tmp_path, volume((12, 12, 9)), empty, unsure=np.zeros((12, 12, 9)), name="x"
    )
    assert layers.slices == tuple(range(1, 10))


def test_uncertainty_is_none_where_one_class_is_sure_and_whole_where_all_are_alike():
    probabilities = np.stack([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])
    np.testing.assert_allclose(uncertainty(probabilities), [0, 1, np.log(2) / np.log(3)], atol=1e-6)
