import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medkd.metrics.overlap import dice, iou, ppv, sensitivity

SHAPES = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)


@st.composite
def mask_pairs(draw):
    shape = draw(SHAPES)
    return draw(arrays(bool, shape)), draw(arrays(bool, shape))


@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        (dice, f1_score),
        (iou, jaccard_score),
        (sensitivity, recall_score),
        (ppv, precision_score),
    ],
)
def test_equals_scikit_learn(metric, oracle, blob):
    prediction, reference = blob((20, 21, 22), seed=0), blob((20, 21, 22), seed=1)
    assert metric(prediction, reference) == pytest.approx(
        oracle(reference.ravel(), prediction.ravel())
    )


@given(mask_pairs())
def test_dice_and_iou_are_symmetric_and_tell_the_same(pair):
    prediction, reference = pair
    assert dice(prediction, reference) == dice(reference, prediction)
    assert iou(prediction, reference) == iou(reference, prediction)
    overlap = iou(prediction, reference)
    assert dice(prediction, reference) == pytest.approx(2 * overlap / (1 + overlap))


@given(mask_pairs(), st.data())
def test_a_further_wrong_voxel_never_scores_better(pair, data):
    prediction, reference = pair
    voxel = data.draw(st.sampled_from(list(np.ndindex(reference.shape))))
    worse = prediction.copy()
    worse[voxel] = not reference[voxel]
    for metric in (dice, iou, sensitivity):
        assert metric(worse, reference) <= metric(prediction, reference)
