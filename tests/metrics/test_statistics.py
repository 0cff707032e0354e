import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medkd.metrics.classification import auroc
from medkd.metrics.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_p_value,
    bootstrap_statistic,
    holm,
)


def clustered(*, seed=0, patients=60, each=2):
    """Values that patients share in part, with mean 0.8."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0.8, 0.1, patients).repeat(each)
    names = np.arange(patients).repeat(each).astype(str)
    return own + rng.normal(0, 0.03, own.size), list(names)


def ends(interval):
    return [interval.value, interval.low, interval.high]


def test_the_value_is_the_mean_over_cases_and_lies_inside():
    values, patients = clustered()
    interval = bootstrap_mean(values, patients)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low < interval.value < interval.high
    assert (interval.cases, interval.patients) == (120, 60)


def test_95_percent_intervals_cover_the_truth_about_95_times_of_100():
    intervals = [bootstrap_mean(*clustered(seed=seed), draws=400) for seed in range(400)]
    covered = np.mean([i.low <= 0.8 <= i.high for i in intervals])
    assert 0.91 <= covered <= 0.98


def test_equals_scipy_when_each_patient_has_one_case():
    values, patients = clustered(each=1)
    ours = bootstrap_mean(values, patients, draws=4000)
    scipy = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = scipy.high - scipy.low
    assert [ours.low, ours.high] == pytest.approx([scipy.low, scipy.high], abs=0.1 * width)


def test_a_copy_of_every_case_is_no_further_evidence():
    values, patients = clustered()
    twice = bootstrap_mean(np.tile(values, 2), patients * 2)
    assert ends(twice) == pytest.approx(ends(bootstrap_mean(values, patients)))


def test_cases_taken_for_patients_make_the_interval_too_narrow():
    values, patients = clustered(each=6)
    right = bootstrap_mean(values, patients)
    wrong = bootstrap_mean(values, [str(n) for n in range(len(values))])
    assert wrong.high - wrong.low < 0.6 * (right.high - right.low)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(random):
    values, patients = clustered(patients=10)
    order = list(range(20))
    random.shuffle(order)
    shuffled = bootstrap_mean(values[order], [patients[n] for n in order], draws=50)
    assert ends(shuffled) == pytest.approx(ends(bootstrap_mean(values, patients, draws=50)))


def test_the_seed_alone_decides_the_draws():
    values, patients = clustered()
    assert bootstrap_mean(values, patients, seed=1) == bootstrap_mean(values, patients, seed=1)
    assert bootstrap_mean(values, patients, seed=1) != bootstrap_mean(values, patients, seed=2)


def test_a_higher_level_is_a_wider_interval():
    values, patients = clustered()
    narrow, wide = (bootstrap_mean(values, patients, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_difference_is_paired_and_changes_sign_with_its_sides():
    values, patients = clustered()
    better = values + np.random.default_rng(1).normal(0.02, 0.005, values.size)
    gain, loss = (
        bootstrap_difference(better, values, patients),
        bootstrap_difference(values, better, patients),
    )
    assert 0.018 < gain.low < gain.high < 0.022  # far narrower than either mean's interval
    assert ends(loss) == pytest.approx([-gain.value, -gain.high, -gain.low])


def test_equal_values_have_a_zero_difference_exactly():
    values, patients = clustered()
    assert ends(bootstrap_difference(values, values, patients)) == [0.0, 0.0, 0.0]


def test_a_statistic_that_is_a_mean_is_the_mean():
    values, patients = clustered()
    statistic = bootstrap_statistic(lambda cases: values[cases].mean(), patients)
    assert ends(statistic) == pytest.approx(ends(bootstrap_mean(values, patients)))


def test_auroc_has_an_interval_though_some_draws_hold_one_class_only():
    score = np.array([0.1, 0.6, 0.4, 0.9])
    probabilities, labels = np.stack([1 - score, score], axis=1), np.array([0, 0, 1, 1])
    interval = bootstrap_statistic(
        lambda cases: auroc(probabilities[cases], labels[cases]), list("abcd"), draws=100
    )
    assert interval.value == 0.75
    assert 0 <= interval.low < 0.75
    assert interval.high == 1


def test_a_figure_mostly_undefined_has_no_interval():
    interval = bootstrap_statistic(lambda _: math.nan, list("abcd"), draws=10)
    assert math.isnan(interval.value)
    assert (interval.low, interval.high) == (None, None)


def test_one_patient_has_no_interval():
    values = np.array([0.7, 0.9])
    for interval in (
        bootstrap_mean(values, ["a", "a"]),
        bootstrap_statistic(lambda cases: values[cases].mean(), ["a", "a"], draws=5),
    ):
        assert ends(interval) == [pytest.approx(0.8), None, None]
        assert (interval.cases, interval.patients) == (2, 1)


def test_a_p_value_says_what_the_interval_says():
    rng = np.random.default_rng(1)
    patients = [f"{i // 2}" for i in range(60)]
    for shift in np.linspace(-0.1, 0.1, 9):
        values = rng.normal(shift, 0.2, 60)
        low = bootstrap_mean(values, patients, draws=999).low
        p = bootstrap_p_value(lambda i, v=values: v[i].mean(), patients, bound=0.0, draws=999)
        assert (p <= 0.025) == (low >= 0)


def test_undefined_draws_count_against_a_claim():
    assert bootstrap_p_value(lambda _: math.nan, list("abcd"), bound=0.0, draws=9) == 1


def test_holm_is_wrong_about_any_of_three_true_nulls_as_rarely_as_it_says():
    rng, patients, wrong = np.random.default_rng(0), [str(i) for i in range(40)], 0
    for trial in range(200):
        classes = rng.normal(0, 1, (3, 40))
        p = [
            bootstrap_p_value(
                lambda i, v=v: v[i].mean(), patients, bound=0.0, draws=199, seed=trial
            )
            for v in classes
        ]
        wrong += holm(np.array(p)).min() <= 0.1
    assert wrong / 200 <= 0.16  # 0.1 and three standard errors; uncorrected it is 0.27


def test_holm_keeps_order_and_never_exceeds_one():
    adjusted = holm(np.array([0.9, 0.001, 0.5, 0.02]))
    assert adjusted.tolist() == pytest.approx([1.0, 0.004, 1.0, 0.06])


@pytest.mark.parametrize(
    ("values", "patients", "options", "message"),
    [
        (np.zeros(0), [], {}, "at least one case"),
        (np.zeros(2), ["a"], {}, "2 values .* 1 patients"),
        (np.array([0.5, np.nan]), ["a", "b"], {}, "1 not finite"),
        (np.zeros(2), ["a", "b"], {"draws": 0}, "got 0 and 0.95"),
        (np.zeros(2), ["a", "b"], {"level": 95.0}, "got 2000 and 95.0"),
    ],
)
def test_what_cannot_be_resampled_is_refused(values, patients, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, patients, **options)


@pytest.mark.usefixtures("unchecked")
def test_a_difference_of_other_cases_is_refused():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        bootstrap_difference(np.zeros(2), np.zeros(3), ["a", "b"])
