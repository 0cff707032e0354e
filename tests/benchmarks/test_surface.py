"""Dice, NSD and HD95 of a mask pair against MONAI's and DeepMind's implementations."""

import time

import numpy as np
import pytest
import surface_distance as deepmind
import torch
from scipy import ndimage

from medkd.metrics.overlap import dice
from medkd.metrics.surface import hd95, nsd, surface_distances

pytestmark = [  # the peers' own
    pytest.mark.filterwarnings(r"ignore:Please import `\w+` from the `scipy.ndimage`"),
    pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges"),
]
SPACING = (1.0, 1.0, 2.0)


def ours(prediction, reference):
    distances = surface_distances(prediction, reference, spacing_mm=SPACING)
    return dice(prediction, reference), nsd(distances, tolerance_mm=1.0), hd95(distances)


def monai(prediction, reference):
    from monai.metrics import (
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    pair = [
        torch.from_numpy(np.stack([~m, m])[None].astype(np.float32))
        for m in (prediction, reference)
    ]
    return (
        compute_dice(*pair, include_background=False).item(),
        compute_surface_dice(*pair, class_thresholds=[1.0], spacing=SPACING).item(),
        compute_hausdorff_distance(*pair, percentile=95, spacing=SPACING).item(),
    )


def surface_distance(prediction, reference):
    distances = deepmind.compute_surface_distances(reference, prediction, SPACING)
    return (
        deepmind.compute_dice_coefficient(reference, prediction),
        deepmind.compute_surface_dice_at_tolerance(distances, 1.0),
        deepmind.compute_robust_hausdorff(distances, 95),
    )


def median_ms(function, pair, *, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*pair)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


@pytest.mark.parametrize(
    ("shape", "repeats"), [((36, 50, 35), 50), ((256, 256, 160), 5)], ids=["crop", "volume"]
)
def test_three_figures_of_a_mask_pair(shape, repeats):
    noise = [np.random.default_rng(seed).normal(size=shape) for seed in (0, 1)]
    centre = np.array(shape).reshape(3, 1, 1, 1) / 2
    ball = np.linalg.norm((np.indices(shape) - centre) / centre, axis=0) < 0.5
    bumps = [4 * ndimage.gaussian_filter(n, 2) for n in noise]
    pair = [ndimage.gaussian_filter(ball.astype(float), 2) + b > 0.5 for b in bumps]
    figures = {f.__name__: f(*pair) for f in (ours, monai, surface_distance)}
    np.testing.assert_allclose(figures["ours"], figures["surface_distance"], atol=1e-4)
    times = {
        f.__name__: median_ms(f, pair, repeats=repeats) for f in (ours, monai, surface_distance)
    }
    print(f"\nDice, NSD and HD95 of a pair of {'x'.join(map(str, shape))} voxels")
    for name, values in figures.items():
        shown = ", ".join(f"{value:.4f}" for value in values)
        print(f"  {name}: {shown}; {times[name]:.1f} ms, {times[name] / times['ours']:.1f} x ours")
