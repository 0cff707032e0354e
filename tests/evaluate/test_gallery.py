import pytest

from medkd.config import Config
from medkd.evaluate.gallery import MOST_FAILURES, chosen
from medkd.results import CaseScores
from tests.conftest import tiny_values


@pytest.fixture
def config(tmp_path):
    values = tiny_values(tmp_path, dims=3, task="segmentation")
    values["evaluate"] |= {"overlays": 2, "dice_failure": 0.5}
    return Config.model_validate(values)


def case(dice, **wrong):
    return CaseScores(case=f"case-{dice}", patient="p", figures={"dice": dice}, **wrong)


def test_worst_cases_come_first_then_median_and_best(config):
    cases = [case(dice) for dice in (0.9, 0.6, 0.7, 0.8, 0.95)]
    assert chosen(cases, "dice", config) == [
        ("worst 1", 1),
        ("worst 2", 2),
        ("median", 3),
        ("best", 4),
    ]


def test_every_further_failure_is_shown_up_to_a_bound(config):
    cases = [case(0.1 + i / 100) for i in range(20)]
    ranks = [rank for rank, _ in chosen(cases, "dice", config)]
    failed = [rank for rank in ranks if rank.startswith("failed")]
    assert len(failed) == MOST_FAILURES
    indices = [i for rank, i in chosen(cases, "dice", config) if rank.startswith(("worst", "fail"))]
    assert len(set(indices)) == len(indices)


def test_a_missed_or_invented_structure_is_a_failure_whatever_its_dice(config):
    cases = [case(0.8), case(0.81), case(0.9, misses=("core",)), case(0.91, false_alarms=("core",))]
    assert [i for rank, i in chosen(cases, "dice", config) if rank.startswith("failed")] == [2, 3]


def test_a_wrong_class_is_a_failure(config):
    figures = [{"probability_of_truth": p, "correct": float(p > 0.5)} for p in (0.1, 0.2, 0.3, 0.9)]
    cases = [CaseScores(case=str(i), patient="p", figures=f) for i, f in enumerate(figures)]
    found = chosen(cases, "probability_of_truth", config)
    assert [i for rank, i in found if rank.startswith("failed")] == [2]


@pytest.mark.parametrize("cases", [1, 2, 5])
def test_as_many_worst_cases_are_shown_as_there_are(config, cases):
    ranks = [rank for rank, _ in chosen([case(0.9)] * cases, "dice", config)]
    assert ranks == [f"worst {n + 1}" for n in range(min(2, cases))] + ["median", "best"]
