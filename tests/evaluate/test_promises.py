from dataclasses import replace

import numpy as np
import pytest

from medkd.data import images
from medkd.data.labels import class_indices
from medkd.data.reader import read_label
from medkd.device.predictor import Prediction
from medkd.evaluate.promises import promises
from medkd.types import Case


@pytest.fixture(scope="module")
def make(make_study):
    """Return a maker of config and test cases, twenty times over for as many images."""

    def make(*overrides, dims=2, task="segmentation"):
        study, cohort = make_study("evaluate.bootstrap=50", *overrides, dims=dims, task=task)
        cases = cohort.of(cohort.split.test)
        return study.config, [
            Case(f"{c.id}-{i}", c.image, c.label, f"p{i}") for i in range(20) for c in cases
        ]

    return make


def unsure(config):
    """Give each structure's voxels a probability between 0 and 1, others one below 0.5."""
    rng = np.random.default_rng(0)

    def answer(case):
        if config.task == "classification":
            of_truth = rng.uniform(0.2, 1)
            p = np.array([of_truth, 1 - of_truth])
            return Prediction(probabilities=p if case.label == 0 else p[::-1])
        label = class_indices(read_label(case.label).array[0], config)
        classes = np.arange(len(config.classes)).reshape(-1, *[1] * label.ndim)
        p = np.where(label == classes, rng.uniform(0, 1, label.shape), 0.0)
        rest = 1 - p.sum(axis=0)
        return Prediction(probabilities=p + rest / len(config.classes))

    return answer


def test_each_structure_is_found_as_far_as_promised_at_the_price_of_size(make):
    config, cases = make("evaluate.promised=0.8")
    found = promises(unsure(config), cases, cases, config, name="student")
    assert [promise.of for promise in found] == ["ball", "core"]
    for promise in found:
        assert promise.promised == 0.8
        assert promise.calibrated_on == len(cases) == promise.kept.cases
        assert 0.8 <= promise.kept.value < 0.9
        assert promise.price.value >= promise.kept.value


def test_sets_of_classes_hold_the_truth_as_often_as_promised(make):
    config, cases = make("evaluate.promised=0.8", task="classification")
    (promise,) = promises(unsure(config), cases, cases, config, name="student")
    assert promise.of is None
    assert 0.7 <= promise.kept.value <= 0.95
    assert 1 <= promise.price.value <= 2
    assert promise.threshold == pytest.approx(0.2 + 0.2 * 0.8, abs=0.12)


def test_too_few_cases_promise_nothing(make):
    config, cases = make("evaluate.promised=0.9")
    for promise in promises(unsure(config), cases[:5], cases, config, name="student"):
        assert (promise.threshold, promise.calibrated_on) == (0, 5)
        assert promise.kept.value == 1
        assert promise.price.value > 2


def test_a_structure_that_no_image_holds_has_no_price(make, tmp_path):
    config, cases = make()
    label = read_label(cases[0].label).array[0]
    images.write(tmp_path / "ball.png", np.minimum(label, 1).astype(np.uint8))
    without = [replace(case, label=tmp_path / "ball.png") for case in cases]
    ball, core = promises(unsure(config), without, without, config, name="student")
    assert np.isfinite(ball.price.value)
    assert np.isnan(core.price.value)
    assert core.kept.value == 1  # there is nothing to miss


def test_a_structure_is_promised_by_the_cases_whose_label_covers_it(make):
    config, cases = make("evaluate.promised=0.8")
    part = [replace(case, annotated=("ball",)) for case in cases[:10]]
    ball, core = promises(
        unsure(config), part + cases[10:], part + cases[10:], config, name="student"
    )
    assert (ball.calibrated_on, ball.kept.cases) == (len(cases), len(cases))
    assert (core.calibrated_on, core.kept.cases) == (len(cases) - 10, len(cases) - 10)
    assert core.kept.value >= 0.8


def test_those_with_a_finding_keep_it_at_the_price_of_others(make_study):
    study, cohort = make_study(
        "evaluate.promised=0.8", dims=2, task="classification", overlapping=True
    )
    config, rng = study.config, np.random.default_rng(0)
    cases = [replace(c, patient=f"p{i}") for i in range(80) for c in cohort.cases.values()]

    def answer(case):
        there = np.array([name in case.label for name in config.classes])
        return Prediction(probabilities=np.where(there, rng.uniform(0.2, 1, 2), rng.random(2) / 2))

    large, marked = promises(answer, cases, cases, config, name="student")
    assert (large.of, marked.of) == ("large", "marked")
    for promise in (large, marked):
        having = sum(promise.of in case.label for case in cases)
        assert promise.calibrated_on == promise.kept.cases == having
        assert promise.price.cases == len(cases) - having
        assert 0.7 <= promise.kept.value <= 0.9
        assert promise.price.value == pytest.approx(1 - promise.threshold / 0.5, abs=0.15)
