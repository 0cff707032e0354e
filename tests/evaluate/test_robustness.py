import numpy as np
import pytest

from medkd.data.reader import read_image
from medkd.device.predictor import Prediction
from medkd.evaluate.robustness import stress_curves
from medkd.types import Role


@pytest.fixture(scope="module")
def cohort(make_study):
    """Return a maker of config and test cases of a kind of study."""

    def make(dims, task):
        study, cohort = make_study("evaluate.bootstrap=20", dims=dims, task=task)
        return study.config, cohort.of(cohort.split.test)

    return make


def by_brightness(config):
    """Answer by thresholds between what is dark and bright in the image itself."""

    def answer(volume):
        x = volume.array[0]
        if config.task == "classification":
            return Prediction(probabilities=np.array([1.0, 0.0]))
        low, high = np.percentile(x, [60, 99])
        mask = np.digitize(x, [(low + high) / 2, high])
        return Prediction(mask=np.asarray(config.label_values)[mask])

    return answer


def constant(config):
    del config
    return lambda volume: Prediction(mask=np.zeros(volume.shape, int))


@pytest.mark.parametrize("dims", [2, 3])
def test_all_stresses_for_such_images_are_run_for_all_roles(cohort, dims):
    config, cases = cohort(dims, "segmentation")
    answers = {Role.TEACHER: by_brightness(config), Role.STUDENT: constant(config)}
    curves = stress_curves(answers, cases, config)
    names = {curve.stress for curve in curves}
    assert ("JPEG" in names, "missing slices" in names) == (dims == 2, dims == 3)
    for curve in curves:
        assert curve.figure == "dice"
        assert curve.untouched == curves[0].untouched
        assert len(curve.suffered[Role.TEACHER]) == len(curve.strengths) >= 3
        assert all(found.cases == len(cases) for found in curve.suffered[Role.TEACHER])
        assert {found.value for found in curve.suffered[Role.STUDENT]} == {0.0}


def test_an_answer_by_brightness_suffers_of_noise_and_not_of_contrast(cohort):
    config, cases = cohort(3, "segmentation")
    curves = {
        curve.stress: curve
        for curve in stress_curves({Role.STUDENT: by_brightness(config)}, cases, config)
    }
    clean = curves["noise"].untouched[Role.STUDENT].value
    noisy = [found.value for found in curves["noise"].suffered[Role.STUDENT]]
    assert noisy[-1] < noisy[0] <= clean + 0.02
    assert curves["rotation"].suffered[Role.STUDENT][0].value > 0.6 * clean  # the label turns too


def test_what_the_guard_notices_is_counted(cohort):
    config, cases = cohort(2, "segmentation")
    answers = {Role.STUDENT: constant(config)}
    largest = max(read_image(case.image).array.std() for case in cases)
    noticed = stress_curves(answers, cases, config, flag=lambda v: v.array.std() > 1.2 * largest)
    flagged = {curve.stress: curve.flagged for curve in noticed}
    assert flagged["contrast"][-1] > 0
    assert not any(flagged["blur"])
    assert not any(curve.flagged for curve in stress_curves(answers, cases, config))


def test_classes_are_judged_by_accuracy(cohort):
    config, cases = cohort(2, "classification")
    curves = stress_curves({Role.STUDENT: by_brightness(config)}, cases, config)
    share = np.mean([case.label == 0 for case in cases])
    for curve in curves:
        assert curve.figure == "accuracy"
        assert {found.value for found in curve.suffered[Role.STUDENT]} == {share}


def test_few_cases_are_drawn_once_and_none_if_none_is_asked_for(cohort):
    config, cases = cohort(2, "segmentation")
    limited = config.evaluate.model_copy(update={"stress_cases": 1})
    one = config.model_copy(update={"evaluate": limited})
    curves = stress_curves({Role.STUDENT: by_brightness(one)}, cases, one)
    assert {found.cases for curve in curves for found in curve.suffered[Role.STUDENT]} == {1}
    assert curves == stress_curves({Role.STUDENT: by_brightness(one)}, cases, one)
    none = config.evaluate.model_copy(update={"stress_cases": 0})
    nothing = config.model_copy(update={"evaluate": none})
    assert stress_curves({Role.STUDENT: by_brightness(config)}, cases, nothing) == ()


def test_findings_are_judged_by_what_was_found(make_study):
    study, cohort = make_study(
        "evaluate.bootstrap=20", dims=2, task="classification", overlapping=True
    )
    cases = cohort.of(cohort.split.test)  # one is marked, one large

    def answer(volume):
        del volume
        return Prediction(probabilities=np.array([0.3, 0.1]), confidence={"large": 0.3})

    curves = stress_curves({Role.STUDENT: answer}, cases, study.config)
    assert {curve.figure for curve in curves} == {"accuracy"}
    assert curves[0].untouched[Role.STUDENT].value == 0.5  # none of one's, both of the other's
