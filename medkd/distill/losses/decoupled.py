"""Decoupled: how sure of the true class, and what else it could be, each with its own weight."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from medkd.models.activation import TINY

UNSAID = 1e-20  # less than this is no probability, but what stands in for 0


def dkd(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"] | None,
    label: Int[Tensor, " batch *space"],
    *,
    alpha: float | int = 1.0,
    beta: float | int = 2.0,
    temperature: float | int = 2.0,
) -> dict[str, Float[Tensor, ""]]:
    """Decoupled distillation: KL of target against the rest, and KL among the rest, times T².

    Plain KL weights the second part by the teacher's doubt, which silences it where the teacher is
    sure (Zhao, Cui, Song, Qiu, Liang 2022, arXiv 2203.08679). Means are over voxels; one of whose
    rest the teacher says nothing, because its probabilities were rounded to 0, counts as 0 in
    ``others``.

    Args:
        student: logits.
        teacher: probabilities at temperature 1.
        weights: how much each voxel counts.
        label: class index of each voxel.
        alpha: of ``target``: true class against all others; 0 leaves it out.
        beta: of ``others``: which of the others; 0 leaves it out.
        temperature: of both.

    Raises:
        ValueError: both factors are 0, or there are two classes, of which the rest is one and
            ``others`` is 0 by construction.
    """
    classes = student.shape[1]
    if classes < 3:
        raise ValueError(
            "dkd needs 3 classes or more: with two, the rest of a voxel's target is a single class "
            "and nothing is left to decouple; use pixel_kd"
        )
    if not (alpha or beta):
        raise ValueError("alpha and beta are both 0, so that dkd teaches nothing")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    index = label[:, None]
    log_q = (student.float() / temperature).log_softmax(dim=1)
    log_p = (teacher.float().clamp_min(TINY).log() / temperature).log_softmax(dim=1)
    target = _target_against_rest(log_q, log_p, index)
    others = F.kl_div(_rest(log_q, index), _rest(log_p, index), reduction="none", log_target=True)
    is_target = F.one_hot(label, classes).movedim(-1, 1).bool()
    is_unsaid = teacher.float().masked_fill(is_target, 0).amax(dim=1, keepdim=True) < UNSAID
    others = others.masked_fill(is_target | is_unsaid, 0).sum(dim=1)
    share = torch.ones_like(target) if weights is None else weights.float()
    scale = temperature**2 / share.sum().clamp_min(TINY)
    terms = {"dkd/target": (alpha, target), "dkd/others": (beta, others)}
    return {
        name: factor * scale * (share * by_voxel).sum()
        for name, (factor, by_voxel) in terms.items()
        if factor
    }


def _rest(log_p: Tensor, index: Tensor) -> Tensor:
    """Log-probabilities among all classes but the target; a finite stand-in at the target."""
    return log_p.scatter(1, index, -1e4).log_softmax(dim=1)


def _target_against_rest(log_q: Tensor, log_p: Tensor, index: Tensor) -> Tensor:
    """KL of the two-way distributions, from sums of logarithms: 1 - p would round to 0."""
    pairs = [
        (log.gather(1, index)[:, 0], log.scatter(1, index, -1e4).logsumexp(dim=1))
        for log in (log_q, log_p)
    ]
    (q_target, q_rest), (p_target, p_rest) = pairs
    return p_target.exp() * (p_target - q_target) + p_rest.exp() * (p_rest - q_rest)
