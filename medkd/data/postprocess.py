"""Postprocess: rules that tidy a mask, the same in evaluation and at the bedside.

Connected components are found on runs, the stretches of a mask along its last axis: there are few
of them, and no label map of a large volume is made.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from medkd.options import PostprocessOptions


def postprocess(
    mask: np.ndarray, rules: PostprocessOptions, values: Mapping[str, int]
) -> np.ndarray:
    """Return a label map ``[*space]`` after a release's rules; the same array where none applies.

    Args:
        mask: label values.
        rules: largest components are kept first, then holes are filled.
        values: that stand for each structure in the mask; what is left out becomes 0, and a hole
            is filled only where the mask is 0.
    """
    if not rules.largest_component and not rules.fill_holes:
        return mask
    tidy = mask.copy()
    for name in rules.largest_component:
        structure = tidy == values[name]
        tidy[structure & ~largest_component(structure)] = 0
    for name in rules.fill_holes:
        structure = tidy == values[name]
        tidy[fill_holes(structure) & (tidy == 0)] = values[name]
    return tidy


def postprocess_apart(
    masks: np.ndarray, rules: PostprocessOptions, structures: Sequence[str]
) -> np.ndarray:
    """Return masks ``[structures, *space]`` of 0 and 1 after the same rules, each by itself.

    A hole is filled whatever other structures are there.
    """
    if not rules.largest_component and not rules.fill_holes:
        return masks
    tidy = masks.copy()
    for name in rules.largest_component:
        mask = tidy[structures.index(name)]
        mask[:] = largest_component(mask.astype(bool))
    for name in rules.fill_holes:
        mask = tidy[structures.index(name)]
        mask[:] = fill_holes(mask.astype(bool))
    return tidy


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a boolean mask, diagonals included.

    Example:
        >>> largest_component(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], bool)).sum()
        np.int64(2)
    """
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    if box is None:
        return result
    padded = np.pad(mask[box], 1)
    runs = _runs(padded)
    component = _components(runs, padded.shape, diagonal=True)
    sizes = np.bincount(component, weights=runs[1] - runs[0])
    result[box] = _painted(runs[:, component == sizes.argmax()], padded.shape)
    return result


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a boolean mask with all that it encloses.

    Example:
        >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 0]], bool)).sum()
        np.int64(10)
    """
    box = bounding_box(mask)
    if box is None:
        return mask
    outside = np.pad(~np.pad(mask[box], 1), 1)
    runs = _runs(outside)
    component = _components(runs, outside.shape, diagonal=False)
    filled = mask.copy()
    # the first run is of the frame of zeros around the mask
    holes = _painted(runs[:, component != component[0]], outside.shape)
    filled[box] |= holes[(slice(1, -1),) * mask.ndim]
    return filled


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box of what is True in a mask; None if nothing is."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not len(places):
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _runs(padded: np.ndarray) -> np.ndarray:
    """Return ``[2, runs]``: where runs start and end in the flat array, framed by False."""
    edges = np.flatnonzero(np.diff(padded.ravel().view(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).T


def _components(runs: np.ndarray, shape: tuple[int, ...], *, diagonal: bool) -> np.ndarray:
    """Return a number for each run, the same for those that touch."""
    one, other = map(np.concatenate, zip(*_touching(runs, shape, diagonal), strict=True))
    root = np.arange(runs.shape[1])
    while True:
        low = np.minimum(root[one], root[other])
        if (root[one] == root[other]).all():
            return root
        np.minimum.at(root, root[one], low)
        np.minimum.at(root, root[other], low)
        while ((shorter := root[root]) != root).any():
            root = shorter


def _touching(
    runs: np.ndarray, shape: tuple[int, ...], diagonal: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of runs in neighbouring lines that touch, for each direction of a line."""
    starts, ends = runs
    strides = np.cumprod([1, *shape[:0:-1]])[::-1][:-1]
    pairs = []
    for direction in product((-1, 0, 1), repeat=len(shape) - 1):
        if direction <= (0,) * len(direction) or (not diagonal and np.abs(direction).sum() > 1):
            continue
        shift = int(np.dot(direction, strides))
        first = np.searchsorted(ends, starts + shift - diagonal, side="right")
        last = np.searchsorted(starts, ends + shift + diagonal, side="left")
        count = np.maximum(last - first, 0)
        one = np.repeat(np.arange(len(starts)), count)
        offset = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
        pairs.append((one, np.repeat(first, count) + offset))
    return pairs


def _painted(runs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask of some runs, without its frame."""
    change = np.zeros(int(np.prod(shape)) + 1, np.int8)
    change[runs[0]] = 1
    change[runs[1]] = -1
    painted = np.cumsum(change[:-1], dtype=np.int8).astype(bool).reshape(shape)
    return painted[(slice(1, -1),) * len(shape)]
