"""Way back: the likeliest class on the image's own grid, from probabilities on the network's.

Deciding on the network's grid and carrying the classes to the nearest voxels is quick, but moves
boundaries: on real labels at 1 x 1 x 3.3 mm that go to 1.5 x 1.5 x 3 mm and back, Dice is 0.980
that way and 0.999 with probabilities that are interpolated first. These are carried in slabs and
class by class, so that no more than one class of one slab is ever held on the image's grid.

Where all voxels nearby are background, so is what lies between them: only the box of all else is
carried.
"""

import numpy as np

from medkd.data.activation import argmax
from medkd.data.postprocess import bounding_box
from medkd.data.preprocess import Grid, interpolated, places

HALF = np.float32(0.5)
ROWS = 16  # at once: what is worked on stays in the processor's cache


class WayBack:
    """Takes slabs of probabilities in order; holds the likeliest class.

    Attributes:
        answer: ``[1, *space]``, indices of the classes, on the image's grid in the network's order
            of axes.
    """

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        self.answer = np.zeros((channels, *grid.oriented_shape), np.uint8)
        self._rows = grid.shape[0]
        self._places = [
            places(*sizes) for sizes in zip(grid.shape, grid.oriented_shape, strict=True)
        ]
        self._done = 0  # rows of the image
        self._held: np.ndarray | None = None  # rows of the network's grid that are needed yet
        self._first = 0  # of them

    def add(self, probabilities: np.ndarray) -> None:
        """Add a slab ``[classes, rows, ...]`` that follows the last one."""
        if self._held is not None:
            probabilities = np.concatenate([self._held, probabilities], axis=1)
        before, known = self._places[0][0], self._first + probabilities.shape[1] - 1
        after = np.minimum(before + 1, self._rows - 1)
        stop = int(np.searchsorted(after, known, side="right"))
        for start in range(self._done, stop, ROWS):
            rows = slice(start, min(start + ROWS, stop))
            first, last = before[rows.start] - self._first, before[rows.stop - 1] - self._first
            self._decide(probabilities[:, first : last + 2], rows)
        self._done = max(self._done, stop)
        if stop < len(before):
            drop = min(int(before[stop]) - self._first, probabilities.shape[1])
            self._held, self._first = probabilities[:, drop:].copy(), self._first + drop

    def _decide(self, source: np.ndarray, rows: slice) -> None:
        """Find the likeliest class in some rows of the image, among those that are it nearby."""
        nearby = argmax(source)
        box = _box(nearby > 0)
        if box is None:
            return
        there, ways = self._ways(box, rows)
        answer = self.answer[0][there]
        best: np.ndarray | None = None
        for index in np.flatnonzero(np.bincount(nearby[box].ravel())):
            here = _carried(source[index][box], ways)
            if best is None:
                best, answer[:] = here, index
                continue
            np.copyto(answer, index, where=here > best, casting="unsafe")
            np.maximum(best, here, out=best)

    def _ways(
        self, box: tuple[slice, ...], rows: slice
    ) -> tuple[tuple[slice, ...], list[tuple[np.ndarray, np.ndarray]]]:
        """Return where on the image a box lies that was cut from the source of some rows.

        Returns:
            The places that anything of the box reaches, and for each axis how they lie in it.
        """
        there, ways = [], []
        for axis, (of_box, (before, share)) in enumerate(zip(box, self._places, strict=True)):
            if axis == 0:
                before, share = before[rows] - before[rows.start], share[rows]  # noqa: PLW2901
            first = int(np.searchsorted(before, of_box.start))
            stop = int(np.searchsorted(before, of_box.stop - 1))
            start = rows.start if axis == 0 else 0
            there.append(slice(start + first, start + stop))
            ways.append((before[first:stop] - of_box.start, share[first:stop]))
        return tuple(there), ways


class WayBackApart(WayBack):
    """The same for structures that may overlap: each is where its probability is a half or more.

    Attributes:
        answer: ``[structures, *space]``, 0 or 1.
    """

    def _decide(self, source: np.ndarray, rows: slice) -> None:
        """Ask for each structure by itself, where it is likely at all nearby."""
        for index, of_structure in enumerate(source):
            box = _box(of_structure >= HALF)
            if box is not None:
                there, ways = self._ways(box, rows)
                self.answer[index][there] = _carried(of_structure[box], ways) >= HALF


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the box of what is True and of its neighbours; None if nothing is."""
    box = bounding_box(mask)
    return box and tuple(slice(max(0, each.start - 1), each.stop + 1) for each in box)


def _carried(of_class: np.ndarray, ways: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Interpolate the probabilities of one class in a box to the places of the image."""
    for axis in (*range(1, of_class.ndim), 0):
        before, share = ways[axis]
        if share.any():
            of_class = interpolated(of_class, axis, before, share)
        else:
            of_class = of_class.take(before, axis)
    return of_class
