import json

import numpy as np
import pytest

from medkd.device import load
from medkd.device.guard import Finding
from medkd.device.predictor import Prediction
from medkd.device.record import record
from medkd.types import Volume

AFFINE = np.array([[0, -1.5, 0, 5], [2, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def test_volumes_are_in_millilitres_of_the_images_own_voxels(release_3d):
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[:10] = 7
    mask[15, 0, :5] = 255
    volume = Volume(np.zeros((1, 20, 20, 20)), AFFINE, ("resample_missing: slice 3",))
    prediction = Prediction(mask=mask, confidence={"organ": 0.9})
    said = record("a.nii.gz", volume, prediction, load(release_3d).manifest)
    assert said["volumes_ml"] == pytest.approx({"organ": 4000 * 9 / 1000, "lesion": 5 * 9 / 1000})
    assert said["confidence"] == {"organ": 0.9}
    assert said["guard"] is None
    assert said["image"] == "a.nii.gz"
    assert said["mended"] == ["resample_missing: slice 3"]
    assert json.loads(json.dumps(said)) == said


def test_a_picture_has_pixels_and_no_volume(release_2d):
    mask = np.full((4, 5), 7, np.uint8)
    volume = Volume(np.zeros((1, 4, 5)), np.eye(3))
    said = record("a.png", volume, Prediction(mask=mask), load(release_2d).manifest)
    assert said["pixels"] == {"organ": 20, "lesion": 0}
    assert "volumes_ml" not in said


def test_what_a_release_promises_is_told_with_its_level(release_3d, release_classes, changed):
    promise = {"promised": 0.9, "thresholds": {"organ": 0.2}, "cases": 30}
    volume = Volume(np.zeros((1, 2, 2, 2)), np.eye(4))
    prediction = Prediction(mask=np.zeros((2, 2, 2), np.uint8), conformal_ml={"organ": 3.0})
    manifest = load(changed(release_3d, conformal=promise)).manifest
    said = record("a", volume, prediction, manifest)
    assert said["conformal"] == {"promised": 0.9, "volumes_ml": {"organ": 3.0}}


def test_classes_have_probabilities_confidence_and_the_guards_verdict(release_classes):
    finding = Finding(distance=9, limit=2, reasons=("noise: 9, expected 0-1",))
    prediction = Prediction(
        probabilities=np.array([0.25, 0.75]), confidence={"bright": 0.75}, finding=finding
    )
    said = record("a", Volume(np.zeros((1, 2, 2)), np.eye(3)), prediction,
                  load(release_classes).manifest)  # fmt: skip
    assert (said["prediction"], said["confidence"]) == ("bright", 0.75)
    assert said["probabilities"] == {"dark": 0.25, "bright": 0.75}
    assert said["guard"]["unlike"]
    assert said["guard"]["verdict"] == "unlike the validated data: noise: 9, expected 0-1"


def test_of_structures_that_overlap_each_has_all_its_voxels(release_overlapping):
    mask = np.zeros((2, 20, 20, 20), np.uint8)
    mask[0, :10] = 1
    mask[1, 5, :, :5] = 1
    volume = Volume(np.zeros((1, 20, 20, 20)), AFFINE)
    said = record("a", volume, Prediction(mask=mask), load(release_overlapping).manifest)
    expected = {"organ": 4000 * 9 / 1000, "lesion": 100 * 9 / 1000}
    assert said["volumes_ml"] == pytest.approx(expected)


def test_findings_have_probabilities_of_their_own(release_findings, changed):
    release = changed(release_findings, operating_points={"dark": 0.5, "bright": 0.25})
    volume, manifest = Volume(np.zeros((1, 2, 2)), np.eye(3)), load(release).manifest
    both = Prediction(probabilities=np.array([0.75, 0.5]), confidence={"dark": 0.75, "bright": 0.5})
    said = record("a", volume, both, manifest)
    assert said["prediction"] == ["dark", "bright"]
    assert said["probabilities"] == {"dark": 0.75, "bright": 0.5}
    assert said["operating_points"] == {"dark": 0.5, "bright": 0.25}
    neither = Prediction(probabilities=np.array([0.25, 0.125]))
    assert record("a", volume, neither, manifest)["prediction"] == []
    assert json.loads(json.dumps(said)) == said
