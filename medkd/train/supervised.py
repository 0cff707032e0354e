"""Supervised: what labels alone teach, Dice and cross-entropy over all that has one."""

from collections.abc import Mapping

from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from medkd.types import UNLABELLED, Task

Terms = dict[str, Tensor]


def supervised(logits: Tensor, batch: Mapping[str, Tensor], task: Task) -> Terms:
    """Return the terms of what has a label; 0 where nothing of the batch has.

    The batch counts as one image, so its judged voxels do.
    """
    label, has_label = batch["label"], batch["label"] != UNLABELLED
    if not has_label.all():
        logits, label = logits.movedim(1, -1)[has_label], label[has_label]
        if task is Task.SEGMENTATION:  # [batch, classes, voxels] of one image
            logits, label = logits.T[None], label[None]
    if not label.numel():
        nothing = logits.sum()
        return {"cross_entropy": nothing} | (
            {} if task is Task.CLASSIFICATION else {"dice_loss": nothing}
        )
    cross_entropy = F.cross_entropy(logits, label)
    if task is Task.CLASSIFICATION:
        return {"cross_entropy": cross_entropy}
    # batch=True: a class that is absent from one patch is judged with the others
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return {"dice_loss": dice(logits, label[:, None]), "cross_entropy": cross_entropy}
