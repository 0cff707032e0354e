"""Weights: how much each voxel counts, by what the teacher says of it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def voxel_weights(
    teacher: Float[Tensor, " batch classes *space"],
    valid: Bool[Tensor, " batch *space"] | None = None,
    *,
    boundary: float | int = 0,
    confidence: float | int = 0,
    classes: Sequence[float | int] | None = None,
    sigmoid: bool = False,
) -> Float[Tensor, " batch *space"] | Bool[Tensor, " batch *space"] | None:
    """Return the product of the weights asked for, or ``valid`` alone.

    Args:
        teacher: probabilities; no gradient flows through the weights.
        valid: voxels that count at all.
        boundary: added to the weight 1 of a voxel that has a neighbour, diagonals included, of
            another class in the teacher's answer.
        confidence: power of the teacher's certainty, ``1 - entropy / log(classes)``, so that 0
            is off and 1 mutes a voxel in proportion to the teacher's doubt.
        classes: a weight for each of several exclusive classes; a voxel has their mean under the
            teacher's probabilities. The divergence stays one, which weights inside its sum over
            classes would break.
        sigmoid: classes are independent: a boundary is that of any of them, and certainty the mean
            over them; their own weights are ``class_shares``.
    """
    factors: list[Tensor] = []
    if boundary:
        factors.append(1 + boundary * boundaries(teacher, sigmoid=sigmoid))
    if confidence:
        factors.append(certainty(teacher, sigmoid=sigmoid) ** confidence)
    if classes is not None:
        if len(classes) != teacher.shape[1]:
            raise ValueError(f"{len(classes)} class weights for {teacher.shape[1]} classes")
        factors.append(torch.einsum("bc...,c->b...", teacher, teacher.new_tensor(classes)))
    for factor in factors:
        valid = factor if valid is None else valid * factor
    return valid


def class_shares(
    class_weights: Sequence[float | int] | None, maps: Float[Tensor, " batch classes *space"]
) -> Float[Tensor, " classes"]:
    """Return the share of each class in a mean over them; all alike if no weights are given.

    For classes that are independent: each is a question of its own, and some may count more.

    Args:
        class_weights: of the classes.
        maps: what has these classes, and says on which device.

    Raises:
        ValueError: there are more or fewer weights than classes, or all are 0.
    """
    classes = maps.shape[1]
    if class_weights is None:  # filled in place: a GPU would wait for a copy
        return torch.full((classes,), 1 / classes, device=maps.device)
    if len(class_weights) != classes:
        raise ValueError(f"{len(class_weights)} class weights for {classes} classes")
    if not any(class_weights):
        raise ValueError("class weights are all 0, so that nothing is taught")
    total = sum(class_weights)
    return torch.tensor([weight / total for weight in class_weights], device=maps.device)


def boundaries(
    teacher: Float[Tensor, " batch classes *space"], *, sigmoid: bool = False
) -> Float[Tensor, " batch *space"]:
    """Mark voxels with 1 whose 3-voxel neighbourhood holds another class."""
    answer = (teacher >= 0.5 if sigmoid else teacher.argmax(dim=1, keepdim=True)).float()
    if answer.ndim == 2:  # classification has no neighbours
        return torch.zeros_like(answer[:, 0])
    pool = POOLS[answer.ndim - 2]
    highest, lowest = pool(answer, 3, stride=1, padding=1), -pool(-answer, 3, stride=1, padding=1)
    return (highest != lowest).any(dim=1).float()


def certainty(
    teacher: Float[Tensor, " batch classes *space"], *, sigmoid: bool = False
) -> Float[Tensor, " batch *space"]:
    """Return 1 where the teacher is sure and 0 where all classes are alike to it."""
    if sigmoid:
        doubt = torch.special.entr(teacher.float()) + torch.special.entr(1 - teacher.float())
        return (1 - doubt.mean(dim=1) / math.log(2)).clamp(0, 1)
    entropy = torch.special.entr(teacher.float()).sum(dim=1)
    most = torch.log(torch.tensor(float(max(2, teacher.shape[1]))))
    return (1 - entropy / most.to(entropy.device)).clamp(0, 1)
