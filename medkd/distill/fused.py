"""Fused: the divergence of large maps on a GPU, in one kernel.

A GPU is as fast as its memory for such a sum. The kernel reads logits and soft target once, holds a
tile of them in registers, and writes the gradient once. Triton compiles it for the GPU at hand, for
which it needs a C compiler and Python's headers.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from medkd.models.activation import SUREST, TINY

MOST_CLASSES = 1024  # of which a program can hold a tile
TILE = 2048  # values of each tensor that a program holds in registers
SLICE = 4096  # values that a program scales


@triton.jit
@no_type_check
def _divergence_kernel(
    logits,
    soft,
    share,
    shares,
    gradient,
    factor,
    parts,
    temperature,
    classes,
    voxels,
    tiles,
    logits_image,
    logits_class,
    logits_voxel,
    soft_image,
    soft_class,
    soft_voxel,
    share_image,
    share_voxel,
    gradient_image,
    gradient_class,
    gradient_voxel,
    EXCLUSIVE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    DIFFERENTIATED: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    CLASSES: tl.constexpr,
    VOXELS: tl.constexpr,
):
    part = tl.program_id(0)
    image = (part // tiles).to(tl.int64)
    voxel = (part % tiles).to(tl.int64) * VOXELS + tl.arange(0, VOXELS)
    number = tl.arange(0, CLASSES).to(tl.int64)[:, None]
    within = voxel < voxels
    known = (number < classes) & within[None, :]
    place = image * soft_image + number * soft_class + voxel[None, :] * soft_voxel
    p = tl.load(soft + place, mask=known, other=0.5).to(tl.float32)
    place = image * logits_image + number * logits_class + voxel[None, :] * logits_voxel
    z = tl.load(logits + place, mask=known, other=0.0).to(tl.float32) / temperature
    if EXCLUSIVE:
        # ``tl.maximum`` would lose what is no number; at most 0: needs no shift by its maximum
        a = tl.log(tl.where(p < LEAST, LEAST, p)) / temperature
        e = tl.where(known, tl.exp(a), 0.0)
        norm_p = tl.where(within, tl.sum(e, axis=0), 1.0)
        p = e / norm_p[None, :]
        top = tl.max(tl.where(known, z, -float("inf")), axis=0)
        z = tl.where(known, z - top[None, :], -float("inf"))
        e = tl.exp(z)
        norm_q = tl.where(within, tl.sum(e, axis=0), 1.0)
        difference = e / norm_q[None, :] - p
        divergence = tl.sum(p * tl.where(known, a - z, 0.0), axis=0)
        divergence += tl.log(norm_q) - tl.log(norm_p)
    else:
        clamped = tl.where(p < LEAST, LEAST, tl.where(p > MOST, MOST, p))
        a = tl.log(clamped / (1 - clamped)) / temperature
        z = tl.where((p >= MOST) & (z > a), a, z)
        # for softplus and sigmoid; of a small e the sum 1 + e would lose much
        e_a, e_z = tl.exp(-tl.abs(a)), tl.exp(-tl.abs(z))
        log_a = tl.where(e_a < 1e-2, e_a * (1 - e_a * (0.5 - e_a / 3)), tl.log(1 + e_a))
        log_z = tl.where(e_z < 1e-2, e_z * (1 - e_z * (0.5 - e_z / 3)), tl.log(1 + e_z))
        p = tl.where(a < 0, e_a, 1.0) / (1 + e_a)
        q = tl.where(z < 0, e_z, 1.0) / (1 + e_z)
        weight = tl.load(shares + number, mask=number < classes, other=0.0)
        change = tl.maximum(z, 0.0) - tl.maximum(a, 0.0) + (log_z - log_a) + p * (a - z)
        divergence = tl.sum(tl.where(known, change * weight, 0.0), axis=0)
        difference = (q - p) * weight
    if WEIGHTED:
        place = image * share_image + voxel * share_voxel
        weight = tl.load(share + place, mask=within, other=0).to(tl.float32)
        divergence *= weight
        difference *= weight[None, :]
    tl.store(parts + part, tl.sum(tl.where(within, divergence, 0.0), axis=0))
    if DIFFERENTIATED:
        place = image * gradient_image + number * gradient_class + voxel[None, :] * gradient_voxel
        scaled = (difference * tl.load(factor)).to(gradient.dtype.element_ty)
        tl.store(gradient + place, scaled, mask=known)


@triton.jit
@no_type_check
def _scale_kernel(values, factor, count, SIZE: tl.constexpr):
    scale = tl.load(factor)
    if scale != 1.0:
        place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
        value = tl.load(values + place, mask=place < count).to(tl.float32) * scale
        tl.store(values + place, value.to(values.dtype.element_ty), mask=place < count)


def divergence(
    logits: Float[Tensor, "batch classes voxels"],
    soft: Float[Tensor, "batch classes voxels"],
    share: Tensor | None,
    gradient: Float[Tensor, "batch classes voxels"] | None,
    factor: Float[Tensor, ""],
    temperature: float,
    shares: Float[Tensor, " classes"] | None,
) -> Float[Tensor, ""]:
    """Return the sum of the voxels' divergence times their shares; fill in its gradient.

    Args:
        logits: of the student, strided as they like.
        soft: probabilities at temperature 1.
        share: what each voxel counts, ``[batch, 1, voxels]``; 1 if None.
        gradient: made ``factor`` times (tempered student minus tempered teacher), times the share.
        factor: on the GPU, which need not be waited for.
        temperature: both distributions are tempered with it.
        shares: what each class counts, if they are independent; exclusive ones have none.
    """
    images, classes, voxels = logits.shape
    held = triton.next_power_of_2(classes)
    wide = max(16, TILE // held)
    tiles = triton.cdiv(voxels, wide)
    grid = (images * tiles,)
    parts = torch.empty(grid, device=logits.device)
    unused = parts  # a kernel that was compiled without such a tensor does not touch it
    with torch.cuda.device_of(logits):
        _divergence_kernel[grid](
            logits,
            soft,
            unused if share is None else share,
            unused if shares is None else shares,
            unused if gradient is None else gradient,
            factor,
            parts,
            temperature,
            classes,
            voxels,
            tiles,
            *logits.stride(),
            *soft.stride(),
            *((0, 0) if share is None else (share.stride(0), share.stride(2))),
            *((0, 0, 0) if gradient is None else gradient.stride()),
            EXCLUSIVE=shares is None,
            WEIGHTED=share is not None,
            DIFFERENTIATED=gradient is not None,
            LEAST=TINY,
            MOST=SUREST,
            CLASSES=held,
            VOXELS=wide,
            num_warps=min(32, max(4, held * wide // 512)),
        )
    return parts.sum()


def scale_(values: Float[Tensor, "..."], factor: Float[Tensor, ""]) -> Float[Tensor, "..."]:
    """Multiply a tensor without gaps in place; one that is multiplied by 1 is not even read."""
    with torch.cuda.device_of(values):
        grid = (triton.cdiv(values.numel(), SLICE),)
        _scale_kernel[grid](values, factor, values.numel(), SIZE=SLICE)
    return values
