"""Independent: what labels teach of structures that may overlap, Dice and binary cross-entropy.

Of the findings of an image it is the latter alone.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from medkd.types import UNLABELLED, Task

SMOOTH = 1e-5  # voxels; as MONAI's DiceLoss


def independent(
    logits: Tensor,
    batch: Mapping[str, Tensor],
    weights: Tensor | None = None,
    *,
    task: Task = Task.SEGMENTATION,
) -> dict[str, Tensor]:
    """Return the terms of what has been judged; 0 where nothing of the batch has.

    Each structure is a question of its own, and may be judged where others are not. The batch
    counts as one image; Dice is the mean over the structures that are judged anywhere in it.

    Args:
        logits: ``[batch, structures, *space]``, or ``[batch, findings]``.
        batch: ``label``, 0 or 1 in the same shape.
        weights: of each structure in the cross-entropy; Dice gives each the same say anyhow.
        task: of the network.
    """
    judged = batch["label"] != UNLABELLED
    if not judged.any():
        nothing = logits.sum() * 0
        return {"cross_entropy": nothing} | (
            {} if task is Task.CLASSIFICATION else {"dice_loss": nothing}
        )
    share = judged.to(logits.dtype)
    counted = share if weights is None else share * weights.reshape(-1, *[1] * (logits.ndim - 2))
    there = batch["label"].to(logits.dtype) * share
    each = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
    cross_entropy = (each * counted).sum() / counted.sum()
    if task is Task.CLASSIFICATION:
        return {"cross_entropy": cross_entropy}
    space = [0, *range(2, logits.ndim)]
    p = logits.sigmoid() * share
    overlap, total = (p * there).sum(dim=space), (p + there).sum(dim=space)
    dice_loss = 1 - (2 * overlap + SMOOTH) / (total + SMOOTH)
    asked = judged.sum(dim=space) > 0
    return {"dice_loss": dice_loss[asked].mean(), "cross_entropy": cross_entropy}
