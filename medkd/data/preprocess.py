"""Preprocess: from the image's own grid to the network's and back, in numpy.

Training and device share this one implementation, so they cannot drift apart. The steps are:
channels, orientation, resampling, intensity. ``Grid`` remembers what was done to the geometry, so
that masks and probabilities find the way back.

Resampling is linear along one axis after the other, in numpy: on volumes of 3 to 14 million voxels
that takes a tenth of the time of scipy's ``affine_transform``, 0.4 to 1.3 times that of SimpleITK's
filter and 0.4 to 2.6 times that of an ONNX ``Resize`` on two threads, and needs none of them
(tests/benchmarks/test_resampling.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations

from medkd.errors import DataError
from medkd.options import PreprocessOptions
from medkd.types import Volume

SAME_SPACING = 1e-3  # relative; below this resampling would only blur
VOXELS_AT_ONCE = 2**17  # worked on in float64: 1 MiB, which a processor's cache holds


@dataclass(frozen=True)
class Grid:
    """How the network's grid lies in the image's own.

    Attributes:
        image_shape: spatial shape of the image as read.
        affine: the image's own affine.
        axes: ``[dims, 2]`` nibabel orientation transform from the image to the network.
        shape: spatial shape on the network's grid.
        spacing_mm: voxel spacing on the network's grid.
    """

    image_shape: tuple[int, ...]
    affine: np.ndarray
    axes: np.ndarray
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        """The image's own shape in the network's axis order: the shape before resampling."""
        return tuple(int(self.image_shape[i]) for i in np.argsort(self.axes[:, 0]))

    def to_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {k: np.asarray(v).tolist() for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Grid":
        """Undo ``to_json``."""
        return cls(
            image_shape=tuple(values["image_shape"]),
            affine=np.array(values["affine"]),
            axes=np.array(values["axes"]),
            shape=tuple(values["shape"]),
            spacing_mm=tuple(values["spacing_mm"]),
        )

    @property
    def resampled(self) -> bool:
        """Whether the way back needs resampling."""
        return self.shape != self.oriented_shape


def preprocess(volume: Volume, options: PreprocessOptions) -> tuple[np.ndarray, Grid]:
    """Return the network's input ``[channels, *space]`` float32 and its grid.

    Raises:
        DataError: the image has the wrong number of axes or channels, or voxels without a value.
    """
    _check(volume, options)
    grid = _grid(volume, options)
    array = to_grid(_channels(volume.array, options), grid, order=1)
    apart = bool(options.modalities)
    return normalise(array, options.intensity, dtype=volume.array.dtype, apart=apart), grid


def to_grid(array: np.ndarray, grid: Grid, *, order: int) -> np.ndarray:
    """Carry ``[channels, *image space]`` to the network's grid; order 0 for labels.

    Where nothing is resampled the result is a view.
    """
    return _resize(_oriented(array, grid.axes), grid.shape, order=order)


def from_grid(array: np.ndarray, grid: Grid, *, order: int) -> np.ndarray:
    """Carry ``[channels, *network space]`` back to the image's grid; undoes ``to_grid``."""
    array = _resize(array, grid.oriented_shape, order=order)
    if len(grid.shape) == 2:
        return array
    return _oriented(array, orientations.ornt_transform(_identity(len(grid.shape)), grid.axes))


def normalise(
    array: np.ndarray, intensity: str, *, dtype: np.dtype, apart: bool = False
) -> np.ndarray:
    """Bring intensities to a common scale, per image.

    The channels of a volume are different measurements (MR sequences) and are scaled one by one;
    those of a 2D image are colours, whose balance says something, and are scaled together, unless
    they are modalities, ``apart``.
    ``zscore``: mean 0, standard deviation 1. ``percentile``: clipped to the 0.5 and 99.5
    percentiles first. ``unit``: the integer type's range to 0..1 (floats are left as they are).
    """
    if intensity == "unit":
        top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0
        return (array / top).astype(np.float32)
    result = np.empty_like(array, np.float32)
    parts = zip(array, result, strict=True) if apart or array.ndim == 4 else [(array, result)]
    for part, into in parts:
        limits = np.percentile(part, [0.5, 99.5]) if intensity == "percentile" else None
        _standardise(part, into, limits)
    return result


