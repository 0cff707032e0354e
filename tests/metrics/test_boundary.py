import numpy as np
import pytest

from medkd.metrics.boundary import boundary_band


def test_the_band_equals_the_distances_of_all_pairs(blob):
    labels = blob((7, 8, 6), seed=3).astype(np.uint8)
    spacing = np.array([1.0, 1.5, 4.0])
    foreground = np.argwhere(labels) * spacing
    voxels = np.argwhere(np.ones_like(labels)) * spacing
    nearest = np.linalg.norm(voxels[:, None] - foreground[None], axis=-1).min(1)
    band = boundary_band(labels, spacing_mm=tuple(spacing), width_mm=3.1)
    np.testing.assert_array_equal(band.ravel(), nearest <= 3.1)
    assert 0 < band.mean() < 1


def test_the_band_without_foreground_is_empty():
    assert not boundary_band(np.zeros((4, 4), int), spacing_mm=(1.0, 1.0), width_mm=2.0).any()


@pytest.mark.parametrize(("spacing", "width"), [((1.0, 1.0), 0.0), ((1.0,), 2.0)])
def test_a_band_of_no_width_or_no_spacing_is_refused(spacing, width):
    with pytest.raises(ValueError, match=f"got width_mm {width}"):
        boundary_band(np.zeros((4, 4), int), spacing_mm=spacing, width_mm=width)
