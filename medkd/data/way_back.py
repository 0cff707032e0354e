"""Way back: the likeliest class on the image's own grid, from probabilities on the network's.

Deciding on the network's grid and carrying the classes to the nearest voxels is quick, but moves
boundaries: on real labels at 1 x 1 x 3.3 mm that go to 1.5 x 1.5 x 3 mm and back, Dice is 0.980
that way and 0.999 with probabilities that are interpolated first. These are carried in slabs and
class by class, so that no more than one class of one slab is ever held on the image's grid.
"""

import numpy as np

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
        self._grid = grid
        self._before, self._share = places(grid.shape[0], grid.oriented_shape[0])
        self._done = 0  # rows of the image
        self._held: np.ndarray | None = None  # rows of the network's grid that are needed yet
        self._first = 0  # of them

    def add(self, probabilities: np.ndarray) -> None:
        """Add a slab ``[classes, rows, ...]`` that follows the last one."""
        if self._held is not None:
            probabilities = np.concatenate([self._held, probabilities], axis=1)
        known = self._first + probabilities.shape[1] - 1
        after = np.minimum(self._before + 1, self._grid.shape[0] - 1)
        stop = int(np.searchsorted(after, known, side="right"))
        if stop > self._done:
            for row in range(self._done, stop, ROWS):
                self._decide(probabilities, slice(row, min(row + ROWS, stop)))
            self._done = stop
        if stop < len(self._before):
            drop = min(int(self._before[stop]) - self._first, probabilities.shape[1])
            self._held, self._first = probabilities[:, drop:].copy(), self._first + drop

    def _source(self, probabilities: np.ndarray, rows: slice) -> np.ndarray:
        """Return the rows of the network's grid round some rows of the image."""
        first, last = self._before[rows.start] - self._first, self._before[rows.stop - 1]
        return probabilities[:, first : last - self._first + 2]

    def _there(self, of_class: np.ndarray, rows: slice) -> np.ndarray:
        """Interpolate the ``_source`` of one class to some rows of the image."""
        here = of_class
        for axis, size in enumerate(self._grid.oriented_shape[1:], start=1):
            if here.shape[axis] != size:
                here = interpolated(here, axis, *places(here.shape[axis], size))
        before = self._before[rows] - self._before[rows.start]
        return interpolated(here, 0, before, self._share[rows])

    def _decide(self, probabilities: np.ndarray, rows: slice) -> None:
        """Find the likeliest class in some rows of the image, among those that are it nearby."""
        source, answer = self._source(probabilities, rows), self.answer[0, rows]
        best: np.ndarray | None = None
        for index in np.unique(source.argmax(axis=0)):
            here = self._there(source[index], rows)
            if best is None:
                best, answer[:] = here, index
                continue
            better = here > best
            answer[better] = index
            np.maximum(best, here, out=best)


class WayBackApart(WayBack):
    """The same for structures that may overlap: each is where its probability is a half or more.

    Attributes:
        answer: ``[structures, *space]``, 0 or 1.
    """

    def _decide(self, probabilities: np.ndarray, rows: slice) -> None:
        """Ask for each structure by itself, where it is likely at all nearby."""
        source = self._source(probabilities, rows)
        for index, of_structure in enumerate(source):
            if (of_structure >= HALF).any():
                self.answer[index, rows] = self._there(of_structure, rows) >= HALF
