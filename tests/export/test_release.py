import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from medkd.data.reader import read_image
from medkd.data.samples import load_samples
from medkd.device.manifest import PARITY, read_manifest
from medkd.device.predictor import load
from medkd.errors import ReleaseError, StudyError
from medkd.export import release
from medkd.export.release import export, export_all
from medkd.metrics.temperature import apply_temperature
from medkd.models.checkpoint import load_checkpoint, save_checkpoint
from medkd.models.cost import macs, parameters
from medkd.predict.infer import predict_logits
from medkd.results import VariantResult
from medkd.types import Role, Runtime, Variant
from tests.conftest import NAMES

OUTLIER, ALLOWED = 100, 0.03
CHECKPOINTS = {Role.TEACHER: "teacher/fold-0", Role.BASELINE: "baseline", Role.STUDENT: "student"}


@pytest.mark.parametrize("role", list(Role))
class TestRelease:
    def test_the_manifest_holds_the_digest_of_every_other_file(self, released, role):
        folder = released[0].path(f"releases/{role}")
        others = {path.name for path in folder.iterdir()} - {
            "manifest.json",
            "stage.json",
            "runtime.json",
        }
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
        logits = predict_logits(model, sample.image, study.config)
        expected = apply_temperature(logits, found.temperature, axis=0)
        answer = load(study.path(f"releases/{role}"), threads=1).answer(
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


@pytest.fixture(scope="module")
def variants(released):
    """The folders of the student's variants, whatever an untrained network loses."""
    study, cohort = released
    return {v: export(allowing(study, 1.0), cohort, role=Role.STUDENT, variant=v) for v in Variant}


def allowing(study, loss):
    """Return the study with another gate for int8."""
    options = study.config.export.model_copy(update={"may_lose": {Variant.INT8: loss}})
    return replace(study, config=study.config.model_copy(update={"export": options}))


@pytest.mark.slow
class TestVariants:
    def test_each_has_a_folder_with_what_it_lost(self, released, variants):
        study, cohort = released
        for variant, folder in variants.items():
            assert folder == study.path(f"releases/{variant.of(Role.STUDENT)}")
            result = VariantResult.model_validate_json((folder / PARITY).read_text())
            manifest = read_manifest(folder)
            assert manifest.variant is variant
            assert manifest.parity == result.parity
            for parity in result.parity.values():
                assert parity.difference.cases == len(cohort.split.validation)
                assert parity.figure == "dice"

    def test_fp32_answers_exactly_and_int8_nearly(self, variants):
        found = {v: read_manifest(folder).parity for v, folder in variants.items()}
        exact = [*found[Variant.ONNX].values(), found[Variant.OPENVINO]["openvino"]]
        for parity in (*exact, *found[Variant.BUNDLE].values()):
            assert parity.largest_logit_difference < 1e-4 * max(1, parity.largest_logit)
            assert parity.agreement > 0.9999
            assert parity.temperature == pytest.approx(
                found[Variant.ONNX]["onnxruntime"].temperature
            )
        (int8,) = found[Variant.INT8].values()
        assert int8.largest_logit_difference > 0
        assert int8.agreement > 0.9

    def test_int8_keeps_its_own_temperature_and_the_others_the_networks(self, released, variants):
        _, trained = load_checkpoint(released[0].path("student"))
        for variant, folder in variants.items():
            manifest = read_manifest(folder)
            if variant is Variant.INT8:
                assert manifest.temperature == manifest.parity["openvino"].temperature
            else:
                assert manifest.temperature == trained.temperature

    @pytest.mark.parametrize("variant", [Variant.ONNX, Variant.OPENVINO, Variant.INT8])
    def test_a_device_loads_it_with_each_runtime_it_names(self, released, variants, variant):
        case = released[1].of(released[1].split.test)[0]
        manifest = read_manifest(variants[variant])
        assert manifest.runtimes
        for runtime in manifest.runtimes:
            mask = load(variants[variant], runtime=runtime).answer(read_image(case.image)).mask
            assert mask.shape == read_image(case.image).shape

    def test_a_bundle_sends_its_user_to_monai(self, variants):
        with pytest.raises(ReleaseError, match=r"python -m monai\.bundle run"):
            load(variants[Variant.BUNDLE])

    def test_no_variant_names_a_case_a_patient_or_a_path(self, released, variants):
        for folder in variants.values():
            for path in (p for p in folder.rglob("*") if p.is_file()):
                for name in (*NAMES, str(released[0].folder.parent)):
                    assert name.encode() not in path.read_bytes(), f"{name} in {path.name}"

    def test_what_openvino_reads_beside_the_named_file_is_digested(self, variants, tmp_path):
        for path in variants[Variant.OPENVINO].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "model.bin").write_bytes(b"\0" * 64)
        with pytest.raises(ReleaseError, match=r"model\.bin: differs from the SHA-256"):
            load(tmp_path)


def test_one_that_loses_too_much_leaves_the_reason_and_harms_no_other(make_study, monkeypatch):
    study, cohort = trained_study(make_study)
    real = release.compare

    def worse(trained, engines, samples, config, *, temperature):
        found = real(trained, engines, samples, config, temperature=temperature)
        lost = {"value": -0.02, "low": -0.03, "high": -0.01}
        return {
            name: parity.model_copy(
                update={"difference": parity.difference.model_copy(update=lost)}
            )
            for name, parity in found.items()
        }

    export(study, cohort, role=Role.BASELINE)
    monkeypatch.setattr(release, "compare", worse)
    folder = export(study, cohort, role=Role.BASELINE, variant=Variant.OPENVINO)
    assert {path.name for path in folder.iterdir()} == {"stage.json", PARITY}
    result = VariantResult.model_validate_json((folder / PARITY).read_text())
    assert (
        "loses 0.0200 dice on the validation split, by its interval up to 0.0300"
        in (result.refused["openvino"])
    )
    with pytest.raises(ReleaseError, match=r"not released: it loses 0\.0200 dice"):
        load(folder)
    load(study.path("releases/baseline"), threads=1)
    openvino = {"variants": [Variant.OPENVINO], "roles": [Role.BASELINE]}
    assert folder not in export_all(study, cohort, **openvino)


