import numpy as np
import pytest

from medkd.data.start.fingerprint import Fingerprint
from medkd.data.start.plan import plan
from medkd.types import Task


def data(shape=(100, 100, 100), spacing=(1.0, 1.0, 1.0), **changes):
    told = {
        "task": Task.SEGMENTATION,
        "cases": 100,
        "patients": 100,
        "channels": 1,
        "shapes": np.array([shape] * 3),
        "spacings_mm": np.array([spacing] * 3),
        "is_byte": False,
        "lows": np.array([0.0]),
        "highs": np.array([900.0]),
        "shares": {"background": 0.9, "organ": 0.1},
        "thinnest": 30.0,
    }
    return Fingerprint(**(told | changes))


def value(found, key):
    return plan(found)[key].value


def test_hippocampus_is_planned_as_by_nnunet():
    found = data((35, 50, 36))
    assert value(found, "preprocess.spacing_mm") == [1, 1, 1]
    assert value(found, "preprocess.window") == [40, 56, 40]
    assert value(found, "preprocess.intensity") == "zscore"
    assert value(found, "quick.window") == [40, 56, 40]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((512, 512, 300), (0.8, 0.8, 1.0)),
        ((320, 320, 20), (0.6, 0.6, 3.6)),
        ((20, 20, 20), (1.0, 1.0, 1.0)),
        ((1000, 30, 30), (1.0, 1.0, 1.0)),
    ],
)
def test_a_window_fits_budget_image_and_network(shape, spacing):
    found = data(shape, spacing)
    for key, budget in (("preprocess.window", 128**3), ("quick.window", 64**3)):
        window = value(found, key)
        levels = len(value(found, "teacher.model")["filters"]) - 1
        assert np.prod(window) <= budget
        assert all(edge % 2**levels == 0 for edge in window)
        assert all(edge < size + 2**levels for edge, size in zip(window, shape, strict=True))


def test_thick_slices_take_the_finest_tenth():
    spacings = np.array([[0.6, 0.6, thick] for thick in [3.0, *[4.0] * 9]])
    found = data((320, 320, 20), spacings_mm=spacings, shapes=np.array([(320, 320, 20)] * 10))
    assert value(found, "preprocess.spacing_mm") == [0.6, 0.6, pytest.approx(3.9)]
    usual = data((320, 320, 200), spacings_mm=spacings, shapes=np.array([(320, 320, 200)] * 10))
    assert value(usual, "preprocess.spacing_mm") == [0.6, 0.6, 4.0]


def test_hounsfield_units_are_clipped():
    found = data(lows=np.array([-1000.0]), highs=np.array([800.0]))
    assert value(found, "preprocess.intensity") == "percentile"
    assert "Hounsfield" in plan(found)["preprocess.intensity"].why


def test_rare_classes_weigh_more_and_common_ones_need_no_weights():
    rare = data(shares={"background": 0.96, "organ": 0.039, "lesion": 0.001})
    weights = value(rare, "distill.class_weights")
    assert weights[0] == 1
    assert weights == sorted(weights)
    assert weights[1] == pytest.approx((0.96 / 0.039) ** 0.5, rel=0.05)
    assert max(weights) == 10
    assert value(data(), "distill.class_weights") is None


def test_thin_structures_are_computed_at_full_resolution():
    assert value(data(thinnest=6.0), "student.model")["first_stride"] == 1
    assert "first_stride" not in value(data(), "student.model")


def test_a_classifier_looks_at_whole_images_of_a_bearable_size():
    found = data((256, 300), (1.0, 1.0), task=Task.CLASSIFICATION)
    assert value(found, "preprocess.window") == value(found, "preprocess.size") == [224, 224]
    small = data((28, 28), (1.0, 1.0), task=Task.CLASSIFICATION)
    assert value(small, "preprocess.size") == [28, 28]
    assert value(small, "teacher.model")["stem_stride"] == 1


def test_every_choice_that_follows_from_the_data_says_why():
    chosen = plan(data())
    for key in ("spacing_mm", "window", "intensity"):
        assert chosen[f"preprocess.{key}"].why
    for key in ("teacher.model", "student.model", "teacher.train", "distill.class_weights"):
        assert chosen[key].why


def weights_of(**changes):
    found = plan(data(**changes))
    teacher, student = (found[f"{role}.train"] for role in ("teacher", "student"))
    assert teacher.value.get("class_weights") == student.value.get("class_weights")
    return teacher.value.get("class_weights"), teacher.why


def test_a_rare_class_weighs_by_its_inverse_frequency_in_what_labels_teach():
    shares = {"well": 0.9, "ill": 0.09, "very ill": 0.01}
    weights, why = weights_of(task=Task.CLASSIFICATION, shares=shares)
    assert weights == {"ill": 10, "very ill": 10}
    assert "very ill takes 1.00% of the cases: inverse frequency, at most 10" in why
    even = {str(n): 0.1 for n in range(10)}  # many classes, of which none is rare beside others
    for shares in (even, {"well": 0.7, "ill": 0.3}):
        assert weights_of(task=Task.CLASSIFICATION, shares=shares)[0] is None


def test_only_a_structure_of_few_voxels_weighs_more_in_what_labels_teach():
    shares = {"background": 0.96, "organ": 0.03980, "lesion": 0.0002}
    weights, why = weights_of(shares=shares)
    assert weights == {"lesion": pytest.approx(3.2)}
    assert "lesion takes 0.020% of the voxels" in why
    assert weights_of(shares={"background": 0.9, "organ": 0.099, "lesion": 0.001})[0] is None
