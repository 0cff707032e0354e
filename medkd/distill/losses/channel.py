"""Channel: where each class is, as a distribution over space."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from medkd.distill.features import on_grid
from medkd.distill.losses.weights import class_shares
from medkd.models.activation import TINY


def cwd(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"] | None = None,
    *,
    temperature: float | int = 4.0,
    sigmoid: bool = False,
    class_weights: Sequence[float | int] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Channel-wise distillation: KL of the classes' distributions over space, times T².

    Each class's map is a distribution over the voxels of its image; the mean is over batch and
    classes (Shu, Liu, Gao, Yan, Shen 2021, arXiv 2011.13256). A soft target knows log-probabilities
    and not logits, so the student's are made into log-probabilities first.

    Args:
        student: logits.
        teacher: probabilities at temperature 1.
        weights: how much each voxel counts in both distributions; 0 leaves it out.
        temperature: above 1 it draws the eye from the peak to its surroundings.
        sigmoid: classes are independent.
        class_weights: of the mean over classes.

    Raises:
        ValueError: the temperature is not positive, or there is no space.
    """
    if student.ndim < 3:
        raise ValueError("cwd compares places; classification has none")
    log_p = teacher.float().clamp_min(TINY).log()
    log_q = F.logsigmoid(student.float()) if sigmoid else student.float().log_softmax(dim=1)
    terms = channel_divergence(log_q, log_p, weights, temperature)
    shares = class_shares(class_weights, student)
    return {"cwd": (terms * shares).sum(dim=1).mean()}


def channel_features(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch channels *space"],
    weights: Bool[Tensor, " batch *voxels"] | Float[Tensor, " batch *voxels"] | None = None,
    *,
    temperature: float | int = 4.0,
) -> dict[str, Float[Tensor, ""]]:
    """Return the same of two feature maps, after an adapter has given them one shape.

    ``weights`` say how much each voxel counts, on any grid.

    Raises:
        ValueError: the temperature is not positive, or there is no space.
    """
    if student.ndim < 3:
        raise ValueError("cwd compares places; classification has none")
    share = None if weights is None else on_grid(weights, student)
    return {"cwd": channel_divergence(student, teacher, share, temperature).mean()}


def channel_divergence(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch channels *space"],
    weights: Tensor | None,
    temperature: float | int,
) -> Float[Tensor, " batch channels"]:
    """T² KL(teacher || student) of each channel's softmax over space."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    log_weights = None if weights is None else weights[:, None].flatten(2).float().log()
    log_q, log_p = (
        _over_space(maps.flatten(2).float() / temperature, log_weights)
        for maps in (student, teacher)
    )
    divergence = log_p.exp() * (log_p - log_q)
    counted = torch.where(log_p > -math.inf, divergence, 0)
    return temperature**2 * counted.sum(dim=2)


def _over_space(maps: Tensor, log_weights: Tensor | None) -> Tensor:
    if log_weights is None:
        return maps.log_softmax(dim=2)
    # where nothing counts, nothing is compared: both are uniform
    nothing = (log_weights == -math.inf).all(dim=2, keepdim=True)
    return (
        (maps + torch.where(nothing, 0, log_weights)).log_softmax(dim=2).where(~nothing, -math.inf)
    )
