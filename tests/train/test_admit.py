import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medkd.config import load
from medkd.data import nifti
from medkd.data.check import check
from medkd.data.reader import read_label
from medkd.data.reading import label_of
from medkd.errors import DataError, StudyError
from medkd.evaluate.run import evaluate
from medkd.export.onnx import export_onnx
from medkd.export.release import export, export_all
from medkd.predict.teachers import SOURCE, admitted
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train import admit as admit_module
from medkd.train.admit import admit
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import open_soft_targets, soften, verify
from medkd.types import Role
from tests.conftest import SIZE

CLASSES = 3


@pytest.fixture
def make(make_config, tmp_path):
    """Return a maker of a study whose teacher was brought along."""

    def make(*, dims=3, task="segmentation", **external):
        path = make_config(dims=dims, task=task)
        entry = {"kind": "probabilities", "path": str(tmp_path / "saved")} | external
        override = f"teacher={json.dumps({'external': [entry]})}"
        study = Study(load(path, overrides=[override]), config_path=path)
        cohort = check(study)
        study.begin(cohort.split)
        return study, cohort

    return make


def save(cohort, folder, *, order=(0, 1, 2), sure=0.9, wrong=0.0, left_out=()):
    """Write what a segmenter would have said that is wrong in some of the voxels of every case."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for case in cohort.cases.values():
        if case.id in left_out:
            continue
        label = read_label(case.label).array[0]
        label = (label + (rng.random(label.shape) < wrong)) % CLASSES
        p = np.where(np.arange(CLASSES).reshape(-1, 1, 1, 1) == label, sure, (1 - sure) / 2)
        nifti.write(
            folder / f"{case.id}.nii.gz",
            np.moveaxis(p[list(order)], 0, -1).astype(np.float32),
            affine=np.eye(4),
        )


def test_a_study_runs_on_saved_probabilities_alone(make, tmp_path):
    study, cohort = make(patients=["p0", "p2"])
    save(cohort, tmp_path / "saved")
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    targets = open_soft_targets(study, cohort)
    for case in cohort.of(cohort.split.train):
        said = targets[case.id][...].argmax(axis=0)
        np.testing.assert_array_equal(said, read_label(case.label).array[0])
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    made = [export(study, cohort, role=role) for role in Role]
    assert made[0] is None
    report = evaluate(study, cohort)
    teacher = report.roles[Role.TEACHER]
    assert teacher.headline["dice"].value == 1
    assert (teacher.parameters, teacher.latency) == (None, None)
    (gate,) = report.gates
    assert gate.passed is None
    assert any(
        "on 2 of the training split, whose soft targets are in fold" in n for n in report.notes
    )
    assert str(tmp_path) not in report.model_dump_json()


class ByBrightness(nn.Module):
    """A segmenter whose channels are the dark core, the background and the bright ball."""

    def __init__(self):
        super().__init__()
        self.shades = nn.Conv2d(1, CLASSES, 1)
        with torch.no_grad():
            self.shades.weight[:] = 20 * torch.tensor([0.0, 1, 2]).reshape(-1, 1, 1, 1)
            self.shades.bias[:] = 20 * torch.tensor([0, -0.25, -0.95])

    def forward(self, image):
        low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
        return self.shades((image - low) / (high - low).clamp_min(1e-6))


def test_an_onnx_file_teaches_and_is_released_and_measured(make, tmp_path):
    export_onnx(ByBrightness(), tmp_path / "model.onnx", shape=(1, SIZE, SIZE))
    brought = {"kind": "onnx", "path": str(tmp_path / "model.onnx"), "patients": []}
    study, cohort = make(dims=2, classes=["core", "background", "ball"], **brought)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    assert verify(study, cohort, cases=2) < 0.05
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    assert len(export_all(study, cohort)) == 3
    report = evaluate(study, cohort)
    teacher = report.roles[Role.TEACHER]
    assert teacher.headline["dice"].value > 0.8
    assert (teacher.parameters, teacher.macs) == (6, 3 * SIZE**2)
    assert teacher.latency.network_ms.p50 > 0
    (gate,) = report.gates
    assert gate.passed is False  # any student has more than six parameters
    assert str(tmp_path) not in report.model_dump_json()


def test_it_is_calibrated_on_validation(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved", sure=0.99, wrong=0.2)
    admit(study, cohort)
    # right in 80 % of the voxels: 99 % and 0.5 % twice become 80 % and 10 % twice
    expected = np.log(0.99 / 0.005) / np.log(0.8 / 0.1)
    assert admitted(study, "teacher/external-0")["temperature"] == pytest.approx(expected, rel=0.05)
    soften(study, cohort)
    case = cohort.of(cohort.split.train)[0]
    highest = np.exp(open_soft_targets(study, cohort)[case.id][...]).max(axis=0)
    np.testing.assert_allclose(highest, 0.8, atol=0.05)


def test_its_temperature_is_that_of_one_view(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(admit_module, "LEAST_AGREEMENT", 0)  # six steps teach little
    monkeypatch.setattr(admit_module, "CLEARLY", 1)
    trained, cohort = make_study(dims=2)
    train_teacher(trained, cohort, tracker=NullTracker())
    entry = {"kind": "checkpoint", "path": str(trained.path("teacher/fold-0")), "patients": []}
    found = []
    for number, flips in enumerate([[], [0, 1]]):
        given = {"external": [entry], "flip_axes": flips}
        root = f"study.root={tmp_path}/{number}"
        config = load(trained.config_path, overrides=[f"teacher={json.dumps(given)}", root])
        study = Study(config, config_path=trained.config_path)
        study.begin(cohort.split)
        admit(study, cohort)
        found.append(admitted(study, "teacher/external-0")["temperature"])
    assert found[0] == found[1] != 1


def test_nobody_having_said_its_patients_are_unknown(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    assert admitted(study, "teacher/external-0")["patients"] == "unknown"


def test_channels_in_another_order_are_refused_and_named(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved", order=(0, 2, 1))
    with pytest.raises(DataError, match="core looks like ball"):
        admit(study, cohort)


def test_channels_in_another_order_are_sorted_where_they_are_listed(make, tmp_path):
    study, cohort = make(classes=["background", "core", "ball"])
    save(cohort, tmp_path / "saved", order=(0, 2, 1))
    admit(study, cohort)
    soften(study, cohort)
    case = cohort.of(cohort.split.train)[0]
    said = open_soft_targets(study, cohort)[case.id][...].argmax(axis=0)
    np.testing.assert_array_equal(said, read_label(case.label).array[0])


def test_answers_to_another_question_are_refused(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved", sure=0.0)
    with pytest.raises(DataError, match="for the validation cases"):
        admit(study, cohort)


def test_a_case_without_a_file_is_named_before_anything_is_learned(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved", left_out=(cohort.split.test[0],))
    with pytest.raises(DataError, match=f"no probabilities of case {cohort.split.test[0]}"):
        admit(study, cohort)


@pytest.mark.parametrize(("part", "patient"), [("validation", "p3"), ("test", "p4")])
def test_a_teacher_that_knows_the_answers_is_refused(make, tmp_path, part, patient):
    study, cohort = make(patients=["p0", patient])
    save(cohort, tmp_path / "saved")
    with pytest.raises(DataError, match=f"trained on 1 patients of the {part} split .{patient}."):
        admit(study, cohort)


def test_ids_of_cases_are_not_taken_for_patients(make, tmp_path):
    _, cohort = make()
    save(cohort, tmp_path / "saved")
    case = cohort.split.test[0]
    study, cohort = make(patients=[case])
    with pytest.raises(DataError, match=rf"patients: {case} are cases .*column 'patient'"):
        admit(study, cohort)


@pytest.mark.parametrize("patients", [["P-0", "P-1"], ["p0"], []])
def test_patients_of_whom_none_is_in_the_study_may_be_written_otherwise(
    make, tmp_path, capsys, patients
):
    study, cohort = make(patients=patients)
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    said = " ".join(capsys.readouterr().out.split())
    warned = "none of the 2 patients it was trained on is in this study; look whether ids" in said
    assert warned == (patients == ["P-0", "P-1"])


def test_patients_may_stand_in_a_file(make, tmp_path):
    (tmp_path / "patients.txt").write_text("p0\n\np1\n")
    study, cohort = make(patients=str(tmp_path / "patients.txt"))
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    assert admitted(study, "teacher/external-0")["seen"] == ["p0", "p1"]


def test_a_checkpoint_of_another_study_says_itself_whom_it_has_seen(make_study, make, monkeypatch):
    monkeypatch.setattr(admit_module, "LEAST_AGREEMENT", 0)  # six steps have taught it little
    monkeypatch.setattr(admit_module, "CLEARLY", 1)
    other, cohort = make_study()
    train_teacher(other, cohort, tracker=NullTracker())
    study, same = make(kind="checkpoint", path=str(other.path("teacher/fold-0")))
    admit(study, same)
    found = json.loads((study.path("teacher/external-0") / SOURCE).read_text())
    assert (found["patients"], found["seen"]) == ("known", ["p0", "p1", "p2"])


def test_a_teacher_that_changed_is_not_taken_for_the_one_examined(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    save(cohort, tmp_path / "saved", sure=0.8)
    with pytest.raises(StudyError, match="made before its files changed"):
        admit(study, cohort)


def test_an_examination_depends_on_which_voxels_are_judged(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    data = study.config.data.model_copy(update={"ignore": 9})
    judging_less = replace(study, config=study.config.model_copy(update={"data": data}))
    with pytest.raises(StudyError, match="made before ignore changed"):
        admit(judging_less, cohort)


def test_weights_in_a_file_beside_an_onnx_graph_are_part_of_it(make, tmp_path):
    import onnx

    export_onnx(ByBrightness(), tmp_path / "whole.onnx", shape=(1, SIZE, SIZE))
    model, path = onnx.load(tmp_path / "whole.onnx"), tmp_path / "split.onnx"
    (kernel,) = [weight for weight in model.graph.initializer if len(weight.dims) == 4]
    onnx.external_data_helper.set_external_data(kernel, "weights.bin")
    onnx.save(model, path)
    classes = ["core", "background", "ball"]
    brought = {"kind": "onnx", "path": str(path), "patients": [], "classes": classes}
    study, cohort = make(dims=2, **brought)
    admit(study, cohort)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    with pytest.raises(StudyError, match="made before its files changed"):
        admit(study, cohort)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(DataError, match=r"weights\.bin: no such file"):
        admit(study, cohort)


def test_two_teachers_are_averaged_by_their_weights(make, tmp_path):
    study, cohort = make()
    save(cohort, tmp_path / "saved", sure=0.9)
    save(cohort, tmp_path / "other", sure=0.5)
    (first,) = study.config.teacher.external
    second = first.model_copy(update={"path": str(tmp_path / "other"), "weight": 3.0})
    teacher = study.config.teacher.model_copy(update={"external": (first, second)})
    both = replace(study, config=study.config.model_copy(update={"teacher": teacher}))
    admit(both, cohort)
    soften(both, cohort)
    case = cohort.of(cohort.split.train)[0]
    highest = np.exp(open_soft_targets(both, cohort)[case.id][...]).max(axis=0)
    np.testing.assert_allclose(highest, (0.9 + 3 * 0.5) / 4, atol=0.03)  # in steps of 8 bits


def test_out_of_fold_a_teacher_is_not_asked_about_whom_it_has_seen(make, tmp_path):
    study, cohort = make(patients=["p0"], out_of_fold=True)
    save(cohort, tmp_path / "saved", sure=0.9)
    save(cohort, tmp_path / "other", sure=0.5)
    (first,) = study.config.teacher.external
    second = first.model_copy(update={"path": str(tmp_path / "other"), "patients": ("p1", "p2")})
    teacher = study.config.teacher.model_copy(update={"external": (first, second)})
    both = replace(study, config=study.config.model_copy(update={"teacher": teacher}))
    admit(both, cohort)
    soften(both, cohort)
    targets = open_soft_targets(both, cohort)
    for case in cohort.of(cohort.split.train):
        highest = np.exp(targets[case.id][...]).max(axis=0)
        np.testing.assert_allclose(highest, 0.5 if case.patient == "p0" else 0.9, atol=0.03)


def test_a_patient_whom_all_have_seen_is_named(make, tmp_path):
    study, cohort = make(patients=["p0", "p2"], out_of_fold=True)
    save(cohort, tmp_path / "saved")
    admit(study, cohort)
    with pytest.raises(DataError, match=r"every teacher has seen the patient of .*\(p2\)"):
        soften(study, cohort)


def test_out_of_fold_needs_to_know_the_patients(make, tmp_path):
    study, cohort = make(out_of_fold=True)
    save(cohort, tmp_path / "saved")
    with pytest.raises(DataError, match="out_of_fold needs to know whom it was trained on"):
        admit(study, cohort)


class TestClassification:
    @pytest.fixture
    def study(self, make, tmp_path):
        return make(dims=2, task="classification", path=str(tmp_path / "p.csv"))

    @staticmethod
    def save(cohort, path, *, order=("small", "large"), left_out=()):
        rows = [
            f"{case.id},{0.9 - 0.8 * case.label},{0.1 + 0.8 * case.label}"
            for case in cohort.cases.values()
            if case.id not in left_out
        ]
        path.write_text("\n".join([f"case,{order[0]},{order[1]}", *rows]) + "\n")

    def test_a_table_is_a_teacher(self, study, tmp_path):
        study, cohort = study
        self.save(cohort, tmp_path / "p.csv")
        train_teacher(study, cohort, tracker=NullTracker())
        soften(study, cohort)
        for case in cohort.of(cohort.split.train):
            assert open_soft_targets(study, cohort)[case.id][...].argmax() == case.label

    def test_its_columns_in_another_order_are_found_out(self, study, tmp_path):
        study, cohort = study
        self.save(cohort, tmp_path / "p.csv", order=("large", "small"))
        with pytest.raises(DataError, match="small looks like large"):
            admit(study, cohort)

    def test_a_missing_case_is_named(self, study, tmp_path):
        study, cohort = study
        self.save(cohort, tmp_path / "p.csv", left_out=(cohort.split.train[0],))
        with pytest.raises(DataError, match=f"no row for case {cohort.split.train[0]}"):
            admit(study, cohort)


class TestOverlapping:
    """A teacher's channels are those of structures that may overlap."""

    def brought(self, make_config, folder, *, order):
        path = make_config(overlapping=True)
        entry = {"kind": "probabilities", "path": str(folder), "patients": []}
        override = f"teacher={json.dumps({'external': [entry]})}"
        study = Study(load(path, overrides=[override]), config_path=path)
        cohort = check(study)
        study.begin(cohort.split)
        for case in cohort.cases.values():
            truth = label_of(case, study.config).array[list(order)]
            p = np.moveaxis(np.where(truth == 1, 0.9, 0.05), 0, -1).astype(np.float32)
            nifti.write(folder / f"{case.id}.nii.gz", p, affine=np.eye(4))
        return study, cohort

    def test_probabilities_of_each_structure_teach(self, make_config, tmp_path):
        study, cohort = self.brought(make_config, tmp_path, order=(0, 1))
        admit(study, cohort)
        assert admitted(study, "teacher/external-0")["classes"] == ["ball", "core"]
        soften(study, cohort)
        targets = open_soft_targets(study, cohort)
        case = cohort.of(cohort.split.train)[0]
        truth = label_of(case, study.config).array == 1
        np.testing.assert_array_equal(targets[case.id][...] > 0, truth)

    def test_channels_in_another_order_are_refused(self, make_config, tmp_path):
        study, cohort = self.brought(make_config, tmp_path, order=(1, 0))
        with pytest.raises(DataError, match="core looks like ball"):
            admit(study, cohort)


