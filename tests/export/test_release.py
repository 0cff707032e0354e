import hashlib
from dataclasses import replace

import numpy as np
import pytest

from medkd.data.reader import read_image
from medkd.data.samples import load_samples
from medkd.device.manifest import read_manifest
from medkd.device.predictor import load
from medkd.errors import ReleaseError, StudyError
from medkd.export import release
from medkd.export.release import export
from medkd.metrics.temperature import apply_temperature
from medkd.models.checkpoint import load_checkpoint
from medkd.models.cost import macs, parameters
from medkd.predict.infer import predict_log_probabilities
from medkd.types import Role
from tests.conftest import NAMES

CHECKPOINTS = {Role.TEACHER: "teacher/fold-0", Role.BASELINE: "baseline", Role.STUDENT: "student"}


@pytest.mark.parametrize("role", list(Role))
class TestRelease:
    def test_the_manifest_holds_the_digest_of_every_other_file(self, released, role):
        folder = released[0].path(f"releases/{role}")
        others = {path.name for path in folder.iterdir()} - {"manifest.json", "stage.json"}
        files = read_manifest(folder).files
        assert set(files) == others
        for name, digest in files.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest

    def test_the_manifest_says_what_a_device_must_know(self, released, role):
        study, _ = released
        manifest = read_manifest(study.path(f"releases/{role}"))
        model, found = load_checkpoint(study.path(CHECKPOINTS[role]))
        assert manifest.role == role
        assert manifest.classes == study.config.classes
        assert manifest.label_values == study.config.label_values
        assert manifest.preprocess == study.config.preprocess
        assert manifest.temperature == found.temperature
        assert isinstance(manifest.temperature, float if role is Role.TEACHER else tuple)
        assert manifest.model == found.model
        assert manifest.parameters == parameters(model)
        assert manifest.macs == macs(model, (1, 1, 16, 16, 16))

    def test_it_answers_what_its_network_answers(self, released, role):
        study, cohort = released
        model, found = load_checkpoint(study.path(CHECKPOINTS[role]))
        (case, *_) = cohort.of(cohort.split.test)
        (sample,) = load_samples([case], study.config)
        logits = predict_log_probabilities(model, sample.image, study.config)
        expected = apply_temperature(logits, found.temperature, axis=0)
        answer = load(study.path(f"releases/{role}"), threads=1).predict(
            read_image(case.image), with_probabilities=True
        )
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-3)

    def test_it_names_no_case_no_patient_and_no_path(self, released, role):
        study, _ = released
        for path in study.path(f"releases/{role}").iterdir():
            content = path.read_bytes()
            for name in (*NAMES, str(study.folder.parent)):
                assert name.encode() not in content, f"{name} in {path.name}"


def test_its_config_is_the_same_wherever_files_lie(released):
    study, cohort = released
    options = study.config.study.model_copy(update={"root": "/elsewhere"})
    moved = replace(study, config=study.config.model_copy(update={"study": options}))
    there = release._provenance(moved, cohort, [])
    here = read_manifest(study.path("releases/student")).study
    assert there["config"] == here["config"]


def test_a_file_that_was_changed_is_refused(released, tmp_path):
    source = released[0].path("releases/student")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    load(tmp_path, threads=1)
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ReleaseError, match=r"model\.onnx: differs from the SHA-256"):
        load(tmp_path)


def test_a_release_that_is_complete_is_not_written_again(released):
    study, cohort = released
    path = study.path("releases/student") / "model.onnx"
    before = path.stat().st_mtime_ns
    export(study, cohort, role=Role.STUDENT)
    assert path.stat().st_mtime_ns == before


def test_a_role_that_was_not_trained_is_refused(make_study):
    study, cohort = make_study(dims=2)
    with pytest.raises(StudyError, match="baseline: this stage has not been run yet"):
        export(study, cohort, role=Role.BASELINE)
