"""Record: what a release says of an image beside its mask or class, as JSON."""

import math
from typing import Any

import numpy as np

from medkd import __version__
from medkd.device.manifest import Manifest
from medkd.device.predictor import Prediction
from medkd.types import Task, Volume


def record(name: str, volume: Volume, prediction: Prediction, manifest: Manifest) -> dict[str, Any]:
    """Return volumes or probabilities, confidence, conformal answer and the guard's verdict.

    The guard's verdict is always there, as null where the release has no guard; so is what had to
    be mended to read the image.
    """
    is_map = manifest.task is Task.SEGMENTATION
    said = _of_mask(volume, prediction, manifest) if is_map else _of_classes(prediction, manifest)
    finding = prediction.finding
    guard = None
    if finding:
        guard = {
            "verdict": finding.verdict,
            "unlike": finding.is_unlike,
            "distance": finding.distance if math.isfinite(finding.distance) else None,
            "limit": finding.limit,
            "reasons": list(finding.reasons),
        }
    release = {"role": manifest.role, "variant": str(manifest.variant), "medkd": __version__}
    told = {"image": name, "release": release | manifest.study, **said}
    return told | {"guard": guard, "mended": list(volume.remedies)}


def volumes_ml(mask: np.ndarray, affine: np.ndarray, manifest: Manifest) -> dict[str, float]:
    """Return the volume of each structure in a 3D mask."""
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return {name: n * voxel_ml for name, n in _counts(mask, manifest).items()}


def _counts(mask: np.ndarray, manifest: Manifest) -> dict[str, int]:
    found = zip(manifest.structures, manifest.masks(mask), strict=True)
    return {name: int(np.count_nonzero(of_structure)) for name, of_structure in found}


def _of_mask(volume: Volume, prediction: Prediction, manifest: Manifest) -> dict[str, Any]:
    assert prediction.mask is not None
    said: dict[str, Any] = {}
    if volume.dims == 3:
        said["volumes_ml"] = volumes_ml(prediction.mask, volume.affine, manifest)
    else:
        said["pixels"] = _counts(prediction.mask, manifest)
    said["confidence"] = prediction.confidence
    if manifest.conformal and prediction.conformal_ml:
        said["conformal"] = {
            "promised": manifest.conformal.promised,
            "volumes_ml": prediction.conformal_ml,
        }
    return said


def _of_classes(prediction: Prediction, manifest: Manifest) -> dict[str, Any]:
    assert prediction.probabilities is not None
    values = [float(p) for p in prediction.probabilities]
    if manifest.has_findings:
        said: dict[str, Any] = {"prediction": list(prediction.confidence)}
        said["operating_points"] = manifest.operating_points
    else:
        assert math.isclose(sum(values), 1, abs_tol=1e-3)
        ((likeliest, confidence),) = prediction.confidence.items()
        said = {"prediction": likeliest, "confidence": confidence}
    said["probabilities"] = dict(zip(manifest.classes, values, strict=True))
    if manifest.conformal:
        said["conformal"] = {
            "promised": manifest.conformal.promised,
            "set": list(prediction.possible),
        }
    return said
