"""Window: a network of fixed input size over an image of any size.

Windows overlap and are blended with a Gaussian weight that trusts a window's centre more than its
rim. Positions, padding and weights are those of MONAI's sliding window inference, which training
uses, so that the device answers the same.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

Network = Callable[[np.ndarray], np.ndarray]  # [batch, channels, *window] -> [batch, classes, ...]
SIGMA = 0.125  # of the Gaussian, as a share of the window


def predict_windows(
    network: Network,
    image: np.ndarray,
    *,
    window: Sequence[int],
    overlap: float,
    windows_at_once: int = 1,
) -> np.ndarray:
    """Return logits ``[classes, *space]`` for an image ``[channels, *space]``.

    Args:
        network: answers batches of windows.
        image: any size; smaller than the window it is padded with zeros on both sides.
        window: spatial shape of the network's input.
        overlap: share of a window that its neighbour sees too.
        windows_at_once: batch given to the network.
    """
    padded, inside = _pad(image, window)
    corners = window_corners(padded.shape[1:], window, overlap)
    if len(corners) == 1:
        return network(padded[None])[0][inside]
    weight = gaussian_weight(window)
    total: np.ndarray | None = None
    weights = np.zeros(padded.shape[1:], np.float32)
    for first in range(0, len(corners), windows_at_once):
        chunk = corners[first : first + windows_at_once]
        logits = network(np.stack([padded[(slice(None), *place)] for place in chunk]))
        if total is None:
            total = np.zeros((logits.shape[1], *padded.shape[1:]), np.float32)
        for place, answer in zip(chunk, logits, strict=True):
            total[(slice(None), *place)] += answer * weight
            weights[place] += weight
    assert total is not None
    total /= weights
    return total[inside]


def window_corners(
    shape: Sequence[int], window: Sequence[int], overlap: float
) -> list[tuple[slice, ...]]:
    """Return the places of all windows; the last one of each axis ends at the image's rim.

    Example:
        >>> [place[0].start for place in window_corners((10,), (4,), 0.5)]
        [0, 2, 4, 6]
    """
    starts = []
    for size, width in zip(shape, window, strict=True):
        step = max(1, int(width * (1 - overlap)))
        count = -(-(size - width) // step) + 1
        starts.append([min(i * step, size - width) for i in range(count)])
    return [
        tuple(slice(s, s + w) for s, w in zip(corner, window, strict=True))
        for corner in product(*starts)
    ]


def gaussian_weight(window: Sequence[int]) -> np.ndarray:
    """Return the blending weight ``[*window]``, 1 at the centre and at least 0.001."""
    weight = np.ones((), np.float32)
    for width in window:
        x = np.arange(-(width - 1) / 2, (width - 1) / 2 + 1, dtype=np.float32)
        weight = weight[..., None] * np.exp(-(x**2) / (2 * (width * SIGMA) ** 2))
    return np.maximum(weight, max(float(weight.min()), 1e-3)).astype(np.float32)


def _pad(image: np.ndarray, window: Sequence[int]) -> tuple[np.ndarray, tuple[slice, ...]]:
    lacks = [max(0, w - n) for w, n in zip(window, image.shape[1:], strict=True)]
    if not any(lacks):
        return np.ascontiguousarray(image), (slice(None),) * image.ndim
    padded = np.pad(image, [(0, 0), *((n // 2, n - n // 2) for n in lacks)])
    inside = tuple(
        slice(n // 2, n // 2 + size) for n, size in zip(lacks, image.shape[1:], strict=True)
    )
    return padded, (slice(None), *inside)
