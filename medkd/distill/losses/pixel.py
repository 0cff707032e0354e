"""Pixel: the divergence of student from teacher, voxel by voxel."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from medkd.distill.divergence import bernoulli_divergence, softmax_divergence
from medkd.distill.losses.weights import class_shares


def pixel_kd(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"] | None = None,
    *,
    temperature: float | int = 2.0,  # YAML writes 2 for 2.0
    sigmoid: bool = False,
    class_weights: Sequence[float | int] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Mean over voxels of KL(teacher || student) at a temperature, times its square.

    The divergence is summed over classes. The factor keeps the gradient's size when the
    temperature changes (Hinton, Vinyals, Dean 2015, arXiv 1503.02531). The mean is over batch
    *and* space, so the loss of a volume does not grow with its number of voxels.

    Args:
        student: logits.
        teacher: probabilities at temperature 1; they are tempered here.
        weights: how much each voxel counts.
        temperature: above 1 it shows the student which wrong classes the teacher finds likely.
        sigmoid: every class is a question of its own (multi-label); the divergence is that of
            Bernoulli variables, averaged over classes.
        class_weights: of that average; exclusive classes have theirs in ``weights``.

    Raises:
        ValueError: the temperature is not positive, or there are no such ``class_weights``.

    Example:
        >>> import torch
        >>> logits = torch.randn(2, 3, 8, 8, 8)
        >>> pixel_kd(logits, logits.softmax(1), temperature=4.0)["pixel_kd"].abs().item() < 1e-6
        True
    """
    if not sigmoid:
        if class_weights is not None:
            raise ValueError("the weights of exclusive classes are those of their voxels")
        return {"pixel_kd": softmax_divergence(student, teacher, weights, temperature=temperature)}
    shares = class_shares(class_weights, student)
    loss = bernoulli_divergence(student, teacher, weights, temperature=temperature, shares=shares)
    return {"pixel_kd": loss}
