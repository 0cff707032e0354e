"""Thumbnail: a small picture of a case, its label drawn into it."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from medkd.types import Volume

EDGE = 112  # pixels of the longer side
# Okabe and Ito 2008
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0))


def thumbnail(
    image: np.ndarray,
    label: np.ndarray | None = None,
    *,
    edge: int = EDGE,
    limits: tuple[float, float] | None = None,
) -> Image.Image:
    """Return a picture of ``[channels, *space]`` and of the outlines of a label map ``[*space]``.

    Of a volume it shows the slice across its last axis that holds most of the label, or the middle
    one. Values between ``limits`` are spread over all greys; left out, percentiles 0.5 and 99.5.
    """
    if image.ndim == 4:
        at = slice_of(image, label)
        image = image[..., at]
        label = None if label is None else label[..., at]
        # rows from front to back, as radiologists look
        image = np.rot90(image, axes=(-2, -1))
        label = None if label is None else np.rot90(label, axes=(-2, -1))
    grey = _grey(image, limits)
    colours = np.repeat(grey[..., None], 3, axis=-1) if grey.ndim == 2 else grey
    picture = Image.fromarray(_outlined(colours, label))
    scale = edge / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def volume_thumbnail(image: Volume, label: Volume | None) -> bytes:
    """Return ``thumbnail`` of a case as PNG."""
    content = io.BytesIO()
    fits = label is not None and label.shape == image.shape
    thumbnail(image.array, label.array[0] if label and fits else None).save(content, format="PNG")
    return content.getvalue()


def slice_of(image: np.ndarray, label: np.ndarray | None) -> int:
    """Return the number of the slice that ``thumbnail`` shows of a volume."""
    if label is None or not label.any():
        return image.shape[-1] // 2
    return int((label > 0).sum(axis=(0, 1)).argmax())


def _grey(image: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Return ``[rows, columns]`` or, of three channels, ``[rows, columns, 3]`` of uint8."""
    values = image.astype(np.float64) if len(image) == 3 else image[:1].astype(np.float64)
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = limits or np.percentile(values, [0.5, 99.5])
    spread = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    grey = (255 * spread).astype(np.uint8)
    return np.moveaxis(grey, 0, -1) if len(grey) == 3 else grey[0]


def _outlined(colours: np.ndarray, label: np.ndarray | None) -> np.ndarray:
    drawn = np.ascontiguousarray(colours)
    values = [] if label is None else [value for value in np.unique(label) if value]
    for number, value in enumerate(values):
        inside = label == value
        drawn[inside & ~ndimage.binary_erosion(inside)] = COLOURS[number % len(COLOURS)]
    return drawn
