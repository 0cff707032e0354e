"""Attention: where the features are large, whatever channel they are in."""

from jaxtyping import Bool, Float
from torch import Tensor

from medkd.distill.features import on_grid, resize
from medkd.models.activation import TINY


def attention(
    student: Float[Tensor, " batch channels *space"],
    teacher: Float[Tensor, " batch teacher_channels *teacher_space"],
    weights: Bool[Tensor, " batch *voxels"] | Float[Tensor, " batch *voxels"] | None = None,
    *,
    power: float | int = 2,
) -> dict[str, Float[Tensor, ""]]:
    """Attention transfer: squared distance of the two maps' directions, averaged over the batch.

    A map is the mean of ``|features|^power`` over channels, brought to the student's grid and to
    length 1 (Zagoruyko, Komodakis 2017, arXiv 1612.03928). The *sum* over space lies between 0 and
    2 on any grid; the mean, which other implementations use, shrinks with the number of voxels, so
    that a weight tuned on 8 x 8 maps vanishes on a volume.

    Args:
        student: features of a layer.
        teacher: features of a layer, of any number of channels and any grid.
        weights: how much each voxel counts, on any grid.
        power: above 1 it looks at the peaks.

    Raises:
        ValueError: there is no space, or a power below 1, which has no gradient where a feature
            is 0.
    """
    if power < 1:
        raise ValueError(f"attention: power must be 1 or more, got {power}")
    if student.ndim < 3:
        raise ValueError("attention compares places; classification has none")
    q, p = (maps.float().abs().pow(power).mean(dim=1, keepdim=True) for maps in (student, teacher))
    share = 1.0 if weights is None else on_grid(weights, q)[:, None]
    q, p = _unit(q * share), _unit(resize(p, q.shape[2:]) * share)
    return {"attention": (q - p).square().sum(dim=1).mean()}


def _unit(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(TINY)
