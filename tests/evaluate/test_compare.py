import math
from dataclasses import replace

import numpy as np
import pytest

from medkd.config import Config
from medkd.evaluate.compare import compare, judge
from medkd.evaluate.score import Scores
from medkd.metrics.statistics import bootstrap_difference
from medkd.options import GateOptions
from medkd.results import (
    CaseScores,
    Interval,
    Latency,
    Percentiles,
    Reliability,
    RoleResult,
    verdict,
)
from medkd.types import Role
from tests.conftest import tiny_values

DICE = {
    Role.TEACHER: (0.9, 0.8, 0.85, 0.7),
    Role.BASELINE: (0.7, 0.6, 0.75, 0.5),
    Role.STUDENT: (0.88, 0.79, 0.86, 0.65),
}
SIZES = {Role.TEACHER: 1000, Role.BASELINE: 100, Role.STUDENT: 100}


def interval(value, low=None, high=None):
    return Interval(value=value, low=low, high=high, cases=4, patients=2)


def role_result(role, *, measured=True):
    times = Percentiles(p50=SIZES[role] / 10, p90=200.0, p99=300.0)
    latency = Latency(
        queries=64,
        threads=2,
        file_to_file_ms=times,
        network_ms=times,
        stages_ms={},
        cold_start_ms=1.0,
        peak_memory_mib=100.0,
        processor="a processor",
        load_average=0.0,
    )
    cases = tuple(
        CaseScores(case=f"case-{i}", patient=f"patient-{i // 2}", figures={"dice": dice})
        for i, dice in enumerate(DICE[role])
    )
    mean = sum(DICE[role]) / 4
    return RoleResult(
        role=role,
        model={"name": "m"},
        parameters=SIZES[role],
        macs=10 * SIZES[role],
        size_mib=1.5,
        temperature=1.0,
        headline={"dice": interval(mean, mean - 0.05, mean + 0.05), "ece": interval(0.1)},
        per_class={"dice/core": interval(0.6, 0.5, 0.7), "auroc/rare": interval(float("nan"))},
        cases=cases,
        reliability=Reliability(confidence=(), accuracy=(), count=()),
        failures={"misses": 2},
        latency=latency if measured else None,
    )


@pytest.fixture
def roles():
    return {role: role_result(role) for role in Role}


def scored(role):
    """Return the scores that stand behind ``role_result``."""
    result = role_result(role)
    hits = np.array(DICE[role]) > 0.8
    return Scores(
        patients=tuple(case.patient for case in result.cases),
        values={"dice": np.array(DICE[role])},
        statistics={
            "ece": lambda i: (
                float(np.median(np.array(DICE[role])[i])) if hits[i].any() else math.nan
            )
        },
        headline=result.headline,
        per_class=result.per_class,
        cases=result.cases,
        reliability=result.reliability,
        failures=result.failures,
    )


@pytest.fixture
def scores():
    return {role: scored(role) for role in Role}


@pytest.fixture
def config(tmp_path):
    return Config.model_validate(tiny_values(tmp_path, dims=3, task="segmentation"))


@pytest.fixture
def judged(roles, scores, config):
    """Judge one gate."""

    def judged(*, least_patients=1, **gate):
        evaluated = config.evaluate.model_copy(update={"least_patients": least_patients})
        gates = (GateOptions(**gate),)
        options = config.model_copy(update={"gates": gates, "evaluate": evaluated})
        results = judge(roles, compare(scores, options), options)
        return results if gates[0].each else results[0]

    return judged


def test_differences_are_paired_by_case_and_their_intervals_by_patient(scores, config):
    found = {
        (entry.of, entry.minus): entry.difference
        for entry in compare(scores, config)
        if entry.figure == "dice"
    }
    for of, minus in [("student", "teacher"), ("student", "baseline"), ("baseline", "teacher")]:
        assert found[of, minus].value == pytest.approx((sum(DICE[of]) - sum(DICE[minus])) / 4)
        assert found[of, minus].patients == 2
    expected = bootstrap_difference(
        np.array(DICE["student"]),
        np.array(DICE["teacher"]),
        ["patient-0", "patient-0", "patient-1", "patient-1"],
        draws=config.evaluate.bootstrap,
        seed=config.study.seed,
    )
    assert found["student", "teacher"].low == pytest.approx(expected.low)
    assert found["student", "teacher"].high == pytest.approx(expected.high)


def test_figures_that_are_no_means_are_compared_on_the_same_draws(scores, config):
    teacher = scores[Role.TEACHER]
    found = compare({Role.STUDENT: teacher, Role.TEACHER: teacher}, config)
    (ece,) = [entry.difference for entry in found if entry.figure == "ece"]
    assert (ece.value, ece.low, ece.high) == (0, 0, 0)


def test_roles_that_are_missing_are_not_compared(scores, config):
    del scores[Role.BASELINE]
    found = {(entry.of, entry.minus) for entry in compare(scores, config)}
    assert found == {("student", "teacher")}


def test_roles_scored_on_different_cases_are_refused(scores, config):
    turned = replace(scores[Role.STUDENT], cases=scores[Role.STUDENT].cases[::-1])
    with pytest.raises(AssertionError, match="different cases"):
        compare(scores | {Role.STUDENT: turned}, config)


