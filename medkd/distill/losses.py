"""Distillation losses: plain functions of student logits and teacher probabilities."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from medkd.registry import Registry

LOSSES: Registry[Tensor] = Registry("distillation loss")


@LOSSES.register("pixel_kd")
def pixel_kd(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    valid: Bool[Tensor, " batch *space"] | None = None,
    *,
    temperature: float | int = 2.0,  # YAML writes 2 for 2.0
) -> Float[Tensor, ""]:
    """Mean over valid voxels of KL(teacher || student) at a temperature, times its square.

    The divergence is summed over classes. The factor keeps the gradient's size when the
    temperature changes (Hinton, Vinyals, Dean 2015, arXiv 1503.02531). The mean is over batch
    *and* space, so the loss of a volume does not grow with its number of voxels.

    Args:
        student: logits.
        teacher: probabilities at temperature 1; they are tempered here.
        valid: voxels that count; all if None.
        temperature: above 1 it shows the student which wrong classes the teacher finds likely.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> import torch
        >>> logits = torch.randn(2, 3, 8, 8, 8)
        >>> pixel_kd(logits, logits.softmax(1), temperature=4.0).abs().item() < 1e-6
        True
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float().log() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    if valid is None:
        return divergence.mean() * temperature**2
    return (divergence * valid).sum() / valid.sum().clamp_min(1) * temperature**2
