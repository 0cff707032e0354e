import json

import numpy as np
import pytest

from medkd.config import load
from medkd.data.preprocess import from_grid
from medkd.data.samples import load_samples
from medkd.predict.infer import predict_logits
from medkd.predict.teachers import (
    Teachers,
    fold_stages,
    frozen_teacher,
    is_portable,
    softened_by,
    tempered,
)
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.run import train_teacher


@pytest.fixture(scope="module")
def trained(make_study):
    """A study whose teacher has three folds."""
    study, cohort = make_study("teacher.folds=3", "preprocess.spacing_mm=[2,2,2]")
    train_teacher(study, cohort, tracker=NullTracker())
    return study, cohort


def test_a_training_case_is_softened_by_one_fold_and_another_patients_by_another(trained):
    study, cohort = trained
    by = softened_by(study, cohort)
    assert set(by) == set(cohort.split.train)
    assert all(len(asked) == 1 for asked in by.values())
    of_patient = {}
    for case in cohort.of(cohort.split.train):
        of_patient.setdefault(case.patient, set()).add(by[case.id])
    assert all(len(asked) == 1 for asked in of_patient.values())
    assert len(set().union(*of_patient.values())) == 3


def test_other_cases_are_answered_by_the_mean_of_all_probabilities(trained):
    study, cohort = trained
    (sample, *_) = load_samples(cohort.of(cohort.split.validation), study.config)
    folds = [frozen_teacher([study.path(stage)]) for stage in fold_stages(study.config)]
    each = [np.exp(predict_logits(f, sample.image, study.config)) for f in folds]
    said = Teachers(study).logits(sample)
    np.testing.assert_allclose(np.exp(said), np.mean(each, axis=0), atol=1e-5)
    on_image = from_grid(np.mean(each, axis=0), sample.grid, order=1)
    np.testing.assert_allclose(Teachers(study).probabilities(sample), on_image, atol=1e-5)


def test_tempering_is_the_softmax_of_logits_over_the_temperature():
    logits = np.random.default_rng(0).normal(size=(3, 50))
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=0)
    np.testing.assert_allclose(tempered(p, 2.5), expected)


def test_what_was_rounded_to_nothing_stays_nothing_when_it_is_tempered():
    np.testing.assert_array_equal(tempered(np.array([1.0, 0, 0], np.float32), 3.0), [1, 0, 0])


@pytest.mark.parametrize(
    ("kinds", "beside_its_own", "portable"),
    [
        ([], True, True),
        (["checkpoint", "bundle"], True, True),
        (["onnx"], True, False),
        (["onnx", "onnx"], False, False),
        (["probabilities"], False, False),
    ],
)
def test_torch_networks_can_be_exported_together(make_config, kinds, beside_its_own, portable):
    brought = json.dumps([{"kind": kind, "path": "somewhere"} for kind in kinds])
    overrides = [f"teacher.external={brought}"]
    overrides += [] if beside_its_own else ["teacher.model=null", "teacher.train=null"]
    path = make_config(dims=2)
    study = Study(load(path, overrides=overrides), config_path=path)
    assert is_portable(study) == portable
