import numpy as np
import pytest

from medkd.data.reader import read_image, read_label
from medkd.device.manifest import read_manifest
from medkd.device.predictor import load
from medkd.metrics.conformal import missed_shares, risk_threshold


def test_the_thresholds_of_a_release_are_those_of_its_answers_to_the_validation_cases(released):
    study, cohort = released
    folder = study.path("releases/student")
    predictor, shares = load(folder), []
    for case in cohort.of(cohort.split.validation):
        answer = predictor.answer(read_image(case.image), with_probabilities=True).probabilities
        label = np.searchsorted(study.config.label_values, read_label(case.label).array[0])
        shares.append([missed_shares(answer[i], label == i) for i in (1, 2)])
    conformal = read_manifest(folder).conformal
    assert conformal.cases == len(cohort.split.validation)
    for index, name in enumerate(study.config.classes[1:]):
        expected = risk_threshold(np.array(shares)[:, index], risk=1 - conformal.promised)
        assert conformal.thresholds[name] == pytest.approx(expected, abs=2e-3)
