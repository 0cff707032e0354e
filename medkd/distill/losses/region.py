"""Region: how the structures' mean features relate to each other."""

from itertools import combinations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from medkd.distill.features import on_grid


def region_affinity(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch teacher_channels *teacher_space"],
    label: Integer[Tensor, " batch *label_space"]
    | Integer[Tensor, " batch structures *label_space"],
    weights: Bool[Tensor, " batch *voxels"] | Float[Tensor, " batch *voxels"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Region contrast of EMKD: squared difference of the cosines between mean features of regions.

    A region is a class of the reference, or a structure of those that may overlap, and what is none
    of them; it is brought to the features' grid by nearest neighbour. Pairs with a region that is
    absent from an image, or lost on the coarser grid, are left out of the mean; where no pair is
    left the loss is 0 (Qin, Bu, Zhang, Shen, Zhou, Gu, Wang, Wu, Dai 2021, arXiv 2108.09987, which
    has two regions and divides by 0 where one is absent).

    Args:
        student: features of a layer.
        teacher: features of a layer, of any number of channels and any grid.
        label: class index of each voxel; of structures that may overlap a channel each, 0 or 1.
        weights: how much each voxel counts in its region.

    Raises:
        ValueError: there is no space.
    """
    if student.ndim < 3:
        raise ValueError("region_affinity compares regions; classification has none")
    q, q_found = region_means(student, label, weights)
    p, p_found = region_means(teacher, label, weights)
    pairs = list(combinations(range(q.shape[1]), 2))
    if not pairs:  # one class all over
        return {"region_affinity": 0 * student.float().sum()}
    one, other = (list(ends) for ends in zip(*pairs, strict=True))
    found = q_found & p_found
    counted = (found[:, one] & found[:, other]).float()
    apart = _cosine(q, one, other) - _cosine(p, one, other)
    return {"region_affinity": (counted * apart.square()).sum() / counted.sum().clamp_min(1)}


def region_means(
    features: Float[Tensor, " batch channels *space"],
    label: Integer[Tensor, " batch *label_space"]
    | Integer[Tensor, " batch structures *label_space"],
    weights: Tensor | None = None,
) -> tuple[Float[Tensor, "batch classes channels"], Tensor]:
    """Return each region's mean feature, and whether the region is there at all."""
    if label.ndim == features.ndim:
        there = torch.stack([on_grid(mask, features) for mask in label.unbind(1)], dim=-1)
        masks = torch.cat([(there.amax(dim=-1, keepdim=True) == 0).float(), there], dim=-1)
    else:
        masks = F.one_hot(on_grid(label, features).long(), int(label.max()) + 1).float()
    masks = masks.flatten(1, -2)  # batch, voxels, classes
    if weights is not None:
        masks = masks * on_grid(weights, features).flatten(1)[..., None]
    size = masks.sum(dim=1)
    sums = torch.einsum("bcv,bvk->bkc", features.float().flatten(2), masks)
    return sums / size.where(size > 0, 1)[..., None], size > 0


def _cosine(means: Tensor, one: list[int], other: list[int]) -> Tensor:
    # a tiny length instead of 0, where the cosine has no gradient
    return F.cosine_similarity(means[:, one], means[:, other], dim=2, eps=1e-6)
