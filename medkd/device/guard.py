"""Guard: is this image like those that a release was validated on?

A network answers for anything it is shown. The guard describes an image by a few numbers (grid,
distribution of intensities, edges, noise, lost slices), knows how they vary together over the
training images, and flags an image that is further away than nearly all validation images were:
the Mahalanobis distance with a shrunk covariance, and a conformal limit.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medkd.data.preprocess import Grid

LEAST_SPREAD = 0.05  # of a feature, on its own scale: spacings that never vary may by 5 %
TELLING = 3.0  # standard deviations from which on a feature is named as a reason
TOLD = 3  # reasons in a verdict
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
LOGARITHMIC = ("spacing", "extent", "edges", "noise", "jump", "spread")  # are compared as ratios
ENOUGH = 250_000  # voxels, for a mean of differences
SAMPLE = 2**14  # voxels, for a percentile: its standard error is 0.03 at the 1st of a normal image
FORMER_SAMPLE = 2**16  # of guards that do not say it: their limit holds the noise of that one
TINY = 1e-6


class Finding(BaseModel):
    """What the guard says of one image.

    Attributes:
        distance: from the training images; about 1 for one of them.
        limit: up to which an image passes.
        reasons: what is unusual, most unusual first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distance: float
    limit: float
    reasons: tuple[str, ...] = ()

    @property
    def is_unlike(self) -> bool:
        """Whether the image is flagged."""
        return not self.distance <= self.limit  # so is what has no distance

    @property
    def verdict(self) -> str:
        """The finding in words.

        Example:
            >>> reasons = ("spacing of axis 2: 5 mm, expected 0.8-1.2",)
            >>> Finding(distance=9, limit=2, reasons=reasons).verdict
            'unlike the validated data: spacing of axis 2: 5 mm, expected 0.8-1.2'
        """
        if not self.is_unlike:
            return "like the validated data"
        far = f"distance {self.distance:.3g}, expected at most {self.limit:.3g}"
        return f"unlike the validated data: {'; '.join(self.reasons[:TOLD] or (far,))}"