class TestFindings:
    """A table of probabilities that need not sum to 1."""

    def brought(self, make_config, path, *, columns=("large", "marked"), said=None):
        config = make_config(dims=2, task="classification", overlapping=True)
        entry = {"kind": "probabilities", "path": str(path), "patients": []}
        override = f"teacher={json.dumps({'external': [entry]})}"
        study = Study(load(config, overrides=[override]), config_path=config)
        cohort = check(study)
        study.begin(cohort.split)
        rows = [f"case,{','.join(columns)}"]
        for case in cohort.cases.values():
            there = [name in case.label for name in study.config.classes]
            p = said or [0.3 if is_there else 0.1 for is_there in there]  # rare: never a half
            rows.append(",".join([case.id, *map(str, p)]))
        path.write_text("\n".join(rows) + "\n")
        return study, cohort

    def test_a_table_is_a_teacher(self, make_config, tmp_path):
        study, cohort = self.brought(make_config, tmp_path / "p.csv")
        train_teacher(study, cohort, tracker=NullTracker())
        soften(study, cohort)
        targets = open_soft_targets(study, cohort)
        said = {case.id: targets[case.id][...] for case in cohort.of(cohort.split.train)}
        for case in cohort.of(cohort.split.train):
            for index, name in enumerate(study.config.classes):
                lowest = min(logits[index] for logits in said.values())
                assert (said[case.id][index] > lowest + 0.5) == (name in case.label)

    def test_its_columns_in_another_order_are_found_out(self, make_config, tmp_path):
        columns = ("marked", "large")
        study, cohort = self.brought(make_config, tmp_path / "p.csv", columns=columns)
        split = replace(cohort.split, validation=("c1", "c2", "c3", "c4"))  # all combinations
        with pytest.raises(DataError, match="marked looks like large, large looks like marked"):
            admit(study, replace(cohort, split=split))

    def test_answers_that_tell_nothing_are_refused(self, make_config, tmp_path):
        study, cohort = self.brought(make_config, tmp_path / "p.csv", said=[0.4, 0.4])
        with pytest.raises(DataError, match=r"do not fit their labels \(mean 2 AUROC - 1 0\.000"):
            admit(study, cohort)

    def test_a_finding_that_no_validation_case_has_is_left_out(self, make_config, tmp_path):
        study, cohort = self.brought(make_config, tmp_path / "p.csv")
        cases = [cohort.cases[name] for name in ("c1", "c2", "c3", "c4")]
        for left, message in ((None, "of no finding are there validation cases"), ("large", None)):
            fewer = {
                case.id: replace(case, label=tuple(name for name in case.label if name == left))
                for case in cases
            }
            other = replace(cohort, cases=cohort.cases | fewer)
            other = replace(other, split=replace(cohort.split, validation=tuple(fewer)))
            with pytest.raises(DataError, match=message) if message else nullcontext():
                admit(study, other)
