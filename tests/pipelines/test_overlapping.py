"""A whole study of structures that overlap, from 4D labels to masks with a channel of each."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml

from medkd.config import load
from medkd.data.check import check
from medkd.data.reader import read_label
from medkd.data.reading import label_of
from medkd.device.answer import answer
from medkd.device.manifest import read_manifest
from medkd.evaluate.run import evaluate
from medkd.export.release import export_all
from medkd.metrics.overlap import dice
from medkd.report.build import draw
from medkd.results import Report
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.check_models import check_models
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften, verify
from medkd.types import Activation
from tests.conftest import overlap, tiny_values, write_cases

TRAIN = {
    "steps": 120,
    "batch": 4,
    "validate_every": 60,
    "warmup_steps": 5,
    "ema": 0.9,
    "learning_rate": 0.02,
    "class_weights": {"core": 4},
}


def values_of(root, *, dims):
    values = tiny_values(root, dims=dims, task="segmentation")
    values["data"] |= {"root": str(root), "overlapping": True}
    values["preprocess"]["window"] = [8, 16, 16][-dims:]
    if dims == 3:  # so that answers have to find their way back
        values["preprocess"] |= {"spacing_mm": [1.25, 1, 1]}
    values["augment"] = {"rotate_degrees": 10, "noise_std": 0.1, "flip_axes": [0]}
    values["teacher"]["folds"] = 4 - dims
    for role in ("teacher", "student"):
        values[role]["train"] = values[role]["train"] | TRAIN
    values["student"]["temperature"] = "by_class"
    losses = [{"name": "pixel_kd", "weight": 0.3, "boundary": 1, "confidence": 1}]
    losses += [{"name": name, "weight": 0.1} for name in ("soft_dice", "cwd", "affinity")]
    values["distill"] = {"losses": losses}
    values["postprocess"] = {"fill_holes": ["ball"], "largest_component": ["core"]}
    values["export"] = {"variants": ["onnx"] if dims == 3 else ["openvino", "int8"]}
    values["evaluate"] |= {
        "lesions": ["core"],
        "stress_cases": 1,
        "subgroups": [{"attribute": "volume_ml/core", "edges": [0.1]}],
    }
    return values


@pytest.fixture(scope="module", params=[3, 2], ids=["volumes", "pictures"])
def finished(request, tmp_path_factory):
    """The study with its releases and report."""
    root = tmp_path_factory.mktemp("overlapping")
    write_cases(root / "data", dims=request.param, task="segmentation")
    overlap(root / "data")
    path = root / "overlapping.yaml"
    path.write_text(yaml.safe_dump(values_of(root, dims=request.param), sort_keys=False))
    study = Study(load(path), config_path=path)
    check_models(study.config)
    cohort = check(study)
    study.begin(cohort.split)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    export_all(study, cohort)
    return study, cohort, evaluate(study, cohort)


@pytest.mark.slow
def test_every_role_is_scored_by_structure(finished):
    study, _, report = finished
    assert report.classes == ("ball", "core")
    for result in report.roles.values():
        assert {"dice/ball", "dice/core", "nsd/core", "lesion_sensitivity/core"} <= set(
            result.per_class
        )
        assert result.per_class["dice/ball"].value > 0.7
        assert set(result.agreement) == {"ball", "core"}
    assert {promise.of for promise in report.promises["student"]} == {"ball", "core"}
    assert Report.model_validate_json((study.folder / "report.json").read_text()) == report
    assert "core" in draw(report, study_folder=study.folder)


@pytest.mark.slow
def test_soft_targets_are_those_of_the_teacher(finished):
    study, cohort, _ = finished
    assert verify(study, cohort, cases=2) < 0.03


@pytest.mark.slow
def test_variants_answer_as_the_network_that_was_trained(finished):
    _, _, report = finished
    for variant in report.variants:
        for parity in variant.parity.values():
            assert parity.agreement > (0.98 if variant.variant == "int8" else 0.9999)


@pytest.mark.slow
def test_a_voxel_of_both_structures_comes_back_as_both(finished, tmp_path):
    study, cohort, _ = finished
    release = study.path("releases/student")
    manifest = read_manifest(release)
    assert manifest.activation is Activation.SIGMOID
    assert len(manifest.temperature) == 2
    case = cohort.of(cohort.split.test)[1]  # the one with the larger core
    suffix = ".nii.gz" if study.config.dims == 3 else ".tif"
    assert not answer(release, case.image, tmp_path / f"mask{suffix}").failed
    mask = read_label(tmp_path / f"mask{suffix}", several=True).array
    truth = label_of(case, study.config).array
    assert set(np.unique(mask)) == {0, 1}
    shared = (truth == 1).all(axis=0)
    assert dice((mask == 1).all(axis=0), shared) > 0.5
    assert dice(mask[0] == 1, truth[0] == 1) > 0.8
    if study.config.dims == 3:
        written = nib.load(tmp_path / "mask.nii.gz")
        assert (written.shape, written.get_data_dtype()) == ((16, 16, 16, 2), np.uint8)
        said = json.loads((tmp_path / "mask.json").read_text())
        volumes = said["volumes_ml"]
        assert volumes["ball"] == pytest.approx((mask[0] == 1).sum() / 1000)
        assert said["conformal"]["volumes_ml"].keys() == {"ball", "core"}
        assert 0.5 <= said["confidence"]["core"] <= 1
