import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medkd.config import load
from medkd.data import phi
from medkd.data.check import check
from medkd.data.samples import load_samples
from medkd.errors import StudyError
from medkd.models.checkpoint import load_checkpoint
from medkd.options import NamedOptions
from medkd.predict.infer import predict_logits
from medkd.predict.teachers import online_teacher
from medkd.study import Study
from medkd.track.tracker import NullTracker, RecordingTracker
from medkd.train import loop, run
from medkd.train.run import distill, stage_inputs, train_baseline, train_teacher
from medkd.train.soften import open_soft_targets, soften
from medkd.train.validate import validation_figures
from medkd.types import Task

KINDS = [(dims, task) for task in ("segmentation", "classification") for dims in (3, 2)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}D-{kind[1]}")
def trained(request, make_study):
    """A study whose three roles are trained, its cohort, and what its trackers were told."""
    dims, task = request.param
    study, cohort = make_study("distill.losses.0.temperature=3", dims=dims, task=task)
    trackers = {name: RecordingTracker() for name in ("teacher", "baseline", "student")}
    train_teacher(study, cohort, tracker=trackers["teacher"])
    soften(study, cohort)
    train_baseline(study, cohort, tracker=trackers["baseline"])
    distill(study, cohort, tracker=trackers["student"])
    return study, cohort, trackers


@pytest.mark.parametrize("name", ["teacher/fold-0", "baseline", "student"])
class TestTrained:
    def test_the_checkpoint_answers_for_a_case(self, trained, name):
        study, cohort, _ = trained
        model, found = load_checkpoint(study.path(name))
        (sample, *_) = load_samples(cohort.of(cohort.split.validation), study.config)
        log_p = predict_logits(model, sample.image, study.config)
        assert len(log_p) == len(study.config.classes)
        np.testing.assert_allclose(np.exp(log_p).sum(axis=0), 1, rtol=1e-4)
        assert found.temperature > 0

    def test_its_figures_are_those_of_the_weights_that_were_kept(self, trained, name):
        study, cohort, _ = trained
        model, found = load_checkpoint(study.path(name))
        samples = load_samples(cohort.of(cohort.split.validation), study.config)
        assert validation_figures(model, samples, study.config) == pytest.approx(found.figures)

    def test_it_names_the_patients_it_saw_by_their_keys(self, trained, name):
        study, cohort, _ = trained
        salt = phi.study_salt(study.folder)
        seen = {case.patient for case in cohort.of(cohort.split.train)}
        expected = sorted(phi.key(patient, salt=salt, kind="patient") for patient in seen)
        assert list(load_checkpoint(study.path(name))[1].patients) == expected

    def test_nothing_that_served_to_resume_is_left(self, trained, name):
        study, *_ = trained
        assert sorted(path.name for path in study.path(name).iterdir()) == [
            "checkpoint.json",
            "stage.json",
            "weights.safetensors",
        ]

    def test_the_tracker_was_told_what_runs_are_compared_by(self, trained, name):
        study, _, trackers = trained
        tracker = trackers[name.partition("/")[0]]
        assert tracker.recorded_params["training_cases"] == 6
        assert tracker.recorded_params["parameters"] > 0
        figure = "dice" if study.config.task is Task.SEGMENTATION else "auroc"
        assert list(tracker.curve(f"validation/{figure}")) == [3, 6]
        assert list(tracker.curve("calibration/temperature")) == [6]
        best = max(tracker.curve(f"validation/{figure}").values())
        assert tracker.curve(f"best/{figure}") == {6: best}

    def test_the_tracker_was_told_which_data_it_sees_and_when_it_was_trained(self, trained, name):
        _, cohort, trackers = trained
        tracker = trackers[name.partition("/")[0]]
        assert tracker.recorded_datasets == [
            {"name": "cases", "digest": cohort.digest_of(ids), "context": part}
            for part, ids in vars(cohort.split).items()
            if part != "test"
        ]
        assert tracker.statuses == ["FINISHED"]

    def test_its_parameters_say_how_it_was_made(self, trained, name):
        said = trained[2][name.partition("/")[0]].recorded_params
        assert not [key for key, value in said.items() if value in (None, ())]
        assert said["seed"] == 0
        assert said.get("folds") == (1 if name == "teacher/fold-0" else None)
        distilled = {key: value for key, value in said.items() if key.startswith("distill.")}
        if name == "student":
            assert distilled.pop("distill.supervised") == 1
            assert not [key for key in distilled if key.endswith(("online", "boundary"))]
            assert distilled["distill.pixel_kd.weight"] == 1
            assert distilled["distill.pixel_kd.temperature"] == 3
        else:
            assert not distilled