def test_a_runtime_that_loses_too_much_is_left_out_alone(make_study, monkeypatch):
    study, cohort = trained_study(make_study)
    real = release.why_refused
    monkeypatch.setattr(
        release,
        "why_refused",
        lambda parity, *, may_lose: real(parity, may_lose=may_lose) if first(parity) else "too far",
    )
    seen = []

    def first(parity):
        seen.append(parity)
        return len(seen) == 1

    manifest = read_manifest(export(study, cohort, role=Role.BASELINE))
    assert manifest.runtimes == (Runtime.ONNXRUNTIME,)
    assert list(manifest.parity) == ["onnxruntime"]


def trained_study(make_study):
    from medkd.track.tracker import NullTracker
    from medkd.train.run import train_baseline

    study, cohort = make_study(dims=2)
    train_baseline(study, cohort, tracker=NullTracker())
    return study, cohort


@pytest.fixture(scope="module")
def broken(make_study):
    """A study whose student answers well, though not when its values are rounded to 8 bits.

    One channel is made OUTLIER times larger, and the weights that read it as much smaller: the
    network says what it said, but one scale for all channels leaves the others a few levels.
    """
    from medkd.track.tracker import NullTracker
    from medkd.train.run import distill, train_teacher
    from medkd.train.soften import soften

    options = ["steps=150", "validate_every=50", "learning_rate=0.01"]
    overrides = [f"{role}.train.{option}" for role in ("teacher", "student") for option in options]
    study, cohort = make_study(*overrides, "export.retrain_steps=300", dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    folder = distill(study, cohort, tracker=NullTracker())
    network, described = load_checkpoint(folder)
    image = torch.randn(2, 1, 16, 16)
    before = network(image)
    first, second, last = network.model
    with torch.no_grad():
        first.adn.N.weight[0] *= OUTLIER
        first.adn.N.bias[0] *= OUTLIER
        second.submodule.conv.weight[:, 0] /= OUTLIER
        last.conv.weight[0] /= OUTLIER
    torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-3)
    save_checkpoint(folder, network, described)
    return study, cohort


def int8_of(study, cohort, retrain):
    folder = export(study, cohort, role=Role.STUDENT, variant=Variant.INT8, retrain=retrain)
    return folder, VariantResult.model_validate_json((folder / PARITY).read_text())


@pytest.mark.slow
class TestRetraining:
    def test_what_rounding_breaks_is_recovered_by_training_as_if_in_int8(self, broken):
        from medkd.train.run import retrain

        study, cohort = broken
        folder, told = int8_of(allowing(study, ALLOWED), cohort, retrain)
        *quantised, trained = told.attempts
        assert [attempt.way for attempt in quantised] == [
            "quantised, bias corrected in all layers at once",
            "quantised, bias corrected layer by layer",
        ]
        for attempt in quantised:
            assert attempt.difference.value < -ALLOWED
            assert f"export.may_lose allows {ALLOWED:g}" in attempt.refused
        assert trained.way == "trained on as if in int8"
        assert (trained.refused, told.refused) == (None, {})
        assert trained.difference.value >= -ALLOWED
        manifest = read_manifest(folder)
        assert manifest.parity["openvino"].difference == trained.difference
        case = cohort.of(cohort.split.test)[0]
        assert load(folder).answer(read_image(case.image)).mask.any()
        shutil.rmtree(folder)

    def test_the_gate_refuses_what_is_not_recovered_and_says_so(self, broken):
        study, cohort = broken
        idle = []

        def unchanged(study, cohort, role):
            idle.append(role)
            return study.path(role)

        folder, told = int8_of(allowing(study, ALLOWED), cohort, unchanged)
        assert idle == [Role.STUDENT]
        assert len(told.attempts) == 3
        assert all(attempt.refused for attempt in told.attempts)
        assert {path.name for path in folder.iterdir()} == {"stage.json", PARITY}
        shutil.rmtree(folder)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"retrain_steps": 0}, "export.retrain_steps is 0"),
            ("soft_targets", "the soft targets are gone"),
        ],
    )
    def test_why_it_was_not_tried_is_told(self, broken, change, reason):
        study, cohort = broken
        study = allowing(study, ALLOWED)
        away = study.folder / "away"
        if isinstance(change, str):
            study.path(change).rename(away)
        else:
            options = study.config.export.model_copy(update=change)
            config = study.config.model_copy(update={"export": options})
            study = replace(study, config=config)
        folder, told = int8_of(study, cohort, pytest.fail)
        shutil.rmtree(folder)
        if away.exists():
            away.rename(study.path(change))
        assert told.attempts[-1].difference is None
        assert reason in told.attempts[-1].refused


def test_a_release_carries_codes_and_licence(make_study):
    codes = "data.codes={core: {value: '5366008', meaning: Hippocampus}}"
    study, cohort = make_study(codes, "export.licence=CC-BY-4.0", dims=2)
    from medkd.track.tracker import NullTracker
    from medkd.train.run import train_baseline

    train_baseline(study, cohort, tracker=NullTracker())
    manifest = read_manifest(export(study, cohort, role=Role.BASELINE))
    assert manifest.licence == "CC-BY-4.0"
    assert manifest.codes["core"].scheme == "SCT"
    assert manifest.codes["core"].category.meaning == "Anatomical Structure"
