"""Affinity: which places look alike to the network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from medkd.distill.features import on_grid
from medkd.models.activation import TINY

LEAST = 1e-6  # a length
POOLS: dict[int, Callable[..., Any]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def affinity(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch teacher_channels *teacher_space"],
    weights: Bool[Tensor, " batch *voxels"] | Float[Tensor, " batch *voxels"] | None = None,
    *,
    places: int = 1728,
) -> dict[str, Float[Tensor, ""]]:
    """Structured distillation: squared difference of the cosines between all pairs of places.

    Both feature maps are pooled to one grid of at most ``places`` cells, so memory is bounded by
    the square of that number: 12 MiB an image in float32 at the default, 12 x 12 x 12 (Liu, Chen,
    Liu, Qin, Luo, Wang 2019, arXiv 1903.04197). A map of more cells is compared more coarsely, so
    beyond that number the loss depends on the size of the patch.

    Args:
        student: features of a layer.
        teacher: features of a layer, of any number of channels and any grid.
        weights: how much each voxel counts in its cell, on any grid; a cell in which none does is
            left out.
        places: cells of the common grid.

    Raises:
        ValueError: there is no space.
    """
    if student.ndim < 3:
        raise ValueError("affinity compares places; classification has none")
    grid = pooled_grid(
        [min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True)], places
    )
    pool = POOLS[len(grid)]
    if weights is None:
        weights = torch.ones_like(student[:, 0], dtype=torch.bool)
    shares = [on_grid(weights, maps)[:, None] for maps in (student, teacher)]
    in_cell = [pool(share, grid).flatten(2) for share in shares]
    counted = (in_cell[0][:, 0] > 0).float()
    q, p = (
        _directions(pool(maps.float() * share, grid).flatten(2) / cell.clamp_min(TINY))
        for maps, share, cell in zip((student, teacher), shares, in_cell, strict=True)
    )
    pairs = counted[:, :, None] * counted[:, None, :]
    apart = (q.mT @ q - p.mT @ p).square() * pairs
    return {"affinity": apart.sum() / pairs.sum().clamp_min(1)}


def _directions(features: Tensor) -> Tensor:
    """Bring each place's features to length 1; none have no direction, and no gradient."""
    length = features.norm(dim=1, keepdim=True)
    return torch.where(length > LEAST, features / length.clamp_min(LEAST), 0)


def pooled_grid(shape: Sequence[int], places: int) -> list[int]:
    """Shorten the longest axis until the grid has at most ``places`` cells.

    Example:
        >>> pooled_grid([48, 64, 48], 1728), pooled_grid([200, 200, 3], 1728)
        ([12, 12, 12], [24, 24, 3])
    """
    grid = list(shape)
    while math.prod(grid) > places:
        grid[grid.index(max(grid))] -= 1
    return grid
