"""Hints: the student's features are to be the teacher's, seen through an adapter."""

from jaxtyping import Float
from torch import Tensor


def hint(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch channels *space"],
) -> dict[str, Float[Tensor, ""]]:
    """Mean squared difference of features (FitNets: Romero et al. 2015, arXiv 1412.6550).

    Args:
        student: features after the adapter, which gives them the teacher's shape.
        teacher: features; no gradient flows to them.
    """
    return {"hint": (student.float() - teacher.detach().float()).square().mean()}
