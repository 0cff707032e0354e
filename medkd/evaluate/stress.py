"""Stress: images made worse on purpose, to see how an answer suffers.

Each stress has strengths from mild to harsh. Randomness is of a seed, so all models meet the same
worse image. What a stress does to an image is relative to the image's own range, because files
have no common scale.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from medkd.seeding import derive_seed
from medkd.types import Volume

Worsen = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # of [channels, *space]


@dataclass(frozen=True)
class Stress:
    """One way to make images worse.

    Attributes:
        name: as reports call it.
        unit: of its strength.
        strengths: from mild to harsh.
        dims: of the images it is for.
        worsen: changes an image of float64 voxels.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    dims: tuple[int, ...]
    worsen: Worsen


def stressed(volume: Volume, stress: Stress, strength: float, *, seed: int, case: str) -> Volume:
    """Return a worse image on the same grid, of the same type.

    Args:
        volume: the image.
        stress: one of ``STRESSES``, for images of so many axes.
        strength: in the stress's unit.
        seed: of the study.
        case: the id; each case meets randomness of its own.
    """
    rng = np.random.default_rng(derive_seed(seed, "stress", stress.name, case))
    worse = stress.worsen(volume.array.astype(np.float64), strength, rng)
    dtype = volume.array.dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        worse = np.clip(np.rint(worse), limits.min, limits.max)
    return replace(volume, array=worse.astype(dtype))


def turned(label: np.ndarray, degrees: float, *, dims: int | None = None) -> np.ndarray:
    """Turn a label map ``[*space]`` as the stress ``rotation`` turns its image.

    Args:
        label: also ``[channels, *space]``.
        degrees: how far.
        dims: number of its spatial axes, if not all of them are.
    """
    first = label.ndim - (dims or label.ndim)
    plane = (first, first + 1)
    return ndimage.rotate(label, degrees, axes=plane, reshape=False, order=0, mode="nearest")


def _noise(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return array + strength * array.std() * rng.normal(size=array.shape)


def _blur(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    return ndimage.gaussian_filter(array, (0, *[strength] * (array.ndim - 1)), mode="nearest")


def _bias_field(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply with a smooth field between exp(-strength) and exp(strength), as MR coils do."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in array.shape[1:]], indexing="ij")
    terms = [*axes, *(a * b for i, a in enumerate(axes) for b in axes[i:])]
    field = np.sum([rng.normal() * term for term in terms], axis=0)
    field = strength * field / max(float(np.abs(field).max()), 1e-12)
    low = array.min()
    return (array - low) * np.exp(field) + low


def _contrast(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Spread round the mean; what leaves the image's range is cut off, as a window cuts it."""
    del rng
    low, high = array.min(), array.max()
    return np.clip((array - array.mean()) * strength + array.mean(), low, high)


def _gamma(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    low, span = array.min(), max(float(np.ptp(array)), 1e-12)
    return low + span * ((array - low) / span) ** strength


def _rotation(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    return ndimage.rotate(array, strength, axes=(1, 2), reshape=False, order=1, mode="nearest")


def _resolution(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Average over voxels, in 3D along the last axis (thicker slices), and stretch again."""
    del rng
    space = array.shape[1:]
    coarse = [max(1, round(n / strength)) for n in space]
    if len(space) == 3:
        coarse[:-1] = space[:-1]
    blocks = [n / c if c < n else 0 for n, c in zip(space, coarse, strict=True)]
    smooth = ndimage.uniform_filter(array, [1, *(max(1, round(b)) for b in blocks)], mode="nearest")
    small = _resized(smooth, coarse)
    return _resized(small, space)


def _resized(array: np.ndarray, space: Sequence[int]) -> np.ndarray:
    zoom = [1, *(n / m for n, m in zip(space, array.shape[1:], strict=True))]
    return ndimage.zoom(array, zoom, order=1, mode="nearest", grid_mode=True)


def _missing_slices(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    count = array.shape[-1]
    lost = rng.permutation(count)[: round(strength * count)]
    array[..., lost] = array.min()
    return array


def _jpeg(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from PIL import Image

    del rng
    low, span = array.min(), max(float(np.ptp(array)), 1e-12)
    bytes_ = np.rint(255 * (array - low) / span).astype(np.uint8)
    channels = []
    for channel in bytes_:
        buffer = io.BytesIO()
        Image.fromarray(channel).save(buffer, "JPEG", quality=int(strength))
        channels.append(np.asarray(Image.open(buffer), dtype=np.float64))
    return low + span * np.stack(channels) / 255


def _inverted(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    del strength, rng
    return array.max() + array.min() - array


def _turned_over(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Swap the first and the last axis and say nothing of it, as a lost orientation does."""
    del strength, rng
    return np.swapaxes(array, 1, -1)


def _corner(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Enlarge a corner to the whole image: another region, from another distance."""
    del rng
    space = array.shape[1:]
    corner = array[(slice(None), *(slice(0, max(2, round(n / strength))) for n in space))]
    return _resized(corner, space)


def _noise_alone(array: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    del strength
    return array.mean() + array.std() * rng.normal(size=array.shape)


FOREIGN = tuple(  # what has no business with the release at all
    Stress(name, "", (3.0,), (2, 3), worsen)
    for name, worsen in (
        ("inverted intensities", _inverted),
        ("axes swapped", _turned_over),
        ("a corner enlarged", _corner),
        ("noise alone", _noise_alone),
    )
)

STRESSES = (
    Stress("noise", "standard deviations of the image", (0.05, 0.1, 0.2, 0.4), (2, 3), _noise),
    Stress("blur", "voxels (sigma)", (0.5, 1.0, 1.5, 2.0), (2, 3), _blur),
    Stress("bias field", "log gain at its ends", (0.1, 0.2, 0.4, 0.8), (2, 3), _bias_field),
    Stress("contrast", "times, cut off at the range", (1.25, 1.5, 2.0, 3.0), (2, 3), _contrast),
    Stress("gamma", "exponent", (0.75, 1.5, 2.0, 0.5), (2, 3), _gamma),
    Stress("rotation", "degrees", (5.0, 10.0, 20.0, 30.0), (2, 3), _rotation),
    Stress("resolution", "voxels averaged", (1.5, 2.0, 3.0, 4.0), (2, 3), _resolution),
    Stress("missing slices", "share of all", (0.05, 0.1, 0.2, 0.3), (3,), _missing_slices),
    Stress("JPEG", "quality", (50.0, 30.0, 15.0, 5.0), (2,), _jpeg),
)