@pytest.mark.parametrize(
    ("gate", "judged_by", "passed"),
    [
        # the less favourable end of the interval, not the value
        ({"figure": "dice", "at_least": 0.74}, 0.745, True),
        ({"figure": "dice", "at_least": 0.75}, 0.745, False),
        ({"figure": "dice", "at_most": 0.8}, 0.845, False),
        ({"figure": "dice/core", "of": "teacher", "at_least": 0.5}, 0.5, True),
        # plain numbers
        ({"figure": "parameters", "at_most": 99}, 100, False),
        ({"figure": "misses", "at_most": 2}, 2, True),
        ({"figure": "size_mib", "at_most": 2}, 1.5, True),
        ({"figure": "latency_p90_ms", "at_most": 200}, 200, True),
        ({"figure": "peak_memory_mib", "at_most": 50}, 100, False),
        # ratios
        ({"figure": "parameters", "over": "teacher", "at_most": 0.1}, 0.1, True),
        ({"figure": "macs", "over": "teacher", "at_most": 0.09}, 0.1, False),
        ({"figure": "network_ms", "over": "teacher", "at_most": 0.2}, 0.1, True),
        # differences of plain numbers
        ({"figure": "parameters", "minus": "teacher", "at_most": -900}, -900, True),
    ],
)
def test_a_gate_is_judged_by(judged, gate, judged_by, passed):
    result = judged(**gate)
    assert result.judged == pytest.approx(judged_by)
    assert result.passed is passed


def test_a_paired_difference_is_judged_by_its_own_interval(judged, scores, config):
    difference = compare(scores, config)[0].difference
    assert difference.low < difference.value < difference.high
    gate = {"figure": "dice", "minus": "teacher"}
    assert judged(**gate, at_least=-0.02).judged == difference.low
    assert judged(**gate, at_most=0.02).judged == difference.high


def test_a_difference_turned_round_keeps_its_interval(judged, scores, config):
    difference = compare(scores, config)[0].difference
    gate = {"figure": "dice", "of": "teacher", "minus": "student"}
    assert judged(**gate, at_least=-0.02).judged == -difference.high
    assert judged(**gate, at_most=0.02).judged == -difference.low


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({"figure": "auroc", "at_least": 0.5}, "auroc was not measured"),
        ({"figure": "auroc", "minus": "teacher", "at_least": 0.5}, "auroc was not measured"),
        ({"figure": "auroc/rare", "at_least": 0.5}, "auroc/rare is undefined on these cases"),
        ({"figure": "auroc/rare", "minus": "teacher", "at_most": 1}, "auroc/rare was not compared"),
        # a good figure of too few patients proves nothing
        ({"figure": "ece", "at_most": 0.1}, "ece has no interval: test patients: 2"),
    ],
)
def test_a_figure_that_is_missing_is_not_judged(judged, gate, reason):
    result = judged(**gate)
    assert (result.judged, result.passed) == (None, None)
    assert reason in result.reason


def test_an_interval_of_few_patients_judges_nothing(judged):
    assert judged(figure="dice", at_least=0.5, least_patients=2).passed
    result = judged(figure="dice", at_least=0.5, least_patients=3)
    assert (result.judged, result.passed) == (None, None)
    assert result.reason.startswith("inconclusive: 2 test patients")
    assert judged(figure="parameters", at_most=100, least_patients=3).passed  # has no interval


def test_an_interval_on_both_sides_of_the_bound_is_told_from_one_beyond_it(judged):
    across, beyond = (judged(figure="dice", at_least=bound) for bound in (0.8, 0.9))
    assert (across.passed, beyond.passed) == (False, False)
    assert across.reason == "inconclusive: its interval, 0.745 to 0.845, lies on both sides"
    assert not beyond.reason
    assert "lies on both sides" in verdict([across])[1][0]


@pytest.mark.parametrize(("minus", "passed"), [("teacher", False), ("baseline", True)])
def test_whoever_fails_more_often_than_the_teacher_is_not_as_good(judged, roles, minus, passed):
    failures = {"misses": 3, "false_alarms": 0}
    roles[Role.STUDENT] = roles[Role.STUDENT].model_copy(update={"failures": failures})
    result = judged(figure="dice", minus=minus, at_least=-0.5)
    assert result.passed is passed
    assert result.reason == ("" if passed else "misses rose from 2 to 3")


def test_each_class_is_a_gate_and_all_have_to_pass(judged, roles):
    student = roles[Role.STUDENT]
    both = student.per_class | {"dice/ball": interval(0.9, 0.85, 0.95)}
    roles[Role.STUDENT] = student.model_copy(update={"per_class": both})
    results = judged(figure="dice", each=True, at_least=0.7)
    assert [(result.gate, result.passed) for result in results] == [
        ("student dice/ball >= 0.7", True),
        ("student dice/core >= 0.7", False),
    ]


def test_latency_that_was_not_measured_is_not_judged(judged, roles):
    roles[Role.STUDENT] = role_result(Role.STUDENT, measured=False)
    result = judged(figure="network_ms", over="teacher", at_most=0.2)
    assert result.passed is None
    assert result.reason == "network_ms was not measured"


def test_a_role_that_is_missing_is_not_judged(judged, roles):
    del roles[Role.TEACHER]
    assert judged(figure="dice", minus="teacher", at_least=0.0).passed is None


def test_a_ratio_to_nothing_is_not_judged(judged, roles):
    roles[Role.TEACHER] = roles[Role.TEACHER].model_copy(update={"failures": {"misses": 0}})
    result = judged(figure="misses", over="teacher", at_most=1)
    assert (result.passed, result.reason) == (None, "teacher is 0")
