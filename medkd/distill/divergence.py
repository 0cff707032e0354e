"""Divergence: KL of large maps, with a hand-written gradient, block by block.

The usual form, ``kl_div(log_softmax(student / T), log_softmax(teacher / T))``, holds half a dozen
tensors of the logits' size and moves each of them through memory. Here a block of voxels goes from
logits to divergence and gradient while it is in the processor's cache, so that the only tensor of
that size is the gradient itself. On a GPU one kernel does so (``fused.py``), if it can be compiled.
"""

import logging
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from medkd.models.activation import SUREST, TINY

# values of a block on a CPU: a few float32 copies of it fit into its last cache, and threads, which
# meet after each operation, meet seldom enough
BLOCK = 1 << 19
_log = logging.getLogger(__name__)

Weights = Bool[Tensor, " batch *space"] | Float[Tensor, " batch *space"]


def softmax_divergence(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Weights | None = None,
    *,
    temperature: float | int,
) -> Float[Tensor, ""]:
    """Weighted mean over voxels of T² KL(teacher || student), summed over exclusive classes.

    Args:
        student: logits, of any floating type; the gradient has the same, the sums are float32.
        teacher: probabilities at temperature 1; no gradient flows to them.
        weights: of the mean; all alike if None.
        temperature: both distributions are tempered with it.

    Raises:
        ValueError: the temperature is not positive, or shapes do not fit, or nothing is there.
    """
    return _mean(student, teacher, weights, float(temperature), None)


