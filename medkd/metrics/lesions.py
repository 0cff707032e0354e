"""Lesions: how many were found, whatever their size.

A lesion is a connected component of a mask, diagonals included. Voxel overlap is ruled by the
largest lesion; what a reader asks first is how many were missed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from medkd.metrics.empty import emptiness


@dataclass(frozen=True)
class Lesions:
    """Counts of one or several mask pairs; they add up.

    Attributes:
        reference: lesions there are.
        found: those of them that the prediction touches enough.
        predicted: lesions the prediction claims.
        right: those of them that lie enough in the reference.
    """

    reference: int
    found: int
    predicted: int
    right: int

    def __add__(self, other: "Lesions") -> "Lesions":
        return Lesions(
            self.reference + other.reference,
            self.found + other.found,
            self.predicted + other.predicted,
            self.right + other.right,
        )

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that was found; 1 where there are none and none is claimed."""
        return _share(self.found, self.reference, otherwise=self.predicted == 0)

    @property
    def ppv(self) -> float:
        """Share of the claimed lesions that is right; 1 where none is claimed and there is none."""
        return _share(self.right, self.predicted, otherwise=self.reference == 0)


def count_lesions(
    prediction: Bool[np.ndarray, " *space"],
    reference: Bool[np.ndarray, " *space"],
    *,
    overlap: float = 0.1,
) -> Lesions:
    """Match the connected components of two masks.

    Args:
        prediction: a mask.
        reference: a mask of the same shape.
        overlap: the share of a lesion's voxels that the other mask must hold, in (0, 1].

    Raises:
        ValueError: the masks are not boolean or differ in shape, or ``overlap`` is out of range.

    Example:
        >>> reference = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
        >>> prediction = np.array([0, 1, 0, 0, 0, 1], dtype=bool)
        >>> count_lesions(prediction, reference)
        Lesions(reference=3, found=2, predicted=2, right=2)
    """
    emptiness(prediction, reference)  # refuses what is no pair of masks
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap must lie in (0, 1], got {overlap}")
    there, found = _covered(reference, prediction, overlap)
    claimed, right = _covered(prediction, reference, overlap)
    return Lesions(reference=there, found=found, predicted=claimed, right=right)


def _covered(mask: np.ndarray, by: np.ndarray, overlap: float) -> tuple[int, int]:
    """Count the components of a mask, and those of which enough is covered."""
    numbered, count = ndimage.label(mask, structure=np.ones([3] * mask.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(numbered[by], minlength=count + 1)[1:]
    return count, int((covered >= overlap * sizes).sum())


def _share(part: int, whole: int, *, otherwise: bool) -> float:
    return part / whole if whole else float(otherwise)
