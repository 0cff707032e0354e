"""Correlation: the order and spacing of the answers rather than the answers themselves."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medkd.distill.losses.weights import class_shares
from medkd.models.activation import logits_of, probabilities
from medkd.types import Activation

FLAT = 1e-12  # a variance below this has nothing to correlate with


def dist(  # noqa: PLR0913 - all are options of a config
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"] | None = None,
    *,
    beta: float | int = 1.0,
    gamma: float | int = 1.0,
    temperature: float | int = 1.0,
    sigmoid: bool = False,
    class_weights: Sequence[float | int] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """DIST: one minus Pearson's correlation of student and teacher.

    Over the classes of each voxel (``inter``), and over all voxels for each class (``intra``);
    batch and space are one axis, so a batch of one has as many samples as it has voxels (Huang,
    You, Wang, Qian, Xu 2022, arXiv 2205.10536). What the teacher gives no variation has no
    correlation and is left out: a class that is absent, or a row of one image. A correlation does
    not know the size of what it compares, so its gradient keeps its own when the temperature
    grows, without the factor of T² in the authors' code.

    Args:
        student: logits.
        teacher: probabilities at temperature 1.
        weights: how much each voxel counts.
        beta: of ``inter``; 0 leaves it out.
        gamma: of ``intra``; 0 leaves it out.
        temperature: of both.
        sigmoid: classes are independent, so that those of one voxel have no order: ``intra`` alone.
            So it is of two exclusive ones, whose correlation is 1 or -1 and has no gradient.
        class_weights: of the mean of ``intra`` over classes.

    Raises:
        ValueError: the temperature is not positive, or no factor is left but 0.
    """
    beta = 0 if sigmoid or student.shape[1] < 3 else beta
    if not (beta or gamma):
        raise ValueError(
            "gamma is 0, and so is beta or what it weighs, the order of 3 exclusive classes or "
            "more: dist teaches nothing; set gamma"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    activation = Activation.SIGMOID if sigmoid else Activation.SOFTMAX
    q, p = _rows(probabilities(student.float() / temperature, activation)), teacher.float()
    if temperature != 1:
        p = probabilities(logits_of(p, activation) / temperature, activation)
    p = _rows(p)
    share = p.new_ones(len(p)) if weights is None else weights.flatten().float()
    alike = p.new_ones(p.shape[1])
    inter = _one_minus_pearson(q, p, alike, share)
    of_classes = class_shares(class_weights, student)
    intra = _one_minus_pearson(q.t(), p.t(), share, of_classes)
    terms = {"dist/inter": (beta, inter), "dist/intra": (gamma, intra)}
    return {name: factor * term for name, (factor, term) in terms.items() if factor}


def _rows(maps: Tensor) -> Tensor:
    """``[batch, classes, *space]`` as ``[voxels, classes]``."""
    return maps.movedim(1, -1).flatten(0, -2)


def _one_minus_pearson(q: Tensor, p: Tensor, over: Tensor, of: Tensor) -> Tensor:
    """Correlate each row over its weighted columns; average over the weighted rows that vary."""
    over = over / over.sum().clamp_min(FLAT)
    q, p = q - (q * over).sum(1, keepdim=True), p - (p * over).sum(1, keepdim=True)
    of = of * ((p * p * over).sum(1) > FLAT)
    product = (q * p * over).sum(1)
    size = ((q * q * over).sum(1).clamp_min(FLAT) * (p * p * over).sum(1).clamp_min(FLAT)).sqrt()
    return torch.where(of > 0, (1 - product / size) * of, 0).sum() / of.sum().clamp_min(FLAT)
