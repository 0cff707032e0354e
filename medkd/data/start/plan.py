"""Plan: spacing, window, networks and schedule by a data set's fingerprint, each with its reason.

Spacing and window follow nnU-Net's planner (Isensee et al. 2021): the median spacing, finer where
slices are thick; a window that is isotropic in millimetres, no larger than the median image, which
every level of the network can halve, and that fits a memory budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medkd.data.start.fingerprint import Fingerprint
from medkd.types import Task

ANISOTROPIC = 3  # times the other axes: thick slices
SMALLEST = 4  # voxels along an axis at the bottom of the network
FEWEST_LEVELS, MOST_LEVELS = 2, 4  # halvings
START = {2: 2048, 3: 256}  # edge of the isotropic window that is cut down
BUDGET = {2: 512 * 512, 3: 128**3}  # pixels or voxels; nnU-Net's usual window for 8 GB
QUICK = {2: 256 * 256, 3: 64 * 64 * 64}  # for two CPU cores
WHOLE = {2: 224, 3: 64}  # edge of an image that is classified, at most
RARE = {Task.SEGMENTATION: 0.005, Task.CLASSIFICATION: 0.15}  # share below which weights help
HEAVIEST = 10.0  # weight of a class
VERY_RARE = 0.0005  # share of the voxels below which cross-entropy hardly sees a structure
UNEVEN = 3  # times as frequent as the rarest: a class beside which that one is weighted
THIN = 12  # voxels: finer structures need a network that computes at full resolution
LEAST_FOR_FOLDS = 25  # patients


@dataclass(frozen=True)
class Choice:
    """A value of the config and why it was chosen."""

    value: Any
    why: str = ""


Plan = dict[str, Choice]  # by key of the config: preprocess.window, …
PIXELS = {"name": "pixel_kd", "temperature": 2}


def plan(data: Fingerprint) -> Plan:
    """Return the values of a config that follow from a fingerprint, by their keys."""
    chosen = {
        "preprocess.channels": Choice(data.channels),
        "preprocess.orientation": Choice("RAS") if data.dims == 3 else Choice(None, "2D"),
        "preprocess.intensity": _intensity(data),
    }
    if data.task is Task.CLASSIFICATION:
        return chosen | _classifier(data) | _schedule(data)
    return chosen | _segmenter(data) | _schedule(data)


def _intensity(data: Fingerprint) -> Choice:
    if data.is_ct:
        return Choice("percentile", "Hounsfield units: metal and air are clipped before scaling")
    low, high = float(np.min(data.highs)), float(np.max(data.highs))
    if data.is_byte:
        return Choice("zscore", f"8-bit images, their highest values from {low:.0f} to {high:.0f}")
    return Choice("zscore", f"in no unit; their highest values lie from {low:.4g} to {high:.4g}")


def _segmenter(data: Fingerprint) -> Plan:
    spacing, why = _spacing(data)
    shape = _median_shape(data, spacing)
    levels, window = _window(spacing, shape, budget=BUDGET[data.dims])
    small_levels, small = _window(spacing, shape, budget=QUICK[data.dims])
    levels = min(levels, small_levels)
    is_thin = data.thinnest < THIN
    base = 16 if data.dims == 3 else 32
    widths = [base * 2**level for level in range(levels + 1)]
    student = [base // 2 * 2**level for level in range(levels + 1)]
    reason = f"the median image is {_times(shape)} voxels; each axis can be halved {levels} times"
    at_full = f"the smallest structure is about {data.thinnest:.0f} voxels thick"
    return {
        "preprocess.spacing_mm": Choice(list(spacing) if data.dims == 3 else None, why),
        "preprocess.window": Choice(list(window), reason),
        "quick.window": Choice(list(small), "two CPU cores" if small != window else ""),
        "teacher.model": Choice(
            {"name": "dynunet", "filters": widths}, "nnU-Net's network, narrow for two CPU cores"
        ),
        "full.teacher.model": Choice({"filters": [min(2 * width, 512) for width in widths]}),
        "student.model": Choice(
            {"name": "plain_unet", "channels": [student[0], *student], "first_stride": 1}
            if is_thin
            else {"name": "plain_unet", "channels": student},
            f"{at_full}: computes at full resolution" if is_thin else "halves at once: fastest",
        ),
        "distill.losses": Choice(
            [PIXELS, {"name": "soft_dice"}],
            "soft_dice: the overlap that Dice judges; with it pixel_kd taught more than alone",
        ),
        "distill.class_weights": _weights(data),
    }


def _classifier(data: Fingerprint) -> Plan:
    sizes = np.unique(data.shapes, axis=0)
    median = np.median(data.shapes, axis=0)
    size = [int(min(round(edge), WHOLE[data.dims])) for edge in median]
    why = (
        f"all images are {_times(sizes[0])}"
        if len(sizes) == 1
        else f"images are {_times(sizes.min(axis=0))} to {_times(sizes.max(axis=0))}"
    )
    if any(edge > WHOLE[data.dims] for edge in median):
        why += f"; reduced to at most {WHOLE[data.dims]}, which two CPU cores can bear"
    stem = {"stem_stride": 1} if max(size) < 64 else {}
    student = {"name": "resnet", "widths": [8, 16, 32, 64], "blocks": [1, 1, 1, 1]} | stem
    widths = [64, 128, 256, 512] if data.dims == 2 else [16, 32, 64, 128]
    return {
        "preprocess.size": Choice(size, why),
        "preprocess.window": Choice(size, "a classifier looks at the whole image"),
        "quick.window": Choice(size),
        "teacher.model": Choice(
            {"name": "resnet", "widths": widths} | stem,
            "ResNet-18" + (", its stem kept fine for small images" if stem else ""),
        ),
        "student.model": Choice(student, "the same family, narrow, one block a level"),
        "distill.losses": Choice([PIXELS]),
        "distill.class_weights": _weights(data),
    }


def _spacing(data: Fingerprint) -> tuple[tuple[float, ...], str]:
    """Return the spacing to resample to; of thick slices, what a tenth of the cases exceed."""
    median = np.median(data.spacings_mm, axis=0)
    worst = int(np.argmax(median))
    others = [axis for axis in range(data.dims) if axis != worst]
    shape = np.median(data.shapes, axis=0)
    thick = median[worst] > ANISOTROPIC * median[others].max()
    few = shape[worst] * ANISOTROPIC < shape[others].min()
    why = "the median spacing"
    if np.allclose(data.spacings_mm, median, rtol=1e-3):
        why = "the spacing of all images"
    elif thick and few:
        tenth = float(np.percentile(data.spacings_mm[:, worst], 10))
        median[worst] = max(tenth, median[others].max())
        why = "the median spacing; along the thick slices the finest tenth's"
    return tuple(float(f"{step:.4g}") for step in median), why


def _median_shape(data: Fingerprint, spacing: Sequence[float]) -> tuple[int, ...]:
    resampled = np.rint(data.shapes * data.spacings_mm / np.array(spacing))
    return tuple(int(edge) for edge in np.maximum(np.rint(np.median(resampled, axis=0)), 1))


def _window(
    spacing: Sequence[float], shape: Sequence[int], *, budget: int
) -> tuple[int, tuple[int, ...]]:
    """Return how often the network halves, and a window within a budget of voxels."""
    per_mm = 1 / np.array(spacing)
    edge = (START[len(shape)] ** len(shape) / per_mm.prod()) ** (1 / len(shape))
    window = np.minimum(np.rint(per_mm * edge), shape)
    while True:
        levels = _levels(window)
        step = 2**levels
        whole = np.ceil(window / step).astype(int) * step
        if whole.prod() <= budget or whole.max() <= 2 * step:
            return levels, tuple(int(v) for v in whole)
        longest = int(np.argmax(whole / np.array(shape)))
        window = whole.astype(float)
        window[longest] -= step


def _levels(window: np.ndarray) -> int:
    """Count how often the shortest axis can be halved before it has too few voxels."""
    halvings = int(math.log2(max(window.min() / SMALLEST, 1)))
    return min(max(halvings, FEWEST_LEVELS), MOST_LEVELS)


def _weights(data: Fingerprint) -> Choice:
    """Weight classes by the inverse root of their share, where one is rare."""
    if data.overlapping:
        kind = "structure" if data.task is Task.SEGMENTATION else "finding"
        return Choice(None, f"no class weights: each {kind} is a question of its own")
    shares = {name: share for name, share in data.shares.items() if share}
    rarest = min(shares, key=shares.__getitem__)
    unit = "voxels" if data.task is Task.SEGMENTATION else "cases"
    said = f"{rarest} takes {shares[rarest]:.2%} of the {unit}"
    if shares[rarest] >= RARE[data.task]:
        return Choice(None, f"no class weights: even {said}")
    root = np.array([max(share, 1e-9) ** -0.5 for share in data.shares.values()])
    weights = np.minimum(root / root.min(), HEAVIEST)
    return Choice([float(f"{weight:.2g}") for weight in weights], f"{said}: inverse root of shares")


def _of_labels(data: Fingerprint) -> Choice:
    """Weight rare classes in the cross-entropy of labels; Dice finds structures as they are."""
    shares = {name: share for name, share in data.shares.items() if share}
    rarest = min(shares, key=shares.__getitem__)
    least, most = shares[rarest], max(shares.values())
    if data.task is Task.CLASSIFICATION and data.overlapping:
        return Choice({})
    if data.task is Task.CLASSIFICATION:
        raw = {name: most / share for name, share in shares.items()}
        is_asked = least < RARE[data.task] and most >= UNEVEN * least
        why = f"{rarest} takes {least:.2%} of the cases: inverse frequency"
    else:
        raw = {n: 2 * (VERY_RARE / s) ** 0.5 for n, s in shares.items() if s < VERY_RARE}
        is_asked = bool(raw)
        why = f"{rarest} takes {least:.3%} of the voxels: cross-entropy would hardly see it"
    if not is_asked:
        return Choice({})
    weights = {name: float(f"{min(weight, HEAVIEST):.2g}") for name, weight in raw.items()}
    return Choice({n: w for n, w in weights.items() if w > 1}, f"{why}, at most {HEAVIEST:g}")


def _schedule(data: Fingerprint) -> Plan:
    batch = {2: 4, 3: 2}[data.dims]
    if data.task is Task.CLASSIFICATION:  # one answer an image, so a batch needs more of them
        batch = 32 if data.shapes.max() < 64 else 16
    steps = int(np.clip(round(35 * data.cases / batch, -2), 400, 3000))
    every = max(50, steps // 10)
    rate = 0.002 if data.task is Task.SEGMENTATION else 0.001
    folds = 5 if data.patients >= LEAST_FOR_FOLDS else 1
    weights = _of_labels(data)
    more = {"class_weights": weights.value} if weights.value else {}
    why = f"; class weights: {weights.why}" if more else ""
    return {
        "teacher.train": Choice(
            {"steps": steps, "batch": batch, "learning_rate": rate, "validate_every": every} | more,
            f"about {steps * batch / data.cases:.0f} passes over {data.cases} cases{why}",
        ),
        "student.train": Choice(
            {
                "steps": 2 * steps,
                "batch": batch,
                "learning_rate": 2 * rate,
                "validate_every": 2 * every,
            }
            | more,
            "twice the steps at twice the rate: a small network bears both",
        ),
        "full.folds": Choice(folds, "soft targets out of fold" if folds > 1 else "few patients"),
        "full.steps": Choice(4 * steps),
    }


def _times(shape: Sequence[int] | np.ndarray) -> str:
    return "x".join(f"{edge:g}" for edge in shape)
