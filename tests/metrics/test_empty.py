import numpy as np
import pytest

from medkd.metrics.empty import (
    Emptiness,
    emptiness,
    empty_distance,
    empty_score,
    volume_diagonal,
)
from medkd.metrics.overlap import dice, iou, ppv, sensitivity
from medkd.metrics.surface import assd, hd95, nsd, surface_distances

EMPTY, FULL = np.zeros((3, 4, 12), bool), np.ones((3, 4, 12), bool)
TABLE = [
    (EMPTY, EMPTY, Emptiness.BOTH, 1.0, 0.0),
    (EMPTY, FULL, Emptiness.MISS, 0.0, 13.0),
    (FULL, EMPTY, Emptiness.FALSE_ALARM, 0.0, 13.0),
]


@pytest.mark.parametrize(("prediction", "reference", "kind", "score", "distance"), TABLE)
def test_every_metric_follows_the_table(prediction, reference, kind, score, distance):
    assert emptiness(prediction, reference) is kind
    assert empty_score(kind) == score
    assert empty_distance(kind, diagonal_mm=13.0) == distance
    distances = surface_distances(prediction, reference, spacing_mm=(1.0, 1.0, 1.0))
    overlaps = [metric(prediction, reference) for metric in (dice, iou, sensitivity, ppv)]
    assert [*overlaps, nsd(distances, tolerance_mm=1.0)] == [score] * 5
    assert [hd95(distances), assd(distances)] == [distance] * 2


def test_nothing_is_replaced_where_both_masks_have_voxels():
    kind = emptiness(FULL, FULL)
    assert kind is Emptiness.NEITHER
    assert empty_score(kind) is None
    assert empty_distance(kind, diagonal_mm=13.0) is None


def test_no_distance_is_longer_than_the_diagonal():
    corners = np.zeros((2, 5, 6, 7), bool)
    corners[0, 0, 0, 0] = corners[1, -1, -1, -1] = True
    far = hd95(surface_distances(*corners, spacing_mm=(1.0, 2.0, 3.0)))
    assert far <= volume_diagonal((5, 6, 7), spacing_mm=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((3, 4)), "boolean; got prediction float64, reference bool"),
        (np.zeros((4, 3), bool), r"prediction \(4, 3\), reference \(3, 4\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_masks_that_cannot_be_compared_are_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        emptiness(prediction, np.zeros((3, 4), bool))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, np.nan)])
def test_spacing_that_is_no_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="one positive number per axis"):
        volume_diagonal((4, 4), spacing_mm=spacing)