def _standardise(array: np.ndarray, into: np.ndarray, limits: np.ndarray | None) -> None:
    """Clip and scale in float64, a few planes at a time: a large volume has no second copy."""
    axis = int(np.argmax(np.abs(array.strides)))  # whose planes lie together in memory
    source, target = np.moveaxis(array, axis, 0), np.moveaxis(into, axis, 0)
    count = max(1, VOXELS_AT_ONCE * len(source) // array.size)
    parts = [slice(start, start + count) for start in range(0, len(source), count)]

    def exact(part: slice) -> np.ndarray:
        planes = source[part].astype(np.float64)
        return planes if limits is None else np.clip(planes, *limits, out=planes)

    mean = sum(float(exact(part).sum()) for part in parts) / array.size
    variance = sum(float(np.square(exact(part) - mean).sum()) for part in parts) / array.size
    std = max(math.sqrt(variance), 1e-8)
    for part in parts:
        np.divide(exact(part) - mean, std, out=target[part], casting="same_kind")


def _check(volume: Volume, options: PreprocessOptions) -> None:
    if volume.dims != len(options.window):
        raise DataError(
            f"the image has {volume.dims} spatial axes, preprocess.window has {len(options.window)}"
        )
    # one such voxel would spread to all: an empty mask
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise DataError("the image holds NaN or infinite voxels; repair it")


def _channels(array: np.ndarray, options: PreprocessOptions) -> np.ndarray:
    channels = options.channels
    if array.shape[0] == channels:
        return array
    if options.modalities:  # none stands for another
        raise DataError(
            f"the image has {array.shape[0]} channels, the network needs "
            f"{', '.join(options.modalities)}; give a file of each, or one of all channels"
        )
    if array.shape[0] == 1:  # grey image, colour network
        return np.repeat(array, channels, axis=0)
    if channels == 1 and array.shape[0] == 3:  # ITU-R BT.601 luma
        return np.tensordot([0.299, 0.587, 0.114], array, axes=1)[None]
    raise DataError(f"the image has {array.shape[0]} channels, preprocess.channels is {channels}")


def _grid(volume: Volume, options: PreprocessOptions) -> Grid:
    axes = _identity(volume.dims)
    if volume.dims == 3 and options.orientation:
        axes = orientations.ornt_transform(
            orientations.io_orientation(volume.affine),
            orientations.axcodes2ornt(options.orientation),
        )
    order = np.argsort(axes[:, 0])
    shape = tuple(int(v) for v in np.asarray(volume.shape)[order])
    spacing = tuple(float(v) for v in np.asarray(volume.spacing_mm)[order])
    target = _target_shape(shape, spacing, options)
    if 4 * options.channels * math.prod(target) > options.reading.memory_bytes:
        raise DataError(
            f"resampled from {spacing} to {options.spacing_mm} mm it would have {target} voxels, "
            f"more than preprocess.reading.memory_gib holds; correct the spacing in its header"
        )
    return Grid(
        image_shape=tuple(volume.shape),
        affine=volume.affine,
        axes=axes,
        shape=target,
        spacing_mm=tuple(s * _step(n, t) for s, n, t in zip(spacing, shape, target, strict=True)),
    )


def _target_shape(
    shape: tuple[int, ...], spacing: tuple[float, ...], options: PreprocessOptions
) -> tuple[int, ...]:
    if options.size:
        return options.size
    if not options.spacing_mm:
        return shape
    return tuple(
        n if abs(s / t - 1) < SAME_SPACING else max(1, round((n - 1) * s / t) + 1)
        for n, s, t in zip(shape, spacing, options.spacing_mm, strict=True)
    )


def _step(size: int, target: int) -> float:
    """Distance of neighbouring target voxels in source voxels; first and last centres coincide."""
    return (size - 1) / (target - 1) if target > 1 and size > 1 else size / target


def _oriented(array: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Turn ``[channels, *space]``; a view."""
    return np.moveaxis(orientations.apply_orientation(np.moveaxis(array, 0, -1), axes), -1, 0)


def _resize(array: np.ndarray, shape: tuple[int, ...], *, order: int) -> np.ndarray:
    if array.shape[1:] == tuple(shape):
        return array
    # what shrinks goes first: the axes after it have less to do
    growth = [t / n for n, t in zip(array.shape[1:], shape, strict=True)]
    along = _linear if order else _nearest
    # NIfTI's first axis is the fastest in memory: the work is done on the array as it lies there
    lying = np.argsort(-np.abs(array.strides[1:]), kind="stable")
    resized = []
    for channel in array:
        channel = channel.transpose(lying)  # noqa: PLW2901
        for axis in np.argsort(np.array(growth)[lying]):
            channel = along(channel, int(axis), shape[lying[axis]])  # noqa: PLW2901
        resized.append(channel.transpose(np.argsort(lying)))
    return np.stack(resized) if len(resized) > 1 else resized[0][None]


def _nearest(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    if array.shape[axis] == size:
        return array
    last, steps = array.shape[axis] - 1, max(1, size - 1)
    return np.take(array, (2 * np.arange(size) * last + steps) // (2 * steps), axis)


def _linear(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    if array.shape[axis] == size:
        return array
    return interpolated(array, axis, *places(array.shape[axis], size))


def places(source: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where ``size`` places lie among ``source`` ones: the index before, and how far on.

    Example:
        >>> places(3, 5)
        (array([0, 0, 1, 1, 2]), array([0. , 0.5, 0. , 0.5, 0. ], dtype=float32))
    """
    steps = max(1, size - 1)
    before, rest = np.divmod(np.arange(size) * (source - 1), steps)
    return before, (rest / steps).astype(np.float32)


def interpolated(array: np.ndarray, axis: int, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Interpolate along one axis, in float32; the grid is a product, so the axes take turns."""
    last = array.shape[axis] - 1
    share = share[(..., *[None] * (array.ndim - axis - 1))]
    low = np.take(array, before, axis).astype(np.float32, copy=False)
    high = np.take(array, np.minimum(before + 1, last), axis).astype(np.float32, copy=False)
    high -= low
    high *= share
    high += low
    return high


def _identity(dims: int) -> np.ndarray:
    return np.stack([np.arange(dims), np.ones(dims)], axis=1)
