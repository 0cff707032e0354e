import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from medkd.config import load
from medkd.data import phi
from medkd.data.check import check
from medkd.data.samples import load_samples
from medkd.errors import ConfigError, DataError, StudyError
from medkd.models.checkpoint import load_checkpoint
from medkd.predict import teachers as teachers_module
from medkd.predict.infer import predict_logits
from medkd.predict.teachers import frozen_teacher
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train import admit
from medkd.train import soften as module
from medkd.train.run import train_teacher
from medkd.train.soften import (
    STORE,
    open_soft_targets,
    soft_targets_digest,
    soften,
    soften_part,
    verify,
)

FOLDS = 3


@pytest.fixture(scope="module")
def softened(make_study):
    """A study with soft targets out of fold, and its cohort."""
    study, cohort = make_study(f"teacher.folds={FOLDS}", "teacher.flip_axes=[1]", dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    return study, cohort


def fold_that_never_saw(study, patient):
    key = phi.key(patient, salt=phi.study_salt(study.folder), kind="patient")
    folders = [study.path(f"teacher/fold-{fold}") for fold in range(FOLDS)]
    (unseen,) = (folder for folder in folders if key not in load_checkpoint(folder)[1].patients)
    return unseen


def test_every_training_case_has_one_and_no_other_case(softened):
    study, cohort = softened
    stored = [path for path in (study.path("soft_targets") / STORE).iterdir() if path.is_dir()]
    assert len(stored) == len(cohort.split.train) == len(open_soft_targets(study, cohort))


def test_each_comes_from_the_fold_that_never_saw_the_patient(softened):
    study, cohort = softened
    targets = open_soft_targets(study, cohort)
    for sample in load_samples(cohort.of(cohort.split.train), study.config):
        teacher = frozen_teacher([fold_that_never_saw(study, sample.case.patient)])
        expected = predict_logits(teacher, sample.image, study.config, flip_axes=[1])
        stored = targets[sample.case.id][...]
        assert stored.shape == (len(study.config.classes), *sample.image.shape[1:])
        np.testing.assert_allclose(np.exp(stored), np.exp(expected), atol=0.02)


def test_written_anew_they_are_the_same_to_the_student(softened):
    study, cohort = softened
    stage, before = study.path("soft_targets"), soft_targets_digest(study)
    shutil.move(stage, study.folder / "elsewhere")
    with pytest.raises(StudyError, match="this stage has not been run yet; run medkd soften"):
        soft_targets_digest(study)
    soften(study, cohort)
    assert soft_targets_digest(study) == before
    shutil.rmtree(stage)
    shutil.move(study.folder / "elsewhere", stage)


def test_verifying_computes_them_anew(softened, monkeypatch):
    study, cohort = softened
    assert verify(study, cohort, cases=3) < 0.02

    def other(*args, **options):
        return predict_logits(*args, **options)[::-1]

    monkeypatch.setattr(teachers_module, "predict_logits", other)
    assert verify(study, cohort, cases=3) > 0.02


def test_they_are_refused_for_another_image(softened):
    study, cohort = softened
    changed = replace(cohort, images=cohort.images | {cohort.split.train[0]: "another"})
    with pytest.raises(StudyError, match="no soft target was made from this teacher, image"):
        open_soft_targets(study, changed)


def test_they_are_refused_for_classes_in_another_order(softened):
    study, cohort = softened
    names = study.config.data.labels
    swapped = dict(zip(names, reversed(names.values()), strict=True))
    data = study.config.data.model_copy(update={"labels": swapped})
    other = Study(study.config.model_copy(update={"data": data}), config_path=study.config_path)
    with pytest.raises(StudyError, match="no soft target was made from this teacher"):
        open_soft_targets(other, cohort)


def test_they_may_lie_elsewhere(make_study, tmp_path):
    study, cohort = make_study(f"distill.store={tmp_path}/elsewhere", dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    assert len(open_soft_targets(study, cohort)) == len(cohort.split.train)
    assert not (study.path("soft_targets") / STORE).exists()


def test_studies_that_bring_the_same_teacher_share_a_store(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(admit, "LEAST_AGREEMENT", 0)  # it is not trained for long
    taught, cohort = make_study(dims=2)
    train_teacher(taught, cohort, tracker=NullTracker())
    path = taught.path("teacher/fold-0")
    brought = f"teacher={{external: [{{kind: checkpoint, path: {path}}}]}}"
    for number in range(2):
        study, cohort = make_study(brought, f"distill.store={tmp_path}/shared", dims=2)
        train_teacher(study, cohort, tracker=NullTracker())
        soften(study, cohort)
        assert len(open_soft_targets(study, cohort)) == len(cohort.split.train)
        if number == 0:  # from now on nobody is asked
            monkeypatch.setattr(teachers_module.Teachers, "logits", None)


@pytest.mark.slow
def test_parts_of_several_processes_are_the_whole(make_config, tmp_path, monkeypatch):
    config = make_config(dims=2)
    command = [sys.executable, "-c", "from medkd.cli import main; main()"]
    where = [str(config), "--set", f"distill.store={tmp_path}/shared"]
    subprocess.run([*command, "train", *where, "--role", "teacher"], check=True)
    begun = [
        subprocess.Popen([*command, "soften", *where, "--part", f"{number}/2"]) for number in (1, 2)
    ]
    assert [process.wait() for process in begun] == [0, 0]
    study = Study(load(config, overrides=where[2:]), config_path=config)
    cohort = check(study)
    assert len(open_soft_targets(study, cohort)) == len(cohort.split.train)
    monkeypatch.setattr(teachers_module.Teachers, "logits", None)  # nobody is asked
    with study.hold(cohort.split, digests=cohort.part_digests):
        assert soften(study, cohort) == study.path("soft_targets")


def test_a_part_is_its_own_cases_and_needs_a_store_that_others_see(make_study, tmp_path):
    study, cohort = make_study(f"distill.store={tmp_path}/shared", dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften_part(study, cohort, part=2, parts=3)
    keys = module._keys(study, cohort)
    stored = {path.name for path in (tmp_path / "shared").iterdir() if path.is_dir()}
    assert stored == {keys[case_id] for case_id in cohort.split.train[1::3]}
    own, _ = make_study(dims=2)
    with pytest.raises(ConfigError, match=r"distill\.store: .* all processes see"):
        soften_part(own, cohort, part=1, parts=3)


def test_an_unlabelled_case_is_softened_by_the_fold_that_never_saw_its_patient(make_config):
    path = make_config(dims=2)
    table = path.parent / "data" / "cases.csv"
    text = table.read_text()
    for number in (0, 2, 4):  # one of each training patient's two cases
        text = text.replace(f"c{number}-label.png", "")
    table.write_text(text)
    study = Study(load(path, overrides=["teacher.folds=3"]), config_path=path)
    cohort = check(study)
    for part in teachers_module.parts(study, cohort):
        assert len({case.patient for case in part}) == 1
        assert sorted(case.label is None for case in part) == [False, True]


def test_its_teacher_is_calibrated(softened):
    study, _ = softened
    folder = study.path("teacher/fold-0")
    model, found = load_checkpoint(folder)
    image = torch.randn(1, 1, 16, 16)
    teacher = frozen_teacher([folder]).cpu()
    torch.testing.assert_close(teacher(image), model(image) / found.temperature)


def test_it_speaks_as_it_was_trained_if_that_is_asked_for(make_study):
    study, cohort = make_study("distill.calibrated=false", dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    network, found = load_checkpoint(study.path("teacher/fold-0"))
    (sample, *_) = load_samples(cohort.of(cohort.split.train), study.config)
    said = predict_logits(network, sample.image, study.config)
    stored = softmax(open_soft_targets(study, cohort)[sample.case.id][...], axis=0)
    as_trained, calibrated = (
        np.abs(stored - softmax(said / t, axis=0)).mean() for t in (1, found.temperature)
    )
    assert as_trained < 0.01 < calibrated


def test_a_killed_run_goes_on_with_the_cases_that_have_none(make_study, monkeypatch):
    study, cohort = make_study(dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    predict, calls = teachers_module.predict_logits, []

    def count(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*args, **options)

    monkeypatch.setattr(teachers_module, "predict_logits", count)
    with pytest.raises(KeyboardInterrupt):
        soften(study, cohort)
    soften(study, cohort)
    assert len(calls) == 1 + len(cohort.split.train)  # the third case was begun twice


def test_answers_that_are_no_numbers_are_refused_with_their_case(make_study, monkeypatch):
    study, cohort = make_study(dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    predict = teachers_module.predict_logits

    def overflow(*args, **options):
        said = predict(*args, **options)
        said[0, 3, 3] = np.nan
        return said

    monkeypatch.setattr(teachers_module, "predict_logits", overflow)
    first = cohort.split.train[0]
    with pytest.raises(
        DataError, match=rf"{first}: teacher/fold-0 answers with values that are no"
    ):
        soften(study, cohort)
