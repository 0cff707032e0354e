"""All figures of hippocampus' test split, three models, against the three of MONAI."""

import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medkd.config import load
from medkd.data.reader import read_label
from medkd.device.predictor import Prediction
from medkd.evaluate.compare import compare
from medkd.evaluate.score import score_segmentation
from medkd.types import Case, Role

pytestmark = [
    pytest.mark.data,
    pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges"),
]
CONFIG = Path(__file__).parents[2] / "configs" / "hippocampus.yaml"
CASES = 39


def answered(label, seed):
    """Return a mask and probabilities that err at the boundaries, as networks do."""
    rng, classes = np.random.default_rng(seed), np.eye(3)[label.astype(int)]
    soft = np.stack([ndimage.gaussian_filter(c, 0.7) for c in np.moveaxis(classes, -1, 0)])
    wobble = np.stack([ndimage.gaussian_filter(rng.normal(size=label.shape), 2) for _ in range(3)])
    p = np.exp(6 * soft + 8 * wobble)
    p = (p / p.sum(axis=0)).astype(np.float32)
    return Prediction(mask=p.argmax(axis=0).astype(np.uint8), probabilities=p)


def monai(pairs):
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    for mask, label in pairs:
        pair = [
            torch.from_numpy(np.moveaxis(np.eye(3, dtype=np.float32)[m.astype(int)], -1, 0)[None])
            for m in (mask, label)
        ]
        compute_dice(*pair, include_background=False)
        compute_surface_dice(*pair, class_thresholds=[1.0, 1.0], spacing=(1, 1, 1))
        compute_hausdorff_distance(*pair, percentile=95, spacing=(1, 1, 1))


def test_all_figures_of_a_test_split(data_root):
    warnings.filterwarnings("ignore", message="the ground truth of class")  # MONAI's, empty masks
    config = load(CONFIG, overrides=["evaluate.lesions=[anterior]"])
    files = sorted((data_root / "hippocampus" / "labelsTr").glob("hippo*.nii*"))[:CASES]
    labels = {path: read_label(path).array[0] for path in files}
    cases = [Case(id=path.stem, patient=path.stem, image=path, label=path) for path in files]
    said = {
        role: {p: answered(label, seed) for p, label in labels.items()}
        for seed, role in enumerate(Role)
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    scores = {
        role: score_segmentation(
            lambda case, of=role: said[of][case.label], cases, config, salt=b"", name=role
        )
        for role in Role
    }
    scored = time.perf_counter() - start
    compare(scores, config)
    ours = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for role in Role:
        monai((said[role][path].mask, label) for path, label in labels.items())
    theirs = time.perf_counter() - start
    figures = len(scores[Role.STUDENT].headline) + len(scores[Role.STUDENT].per_class)
    print(f"\n{len(cases)} cases, 3 models")
    print(
        f"  ours: {figures} figures with intervals {scored:.1f} s, and their paired differences "
        f"{ours:.1f} s, {(after - before) / 1024:.0f} MiB more"
    )
    print(f"  MONAI: Dice, NSD and HD95 without intervals {theirs:.1f} s")
