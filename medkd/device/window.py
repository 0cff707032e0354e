"""Window: a network of fixed input size over an image of any size.

Windows overlap and are blended with a Gaussian weight that trusts a window's centre more than its
rim. Positions, padding and weights are those of MONAI's sliding window inference, which training
uses, so that the device answers the same.
"""

from collections.abc import Callable, Iterator, Sequence
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
    slabs = predict_slabs(
        network, image, window=window, overlap=overlap, windows_at_once=windows_at_once
    )
    parts = [logits for _, logits in slabs]
    return np.concatenate(parts, axis=1)


def predict_slabs(
    network: Network,
    image: np.ndarray,
    *,
    window: Sequence[int],
    overlap: float,
    windows_at_once: int = 1,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``predict_windows`` in slabs along the first axis, as soon as each is complete.

    Only the slab that windows still fall into is held, so that the memory for logits does not grow
    with the image.

    Yields:
        The rows of the image, and their logits ``[classes, rows, ...]``, good until the next.
    """
    padded, inside = _pad(image, window)
    corners = window_corners(padded.shape[1:], window, overlap)
    if len(corners) == 1:
        yield slice(0, image.shape[1]), network(np.ascontiguousarray(padded)[None])[0][inside]
        return
    weight = gaussian_weight(window)
    chunks = [
        corners[first : first + windows_at_once]
        for first in range(0, len(corners), windows_at_once)
    ]
    slab = _Slab(padded.shape[1:], height=max(c[-1][0].stop - c[0][0].start for c in chunks))
    rows, across = inside[1], inside[2:]
    for number, chunk in enumerate(chunks):
        windows = np.stack([padded[(slice(None), *place)] for place in chunk])
        for place, logits in zip(chunk, network(windows), strict=True):
            slab.add(logits, weight, place)
        is_last = number + 1 == len(chunks)
        done = padded.shape[1] if is_last else chunks[number + 1][0][0].start
        if done > slab.first:
            first, blended = slab.first, slab.release(done)
            low, high = max(first, rows.start), min(done, rows.stop)
            if low < high:
                kept = blended[(slice(None), slice(low - first, high - first), *across)]
                yield slice(low - rows.start, high - rows.start), kept


class _Slab:
    """Weighted sums of the windows that fall into some rows of an image.

    Attributes:
        first: the row of the image that is the slab's first.
    """

    def __init__(self, shape: Sequence[int], *, height: int) -> None:
        self.first = 0
        self._weights = np.zeros((height, *shape[1:]), np.float32)
        self._total = np.zeros((0, *self._weights.shape), np.float32)

    def add(self, logits: np.ndarray, weight: np.ndarray, place: tuple[slice, ...]) -> None:
        """Add one window's logits ``[classes, *window]``."""
        if not len(self._total):
            self._total = np.zeros((len(logits), *self._weights.shape), np.float32)
        rows = slice(place[0].start - self.first, place[0].stop - self.first)
        self._total[(slice(None), rows, *place[1:])] += logits * weight
        self._weights[(rows, *place[1:])] += weight

    def release(self, done: int) -> np.ndarray:
        """Return the blended logits of all rows before ``done``, which becomes the first."""
        count = done - self.first
        blended = self._total[:, :count] / self._weights[:count]
        for sums in (*self._total, self._weights):
            sums[:-count] = sums[count:]  # numpy copies where the two overlap
            sums[-count:] = 0
        self.first = done
        return blended


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
        return image, (slice(None), *(slice(0, n) for n in image.shape[1:]))
    inside = (
        slice(None),
        *(slice(n // 2, n // 2 + size) for n, size in zip(lacks, image.shape[1:], strict=True)),
    )
    shape = [size + n for size, n in zip(image.shape[1:], lacks, strict=True)]
    padded = np.zeros((len(image), *shape), image.dtype)
    padded[inside] = image
    return padded, inside
