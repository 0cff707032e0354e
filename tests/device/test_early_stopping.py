import numpy as np
import pytest
from scipy import stats

from medkd.device.early_stopping import latency_bound, slower_allowed


# the appendix of MLPerf's inference rules, for a confidence of 99 % and no tolerance
@pytest.mark.parametrize(
    ("percentile", "queries", "slower"),
    [(0.9, 44, 0), (0.9, 64, 1), (0.9, 43, None), (0.9, 63, 0), (0.99, 459, 0), (0.99, 662, 1)],
)
def test_the_published_numbers(percentile, queries, slower):
    assert slower_allowed(queries, percentile=percentile, confidence=0.99) == slower


@pytest.mark.parametrize("queries", [44, 100, 777, 20_000])
def test_equals_the_binomial_distribution_of_scipy(queries):
    allowed = slower_allowed(queries, percentile=0.9, confidence=0.99)
    assert (
        stats.binom.cdf(allowed, queries, 0.1) <= 0.01 < stats.binom.cdf(allowed + 1, queries, 0.1)
    )


def test_the_true_percentile_is_exceeded_as_rarely_as_is_said():
    draws = np.random.default_rng(0).exponential(size=(4000, 100))
    bounds = np.array([latency_bound(row.tolist()) for row in draws])
    assert (bounds < -np.log(0.1)).mean() <= 0.014


@pytest.mark.parametrize("bad", [{"percentile": 1.0}, {"confidence": 0.0}])
def test_what_is_no_share_is_refused(bad):
    with pytest.raises(ValueError, match="lie in"):
        latency_bound([1.0], **bad)