def test_what_is_complete_is_not_trained_again(trained, monkeypatch):
    study, cohort, _ = trained
    monkeypatch.setattr(run, "fit", pytest.fail)
    train_teacher(study, cohort, tracker=NullTracker())
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())


def test_weights_depend_on_the_voxels_left_out_and_studies_without_any_stay_valid(make_study):
    study, cohort = make_study(dims=2)
    cases = cohort.of(cohort.split.train)
    plain = stage_inputs(study, cohort, "baseline", cases)
    data = study.config.data
    studies = [
        replace(
            study, config=study.config.model_copy(update={"data": data.model_copy(update=told)})
        )
        for told in ({"ignore": None}, {"ignore": 7})
    ]
    same, other = (stage_inputs(each, cohort, "baseline", cases) for each in studies)
    assert same == plain
    assert {key for key in other if other[key] != plain.get(key)} == {"ignore"}


def test_weights_do_not_depend_on_who_makes_the_batches(make_study):
    study, cohort = make_study(dims=3)
    cases = cohort.of(cohort.split.train)
    train = study.config.student.train.model_copy(update={"workers": 3, "augment_on": "device"})
    student = study.config.student.model_copy(update={"train": train})
    other = replace(study, config=study.config.model_copy(update={"student": student}))
    one, same = (stage_inputs(each, cohort, "baseline", cases) for each in (study, other))
    assert one == same


