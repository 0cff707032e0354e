"""Hints: the student's features are to be the teacher's, seen through an adapter."""

from jaxtyping import Bool, Float
from torch import Tensor

from medkd.distill.features import on_grid
from medkd.models.activation import TINY


def hint(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch channels *space"],
    weights: Bool[Tensor, " batch *voxels"] | Float[Tensor, " batch *voxels"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Mean squared difference of features (FitNets: Romero et al. 2015, arXiv 1412.6550).

    Args:
        student: features after the adapter, which gives them the teacher's shape.
        teacher: features; no gradient flows to them.
        weights: how much each voxel counts, on any grid.
    """
    apart = (student.float() - teacher.detach().float()).square().mean(dim=1)
    if weights is None:
        return {"hint": apart.mean()}
    share = on_grid(weights, student)
    return {"hint": (apart * share).sum() / share.sum().clamp_min(TINY)}
