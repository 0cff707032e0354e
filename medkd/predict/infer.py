"""Infer: a torch network over a whole image, by sliding window."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from medkd.config import Config
from medkd.types import Task

WINDOWS_AT_ONCE = 2


@torch.no_grad()
def predict_log_probabilities(
    model: nn.Module, image: np.ndarray, config: Config, *, flip_axes: Sequence[int] = ()
) -> np.ndarray:
    """Return log-probabilities ``[classes, *space]``, or ``[classes]`` for classification.

    Args:
        model: in evaluation mode, on its device.
        image: ``[channels, *space]``, preprocessed.
        config: for task, window and overlap.
        flip_axes: average the probabilities over all combinations of these flips.
    """
    device = next(model.parameters()).device
    batch = torch.from_numpy(image)[None].to(device)
    flips = list(chain.from_iterable(combinations(flip_axes, n) for n in range(len(flip_axes) + 1)))
    views = [_view(model, batch, config, axes) for axes in flips]
    log_p = views[0] if len(views) == 1 else torch.stack(views).exp().mean(dim=0).log()
    return log_p[0].cpu().numpy()


def _view(
    model: nn.Module, batch: torch.Tensor, config: Config, flip_axes: Sequence[int]
) -> torch.Tensor:
    axes = [axis + 2 for axis in flip_axes]
    if config.task is Task.CLASSIFICATION:
        return torch.log_softmax(model(batch.flip(axes)).float(), dim=1)
    logits = sliding_window_inference(
        batch.flip(axes),
        roi_size=config.preprocess.window,
        sw_batch_size=WINDOWS_AT_ONCE,
        predictor=model,
        overlap=config.preprocess.overlap,
        mode="gaussian",
    )
    assert isinstance(logits, torch.Tensor)
    return torch.log_softmax(logits.float(), dim=1).flip(axes)