def test_baseline_and_student_start_alike_and_see_the_same_patches(make_study, monkeypatch):
    study, cohort = make_study(dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    starts, patches = [], []

    def watch(model, options, fitting):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        patches.append([batch["image"] for batch in fitting.batches(0, torch.device("cpu"))])
        return loop.fit(model, options, fitting)

    monkeypatch.setattr(run, "fit", watch)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    torch.testing.assert_close(starts[0], starts[1], rtol=0, atol=0)
    torch.testing.assert_close(patches[0], patches[1], rtol=0, atol=0)


def test_cases_without_a_label_are_distilled_and_nothing_else(make_config, monkeypatch):
    path = make_config(dims=2)
    table = path.parent / "data" / "cases.csv"
    rows = table.read_text().splitlines()
    for number in (1, 2):  # the first patient's cases
        rows[number] = rows[number].replace(f"c{number - 1}-label.png", "")
    table.write_text("\n".join(rows) + "\n")
    study = Study(load(path), config_path=path)
    cohort = check(study)
    study.begin(cohort.split)
    trained_on = []
    samples = run.load_samples

    def watch(cases, config):
        trained_on.append({case.id for case in cases})
        return samples(cases, config)

    monkeypatch.setattr(run, "load_samples", watch)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    _, teacher, _, baseline, _, student = trained_on  # validation cases come first
    assert teacher == baseline == {"c2", "c3", "c4", "c5"}
    assert student == {"c0", "c1"} | teacher


@pytest.mark.parametrize(
    ("learn", "online"),
    [(train_baseline, False), (distill, False), (distill, True)],
    ids=["labels", "stored targets", "teacher asked"],
)
def test_a_study_that_is_killed_and_run_again_ends_with_the_same_weights(
    make_study, monkeypatch, learn, online
):
    ends = []
    for killed in (False, True):
        study, cohort = make_study(f"distill.online={json.dumps(online)}", dims=2)
        if learn is distill:
            train_teacher(study, cohort, tracker=NullTracker())
            soften(study, cohort)
        if killed:
            validate, calls = run.validation_figures, iter(range(1))

            def die_at_the_second(*args, calls=calls, validate=validate):
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return validate(*args)

            monkeypatch.setattr(run, "validation_figures", die_at_the_second)
            with pytest.raises(KeyboardInterrupt):
                learn(study, cohort, tracker=NullTracker())
            monkeypatch.undo()
        folder = learn(study, cohort, tracker=NullTracker())
        ends.append((folder / "weights.safetensors").read_bytes())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("left", [[], ["best.pt"], ["best.pt", "last.pt", ".a.json.7.partial"]])
def test_a_study_killed_once_its_weights_are_saved_keeps_them(make_study, monkeypatch, left):
    study, cohort = make_study(dims=2)
    folder = train_baseline(study, cohort, tracker=NullTracker())
    saved = (folder / "weights.safetensors").read_bytes()
    partial = folder.rename(study.path("baseline.partial"))
    for name in left:
        (partial / name).write_bytes(b"")
    monkeypatch.setattr(run, "fit", pytest.fail)
    train_baseline(study, cohort, tracker=NullTracker())
    assert (folder / "weights.safetensors").read_bytes() == saved
    assert len(list(folder.iterdir())) == 3


def test_what_is_there_is_kept_and_said(make_study, capsys):
    study, cohort = make_study(dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    assert "kept" not in capsys.readouterr().out
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    assert capsys.readouterr().out.splitlines() == [
        "teacher/fold-0: made before, and kept",
        "soft_targets: made before, and kept",
    ]


@pytest.mark.parametrize("stage", ["soft_targets", "student"])
def test_a_stage_without_what_it_builds_on_is_refused(make_study, stage):
    study, cohort = make_study(dims=2)
    with pytest.raises(StudyError, match="this stage has not been run yet"):
        soften(study, cohort) if stage == "soft_targets" else distill(
            study, cohort, tracker=NullTracker()
        )


def test_a_changed_option_is_refused_by_the_stage_it_made(make_study):
    study, cohort = make_study(dims=2)
    folder = train_baseline(study, cohort, tracker=NullTracker())
    made = json.loads((folder / "stage.json").read_text())
    made["inputs"]["seed"] = "another"
    (folder / "stage.json").write_text(json.dumps(made))
    with pytest.raises(StudyError, match="made before seed changed; delete this folder"):
        train_baseline(study, cohort, tracker=NullTracker())


def test_options_of_a_network_are_kept_apart_from_its_name():
    assert NamedOptions.model_validate({"name": "a", "depth": 2}).options == {"depth": 2}


LAYERS = {"student_layer": "model.0", "teacher_layer": "input_block"}


@pytest.fixture(scope="module")
def learned(make_study):
    """A student that asked its teacher's folds in every step, for answers and a layer."""
    losses = json.dumps([{"name": "pixel_kd"}, LAYERS | {"name": "attention"}])
    options = ["distill.online=true", f"distill.losses={losses}", "teacher.folds=3"]
    study, cohort = make_study(*options, dims=2)
    tracker = RecordingTracker()
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    distill(study, cohort, tracker=tracker)
    return study, cohort, tracker


class TestOnline:
    def test_nothing_is_stored(self, learned):
        assert not learned[0].path("soft_targets").exists()

    def test_adapters_stay_behind(self, make_study):
        losses = json.dumps([{"name": "pixel_kd"}, LAYERS | {"name": "hint"}])
        study, cohort = make_study("distill.online=true", f"distill.losses={losses}", dims=2)
        train_teacher(study, cohort, tracker=NullTracker())
        distill(study, cohort, tracker=NullTracker())
        model, _ = load_checkpoint(study.path("student"))
        weights = load_file(study.path("student") / "weights.safetensors")
        assert set(weights) <= set(model.state_dict())

    def test_each_case_asks_the_fold_that_never_saw_its_patient(self, learned):
        study, cohort, _ = learned
        salt = phi.study_salt(study.folder)
        folds = [load_checkpoint(study.path(f"teacher/fold-{i}"))[1].patients for i in range(3)]
        for case_id, weights in run.teachers_of(study, cohort).items():
            (asked,) = np.flatnonzero(weights)
            patient = cohort.cases[case_id].patient
            assert phi.key(patient, salt=salt, kind="patient") not in folds[asked]


def test_asked_without_augmentation_the_teacher_says_what_it_would_have_stored(make_study):
    study, cohort = make_study(dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    (sample, *_) = load_samples(cohort.of(cohort.split.train), study.config)
    teacher = online_teacher(study)
    image = torch.from_numpy(sample.image)[None]
    said, _ = teacher.cpu().said(image, torch.ones(1, 1))
    stored = np.exp(open_soft_targets(study, cohort)[sample.case.id][...])
    np.testing.assert_allclose(said[0], stored, atol=0.03)  # 8 bits a class
