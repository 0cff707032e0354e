"""Dice: overlap with a soft target, as a distance."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medkd.distill.losses.weights import class_shares
from medkd.models.activation import TINY

SMALL = 1e-5  # a structure of this share of the voxels counts half


def soft_dice(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"] | None = None,
    *,
    include_background: bool = False,
    sigmoid: bool = False,
    class_weights: Sequence[float | int] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Dice semimetric loss: ``|p - q| / |p + q|`` summed over voxels, averaged over classes.

    With hard labels it is 1 - Dice. The usual soft Dice, ``1 - 2 p q / (p + q)``, is not smallest
    where the student agrees with a soft target but where it exaggerates it; this form is 0 there
    and only there (Wang, Popordanoska, Bertels, Lemmens, Blaschko 2023, arXiv 2303.16296, DML1).
    A class that neither of them sees adds nothing: the sum below the line is at least ``SMALL`` of
    the voxels.

    Args:
        student: logits.
        teacher: probabilities at temperature 1.
        weights: how much each voxel counts.
        include_background: whether the first of several exclusive classes is counted.
        sigmoid: classes are independent; then the first is a structure like the others.
        class_weights: of the classes that are counted, in their mean.
    """
    q = student.float().sigmoid() if sigmoid else student.float().softmax(dim=1)
    p = teacher.float()
    if not (include_background or sigmoid):
        q, p = q[:, 1:], p[:, 1:]
    share = torch.ones((), device=q.device) if weights is None else weights[:, None].float()
    space = [0, *range(2, q.ndim)]
    apart = (share * (p - q).abs()).sum(dim=space)
    total = (share * (p + q)).sum(dim=space)
    voxels = share.expand_as(p[:, :1]).sum()
    shares = class_shares(class_weights, p)
    return {"soft_dice": (apart / (total + SMALL * voxels).clamp_min(TINY) * shares).sum()}
