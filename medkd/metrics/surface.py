"""Surface metrics: NSD, HD95 and ASSD from surface distances that are computed once.

Surfaces lie between voxels: every corner of the voxel grid has 2 x 2 (2 x 2 x 2) neighbours, their
pattern decides the length (area) of the piece of surface there, and distances run between such
corners. Definitions and numbers are those of DeepMind's surface-distance (Nikolov et al., JMIR
2021, arXiv 1809.04430); the table of areas is MONAI's copy of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from medkd.metrics.bounding_box import bounding_box
from medkd.metrics.empty import (
    Emptiness,
    emptiness,
    empty_distance,
    empty_score,
    volume_diagonal,
)

# A distance of exactly the tolerance is within it, also when the affine's rounding says 1.0000001.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of every piece of either surface to the other, sorted, with the pieces' sizes.

    All four arrays are empty unless ``emptiness`` is ``neither``.

    Attributes:
        to_reference: from the prediction's surface to the reference's, mm.
        to_prediction: from the reference's surface to the prediction's, mm.
        prediction_areas: sizes of the prediction's pieces, mm² (3D) or mm (2D).
        reference_areas: sizes of the reference's pieces.
        emptiness: which mask was empty.
        diagonal_mm: of the whole volume; the distance when one mask is empty.
    """

    to_reference: Float[np.ndarray, " prediction"]
    to_prediction: Float[np.ndarray, " reference"]
    prediction_areas: Float[np.ndarray, " prediction"]
    reference_areas: Float[np.ndarray, " reference"]
    emptiness: Emptiness
    diagonal_mm: float


def surface_distances(
    prediction: Bool[np.ndarray, " *space"],
    reference: Bool[np.ndarray, " *space"],
    *,
    spacing_mm: Sequence[float],
) -> SurfaceDistances:
    """Measure the distances between two surfaces, for the three metrics below.

    Args:
        prediction: a 2D or 3D mask.
        reference: a mask of the same shape.
        spacing_mm: distance of neighbouring voxel centres along each axis.

    Raises:
        ValueError: the masks are not boolean, differ in shape, or are neither 2D nor 3D; or
            ``spacing_mm`` has not one positive number per axis.
    """
    kind = emptiness(prediction, reference)
    spacing = tuple(float(s) for s in spacing_mm)
    diagonal = volume_diagonal(reference.shape, spacing_mm=spacing)
    if reference.ndim not in (2, 3):
        raise ValueError(f"surfaces are defined in 2D and 3D, not for shape {reference.shape}")
    if kind is not Emptiness.NEITHER:
        nothing = np.empty(0)
        return SurfaceDistances(nothing, nothing, nothing, nothing, kind, diagonal)
    box = bounding_box(prediction | reference, margin=[0] * reference.ndim)
    predicted, referenced = (_surface(mask[box], spacing) for mask in (prediction, reference))
    to_reference, prediction_areas = _sorted_distances(predicted, referenced)
    to_prediction, reference_areas = _sorted_distances(referenced, predicted)
    return SurfaceDistances(
        to_reference, to_prediction, prediction_areas, reference_areas, kind, diagonal
    )


def nsd(distances: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Return the normalised surface Dice: the share of both surfaces within a tolerance, [0, 1].

    Raises:
        ValueError: the tolerance is not positive.
    """
    if not tolerance_mm > 0:
        raise ValueError(f"tolerance_mm must be positive, got {tolerance_mm}")
    replaced = empty_score(distances.emptiness)
    if replaced is not None:
        return replaced
    limit = tolerance_mm * (1 + _ROUNDING)
    within = (
        distances.prediction_areas[distances.to_reference <= limit].sum()
        + distances.reference_areas[distances.to_prediction <= limit].sum()
    )
    return float(within / (distances.prediction_areas.sum() + distances.reference_areas.sum()))


def hd95(distances: SurfaceDistances) -> float:
    """Return the 95 % Hausdorff distance in mm.

    95 % of each surface's area lies at most that far from the other surface: the larger of the
    two directions. Packages that take the percentile of unweighted voxels differ.
    """
    replaced = empty_distance(distances.emptiness, diagonal_mm=distances.diagonal_mm)
    if replaced is not None:
        return replaced
    return max(
        _percentile(distances.to_reference, distances.prediction_areas, 0.95),
        _percentile(distances.to_prediction, distances.reference_areas, 0.95),
    )


def assd(distances: SurfaceDistances) -> float:
    """Return the average symmetric surface distance in mm: the mean of the two directions."""
    replaced = empty_distance(distances.emptiness, diagonal_mm=distances.diagonal_mm)
    if replaced is not None:
        return replaced
    there = np.average(distances.to_reference, weights=distances.prediction_areas)
    back = np.average(distances.to_prediction, weights=distances.reference_areas)
    return float((there + back) / 2)


def _neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Number the pattern of the 2^d voxels round each corner of the grid; 0 is all outside."""
    padded = np.pad(mask, 1).view(np.uint8)
    shape = [n + 1 for n in mask.shape]
    codes = np.zeros(shape, np.uint8)
    for corner in product((0, 1), repeat=mask.ndim):
        window = padded[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))]
        codes = (codes << np.uint8(1)) | window
    return codes


@lru_cache(maxsize=128)
def _area_of_code(spacing_mm: tuple[float, ...]) -> np.ndarray:
    from monai.metrics.utils import get_code_to_measure_table

    table, _ = get_code_to_measure_table(spacing_mm)
    return table.numpy().astype(np.float64)


def _surface(
    mask: Bool[np.ndarray, " *space"], spacing: tuple[float, ...]
) -> tuple[Float[np.ndarray, "pieces axes"], Float[np.ndarray, " pieces"]]:
    """Return where the pieces of a mask's surface are, mm, and how large each is."""
    codes = _neighbour_codes(mask)
    on_surface = (codes != 0) & (codes != 2**2**codes.ndim - 1)
    return np.argwhere(on_surface) * spacing, _area_of_code(spacing)[codes[on_surface]]


def _sorted_distances(
    here: tuple[np.ndarray, np.ndarray], there: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    # Surfaces are thin: a search tree of their points is several times faster than a distance
    # transform of the volume round them, and exact too.
    tree = KDTree(there[0], balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(here[0])
    order = np.argsort(distances, kind="stable")
    return distances[order], here[1][order]


def _percentile(distances: np.ndarray, areas: np.ndarray, share: float) -> float:
    reached = np.cumsum(areas) / areas.sum()
    last = len(distances) - 1  # the sum of areas may round to less than 1
    return float(distances[min(int(np.searchsorted(reached, share)), last)])