class Guard(BaseModel):
    """How images vary that a release was made for.

    Attributes:
        features: names, in the order of all that follows.
        centre: mean of each.
        scale: standard deviation of each, at least ``LEAST_SPREAD``.
        precision: inverse of the shrunk covariance of the standardised features.
        limit: distance up to which an image passes.
        seen: lowest and highest value of each over the training images, in its own unit.
        sample: voxels that percentiles were taken of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float
    seen: tuple[tuple[float, float], ...]
    sample: int = Field(default=FORMER_SAMPLE, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "Guard":
        count = len(self.features)
        sides = [self.centre, self.scale, self.precision, self.seen, *self.precision]
        if not count or any(len(side) != count for side in sides) or min(self.scale) <= 0:
            raise ValueError(f"guard: its numbers are not of {count} features")
        return self

    def judge(self, array: np.ndarray, grid: Grid) -> Finding:
        """Judge one image, ``[channels, *space]`` as the network is given it."""
        return self.check(describe(array, grid, sample=self.sample))

    @np.errstate(invalid="ignore")
    def check(self, description: Mapping[str, float]) -> Finding:
        """Judge one image by its ``describe``."""
        z = (_vector(description, self.features) - self.centre) / np.array(self.scale)
        distance = _distance(z, np.array(self.precision))
        unusual = [int(i) for i in np.argsort(-np.abs(z)) if abs(z[i]) > TELLING]
        reasons = tuple(
            _reason(self.features[i], description[self.features[i]], self.seen[i]) for i in unusual
        )
        return Finding(distance=distance, limit=self.limit, reasons=reasons)


@np.errstate(over="ignore", invalid="ignore")  # values that leave float32 have no distance
def describe(array: np.ndarray, grid: Grid, *, sample: int = SAMPLE) -> dict[str, float]:
    """Return the features of an image, ``[channels, *space]`` as the network is given it.

    Whatever the preprocessing does not keep (a scale of intensities that it removes) plays no part.
    Percentiles are of ``sample`` voxels at most.
    """
    spacing = np.linalg.norm(grid.affine[:-1, :-1], axis=0)[np.argsort(grid.axes[:, 0])]
    found = {f"spacing of axis {i}, mm": float(s) for i, s in enumerate(spacing)} | {
        f"extent of axis {i}, mm": float(n * s)
        for i, (n, s) in enumerate(zip(grid.shape, grid.spacing_mm, strict=True))
    }
    voxels = _sample(array, sample)
    mean, spread = float(array.mean()), float(array.std())
    scale = max(spread, TINY)
    found |= {"mean intensity": mean, "spread of intensities": spread}
    values = (_percentiles(voxels) - mean) / scale
    found |= {f"percentile {p}": float(v) for p, v in zip(PERCENTILES, values, strict=True)}
    found["share at the minimum"] = float((voxels <= array.min()).mean())
    found["share at the maximum"] = float((voxels >= array.max()).mean())
    for axis in range(1, array.ndim):
        steps = np.diff(_thin(array, axis), axis=axis)
        found[f"edges along axis {axis - 1}"] = _mean_size(steps) / scale
    plane = _thin(array, 1, 2)
    curves = np.diff(np.diff(plane, 2, axis=1), 2, axis=2)  # Immerkaer 1996
    found["noise"] = _mean_size(curves) / scale
    if array.ndim == 4:
        profile = np.diff(array.mean(axis=(0, 1, 2)), 2)
        found["largest jump between slices"] = float(np.abs(profile).max(initial=0)) / scale
    return found


def fit_guard(
    described: Sequence[Mapping[str, float]],
    held_out: Sequence[Mapping[str, float]],
    *,
    accept: float,
) -> Guard:
    """Fit a guard.

    Args:
        described: the training images, by ``describe``.
        held_out: the validation images, which set the limit.
        accept: the share of images like these that pass; of few validation images the furthest
            sets the limit.

    Raises:
        ValueError: fewer than two training images, or no validation image.
    """
    if len(described) < 2 or not held_out:
        raise ValueError(
            f"a guard needs training and validation images: {len(described)} and {len(held_out)}"
        )
    features = tuple(described[0])
    rows = np.stack([_vector(each, features) for each in described])
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), LEAST_SPREAD)
    precision = np.linalg.inv(shrunk_covariance((rows - centre) / scale))
    new = [(_vector(each, features) - centre) / scale for each in held_out]
    distances = sorted(_distance(z, precision) for z in new)
    rank = math.ceil(accept * (len(distances) + 1))
    own = np.array([[each[name] for name in features] for each in described])
    return Guard(
        features=features,
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        precision=tuple(map(tuple, precision.tolist())),
        limit=distances[min(rank, len(distances)) - 1],
        seen=tuple(zip(own.min(axis=0).tolist(), own.max(axis=0).tolist(), strict=True)),
        sample=SAMPLE,
    )


def shrunk_covariance(rows: np.ndarray) -> np.ndarray:
    """Return the covariance of ``[images, features]``, shrunk towards a multiple of the identity.

    Ledoit and Wolf, Journal of Multivariate Analysis 2004: also of fewer images than features it
    has an inverse.
    """
    count, features = rows.shape
    x = rows - rows.mean(axis=0)
    sample = x.T @ x / count
    level = float(np.trace(sample)) / features
    off = float(((sample - level * np.eye(features)) ** 2).sum()) / features
    noise = float((np.square(x).T @ np.square(x) / count - np.square(sample)).sum())
    share = min(1.0, noise / features / count / off) if off > TINY else 1.0
    return (1 - share) * sample + (share * level + TINY) * np.eye(features)


def _reason(feature: str, value: float, seen: tuple[float, float]) -> str:
    name, _, unit = feature.partition(", ")
    to = "-" if seen[0] >= 0 else " to "
    return f"{name}: {value:.3g}{' ' * bool(unit)}{unit}, expected {seen[0]:.3g}{to}{seen[1]:.3g}"


def _distance(z: np.ndarray, precision: np.ndarray) -> float:
    return math.sqrt(float(z @ precision @ z) / len(z))


def _vector(description: Mapping[str, float], features: Sequence[str]) -> np.ndarray:
    values = np.array([description.get(name, math.nan) for name in features])
    ratios = [any(word in name for word in LOGARITHMIC) for name in features]
    return np.where(ratios, np.log(np.maximum(values, TINY)), values)


def _sample(array: np.ndarray, count: int) -> np.ndarray:
    """Return voxels from all over an image; those at equal steps may all lie in one plane."""
    return array.ravel(order="K") if array.size <= count else array[_places(array.shape, count)]


@lru_cache(maxsize=8)
def _places(shape: tuple[int, ...], count: int) -> tuple[np.ndarray, ...]:
    places = np.random.default_rng(0).integers(math.prod(shape), size=count)
    return np.unravel_index(np.sort(places), shape)


def _percentiles(sample: np.ndarray) -> np.ndarray:
    """Return ``np.percentile``; sorting takes a ninth of the time of NumPy's selection."""
    place = np.array(PERCENTILES) / 100 * (sample.size - 1)
    below = place.astype(int)
    ordered = np.sort(sample)
    above = np.minimum(below + 1, sample.size - 1)
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return low + (place - below) * (high - low)


def _thin(x: np.ndarray, *kept: int) -> np.ndarray:
    """Leave out what a mean can do without: lines or planes along the axes that are not kept."""
    others = [axis for axis in range(1, x.ndim) if axis not in kept]
    step = max(1, round((x.size / ENOUGH) ** (1 / max(1, len(others)))))
    return x[tuple(slice(None, None, step if a in others else None) for a in range(x.ndim))]


def _mean_size(differences: np.ndarray) -> float:
    return float(np.abs(differences).mean()) if differences.size else 0.0
