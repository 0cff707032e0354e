import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.metrics.volume import agreement, volume_ml


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "expected"),
    [
        ((10, 10, 10), (1.0, 1.0, 1.0), 1.0),
        ((4, 5, 10), (0.5, 2.0, 5.0), 1.0),
        ((10, 20), (1.0, 0.5), 1.0),
    ],
)
def test_a_full_mask_has_the_volume_of_its_box(shape, spacing_mm, expected):
    assert volume_ml(np.ones(shape, bool), spacing_mm=spacing_mm) == pytest.approx(expected)


def test_parts_add_up(blob):
    mask = blob((12, 13, 14), seed=0)
    parts = [mask[:5], mask[5:]]
    volumes = [volume_ml(part, spacing_mm=(0.7, 0.8, 3.0)) for part in parts]
    assert sum(volumes) == pytest.approx(volume_ml(mask, spacing_mm=(0.7, 0.8, 3.0)))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -2.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing_mm):
    with pytest.raises(ValueError, match="spacing_mm needs 3 positive numbers"):
        volume_ml(np.ones((2, 2, 2), bool), spacing_mm=spacing_mm)


def test_the_limits_hold_95_percent_of_normal_differences():
    rng = np.random.default_rng(0)
    reference = rng.uniform(1, 5, 20_000)
    measured = reference + rng.normal(0.3, 0.2, len(reference))
    found = agreement(measured, reference)
    assert found.bias == pytest.approx(0.3, abs=0.01)
    inside = (found.low <= measured - reference) & (measured - reference <= found.high)
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


@given(st.floats(-5, 5))
def test_a_constant_error_is_bias_alone(error):
    reference = np.linspace(1, 2, 9)
    found = agreement(reference + error, reference)
    assert [found.bias, found.low, found.high] == pytest.approx([error] * 3, abs=1e-9)
    assert found.cases == 9


@pytest.mark.parametrize(
    ("measured", "reference"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 1.0])]
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_compared_is_refused(measured, reference):
    with pytest.raises(ValueError, match="agreement"):
        agreement(np.array(measured), np.array(reference))