def bernoulli_divergence(
    student: Float[Tensor, " batch classes *space"],
    teacher: Float[Tensor, " batch classes *space"],
    weights: Weights | None = None,
    *,
    temperature: float | int,
    shares: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean over voxels of T² KL(teacher || student), averaged over independent classes.

    Further arguments and errors are those of ``softmax_divergence``.

    Args:
        student: logits.
        teacher: the probability of each class against its absence.
        weights: of the mean over voxels.
        temperature: both distributions are tempered with it.
        shares: of the classes in the mean over them, which sum to 1; all alike if None.
    """
    classes = student.shape[1]
    if shares is None:
        shares = torch.full((classes,), 1 / classes, device=student.device)
    return _mean(student, teacher, weights, float(temperature), shares)


def _mean(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor | None,
    temperature: float,
    shares: Tensor | None,
) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    _refuse_misfits(student, teacher, weights, shares)
    if weights is not None and weights.dtype == torch.bool and weights.device.type == "cpu":
        weights = None if weights.all() else weights  # most patches lie within their image
    return _Divergence.apply(student, teacher, weights, temperature, shares)


def _refuse_misfits(
    student: Tensor, teacher: Tensor, weights: Tensor | None, shares: Tensor | None
) -> None:
    """Refuse shapes of which a kernel would read what is not theirs."""
    if student.numel() == 0 or student.shape != teacher.shape:
        raise ValueError(f"logits {list(student.shape)} for probabilities {list(teacher.shape)}")
    if weights is not None and weights.shape != student[:, 0].shape:
        raise ValueError(f"weights {list(weights.shape)} for logits {list(student.shape)}")
    if shares is not None and shares.shape != student.shape[1:2]:
        raise ValueError(f"shares {list(shares.shape)} for logits {list(student.shape)}")


def _exclusive(logits: Tensor, probabilities: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return a block's divergence by voxel, and tempered student minus tempered teacher.

    Blocks are ``[classes, voxels]`` float32.
    """
    a = probabilities.clamp_min(TINY).log_().div_(t)  # at most 0: needs no shift by its maximum
    p = a.exp()
    norm_p = p.sum(dim=0)
    p.div_(norm_p)
    b = logits / t
    b.sub_(b.amax(dim=0))
    a.sub_(b).mul_(p)
    q = b.exp_()
    norm_q = q.sum(dim=0)
    divergence = a.sum(dim=0).add_(norm_q.log()).sub_(norm_p.log_())
    return divergence, q.div_(norm_q).sub_(p)


def _independent(
    logits: Tensor, probabilities: Tensor, t: float, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what ``_exclusive`` does; a student surer than float32 can tell is no error."""
    a = probabilities.clamp(TINY, SUREST).logit_().div_(t)
    p = a.sigmoid()
    b = torch.where(probabilities < SUREST, logits / t, torch.minimum(logits / t, a))
    divergence = (F.softplus(b) - F.softplus(a)).addcmul_(p, a.sub_(b))
    shares = shares[:, None]
    return divergence.mul_(shares).sum(dim=0), b.sigmoid_().sub_(p).mul_(shares)


def by_blocks(
    logits: Float[Tensor, "batch classes voxels"],
    soft: Float[Tensor, "batch classes voxels"],
    share: Tensor | None,
    gradient: Float[Tensor, "batch classes voxels"] | None,
    temperature: float,
    shares: Float[Tensor, " classes"] | None,
) -> Float[Tensor, ""]:
    """Return the sum of the voxels' divergence times their ``share``; fill in its gradient."""
    total = torch.zeros((), device=logits.device)
    for place in _blocks(logits):
        block, probabilities = _rows(logits[place]), _rows(soft[place])
        if shares is None:
            divergence, difference = _exclusive(block, probabilities, temperature)
        else:
            divergence, difference = _independent(block, probabilities, temperature, shares)
        if share is not None:
            divergence, difference = divergence * share[place][0], difference * share[place]
        total += divergence.sum()
        if gradient is not None:
            gradient[place] = difference
    return total


@cache
def fused_on(device: torch.device) -> ModuleType | None:
    """Return ``fused.py`` if the kernel compiles for a device and agrees with the blocks there."""
    if device.type != "cuda":
        return None
    try:
        from medkd.distill import fused

        if _agrees(fused, device):
            return fused
        reason = "its results differ"
    except Exception as error:  # noqa: BLE001  Triton and C compilers raise what they like
        reason = f"{type(error).__name__}: {error}"
    _log.warning("soft targets are compared more slowly, without a kernel of their own: %s", reason)
    return None


def _agrees(fused: ModuleType, device: torch.device) -> bool:
    """Return whether both say the same of several tiles in other layouts, weighted or not."""
    logits = torch.linspace(0, 999, 2 * 3 * 1300, device=device).reshape(2, 3, 1300).sin() * 4
    soft, share = logits.cos().softmax(1), logits[:, :1].sigmoid()
    factor = torch.tensor(0.5, device=device)
    all_shares = (None, torch.full((3,), 1 / 3, device=device))
    for shares, weights in product(all_shares, (None, share, share > 0.5)):
        slow, fast = torch.empty_like(logits), torch.empty_like(logits.mT).mT
        expected = by_blocks(logits, soft, weights, slow, 2.0, shares)
        found = fused.divergence(logits, soft, weights, fast, 2 * factor, 2.0, shares)
        fused.scale_(fast, factor)
        if not torch.allclose(found, expected, rtol=1e-4):
            return False
        if not torch.allclose(fast, slow * factor, rtol=1e-3, atol=1e-6):
            return False
    return True


class _Divergence(torch.autograd.Function):
    """Value and gradient in one pass; the gradient waits for ``backward`` to be scaled."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        student: Tensor,
        teacher: Tensor,
        weights: Tensor | None,
        temperature: float,
        shares: Tensor | None,
    ) -> Tensor:
        gradient = _like(student) if ctx.needs_input_grad[0] else None
        maps = _columns(gradient) if gradient is not None else None
        logits, soft = _columns(student), _columns(teacher)
        share = None if weights is None else _columns(weights[:, None])
        if share is None:
            count = torch.full((), float(logits[:, 0].numel()), device=student.device)
        else:
            count = share.sum(dtype=torch.float32).clamp_min(TINY)
        factor = temperature / count  # on the device: nobody waits for it
        ctx.gradient, ctx.factor, ctx.multiply = gradient, factor, Tensor.mul_
        fused = fused_on(student.device)
        if fused and student.shape[1] <= fused.MOST_CLASSES:
            # before the loss is scaled, float16 would lose the gradient of many voxels
            late = student.dtype == torch.float16
            one = torch.ones_like(factor)
            early, ctx.factor = (one, factor) if late else (factor, one)
            total = fused.divergence(logits, soft, share, maps, early, temperature, shares)
            ctx.multiply = fused.scale_
        else:
            total = by_blocks(logits, soft, share, maps, temperature, shares)
        return total * (factor * temperature)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("this divergence has been differentiated before; compute it again")
        return ctx.multiply(gradient, scale * ctx.factor), None, None, None, None


def _columns(maps: Tensor) -> Tensor:
    """View ``[batch, classes, *space]`` as ``[batch, classes, voxels]``, a batch of rows as one."""
    return maps.t()[None] if maps.ndim == 2 else maps.flatten(2)


def _rows(block: Tensor) -> Tensor:
    """Return ``[classes, voxels]`` float32 with a class's voxels side by side, as a kernel is fast.

    Networks that store channels last answer with a voxel's classes side by side.
    """
    block = block.float()
    return block if block.stride(-1) == 1 else block.contiguous()


def _like(student: Tensor) -> Tensor:
    """Make room for a gradient that ``_columns`` can view, in the student's layout if it can be."""
    same = torch.empty_like(student)
    if _columns(same).data_ptr() == same.data_ptr():
        return same
    return torch.empty_like(student, memory_format=torch.contiguous_format)


def _blocks(columns: Tensor) -> list[tuple[int, slice, slice]]:
    """Cut ``[batch, classes, voxels]`` into blocks; a GPU takes an image whole."""
    images, classes, voxels = columns.shape
    width = max(1, BLOCK // classes) if columns.device.type == "cpu" else voxels
    starts = range(0, voxels, max(1, width))
    return [(i, slice(None), slice(s, s + width)) for i in range(images) for s in starts]
