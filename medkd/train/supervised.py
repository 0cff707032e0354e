"""Supervised: what labels alone teach, Dice and cross-entropy over all that has one.

A label that covers some structures teaches those: background and what it does not cover count as
one class, whose probability is their sum (marginal loss, Shi et al., Medical Image Analysis 2021).
Their exclusion loss, that a structure which is not covered lies nowhere on one that is, adds
nothing to a softmax, whose cross-entropy says so already.
"""

from collections.abc import Mapping

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from medkd.types import UNLABELLED, Task

Terms = dict[str, Tensor]


def supervised(
    logits: Tensor, batch: Mapping[str, Tensor], task: Task, weights: Tensor | None = None
) -> Terms:
    """Return the terms of what has a label; 0 where nothing of the batch has.

    The batch counts as one image, so its judged voxels do.

    Args:
        logits: ``[batch, classes, *space]``.
        batch: ``label``, class indices or ``UNLABELLED``, and, where some cover only a part,
            ``covered``, ``[batch, classes]`` bool.
        task: of the network.
        weights: of each class in the cross-entropy; Dice gives each structure the same say anyhow.
    """
    label, has_label = batch["label"], batch["label"] != UNLABELLED
    told = batch.get("covered")
    if told is not None:
        logits, told = merged_logits(logits, told), told[has_label.flatten(1).any(dim=1)].any(dim=0)
    if not has_label.all():
        logits, label = logits.movedim(1, -1)[has_label], label[has_label]
        if task is Task.SEGMENTATION:  # [batch, classes, voxels] of one image
            logits, label = logits.T[None], label[None]
    if not label.numel():
        nothing = logits.sum()
        return {"cross_entropy": nothing} | (
            {} if task is Task.CLASSIFICATION else {"dice_loss": nothing}
        )
    cross_entropy = F.cross_entropy(logits, label, weight=weights)
    if task is Task.CLASSIFICATION:
        return {"cross_entropy": cross_entropy}
    # batch=True: a class that is absent from one patch is judged with the others
    dice = DiceLoss(
        softmax=True, to_onehot_y=True, include_background=False, batch=True, reduction="none"
    )
    by_structure = dice(logits, label[:, None]).flatten()
    if told is None:
        return {"dice_loss": by_structure.mean(), "cross_entropy": cross_entropy}
    judged = told[1:].float()  # by any label of the batch; Dice is 1 without a voxel on either side
    mean = (by_structure * judged).sum() / judged.sum()
    return {"dice_loss": mean, "cross_entropy": cross_entropy}


def merged_logits(logits: Tensor, covered: Tensor) -> Tensor:
    """Return logits in each label's terms: what it does not cover is added to the background.

    Their softmax sums those probabilities: it has no gradient by which one of them would grow at
    the cost of another.
    """
    told = covered.reshape(*covered.shape, *[1] * (logits.ndim - 2))
    open_ = ~told
    open_[:, 0] = True
    background = logits.masked_fill(~open_, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(~told[:, 1:], -torch.inf)], dim=1)
