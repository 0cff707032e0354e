"""Infer: a torch network over a whole image, by sliding window."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from medkd.config import Config
from medkd.distill.teacher import flips
from medkd.models.activation import TINY
from medkd.models.memory import remedy_for_memory
from medkd.types import Activation, Task

WINDOWS_AT_ONCE = 2


@torch.no_grad()
def predict_logits(
    model: nn.Module, image: np.ndarray, config: Config, *, flip_axes: Sequence[int] = ()
) -> np.ndarray:
    """Return log-probabilities ``[classes, *space]``, or ``[classes]`` for classification.

    Of structures that may overlap, and of findings, they are the logarithms of the odds.

    Args:
        model: in evaluation mode, on its device.
        image: ``[channels, *space]``, preprocessed.
        config: for task, window and overlap.
        flip_axes: average the probabilities over all combinations of these flips.
    """
    device = next(model.parameters(), torch.empty(0)).device  # an ONNX file has no parameters
    batch = torch.from_numpy(image)[None].to(device)
    place = f"an image of {' x '.join(map(str, image.shape[1:]))} at preprocess.spacing_mm"
    with remedy_for_memory(place, "lower preprocess.window or name fewer teacher.flip_axes"):
        views = [_view(model, batch, config, axes) for axes in flips(flip_axes)]
        mean = views[0] if len(views) == 1 else _mean(torch.stack(views), config.activation)
    return mean[0].cpu().numpy()


def _mean(views: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Return the logits of the mean probability."""
    if activation is Activation.SOFTMAX:
        return views.exp().mean(dim=0).log()
    there, not_there = (logits.sigmoid().mean(dim=0).clamp_min(TINY) for logits in (views, -views))
    return there.log() - not_there.log()


def _view(
    model: nn.Module, batch: torch.Tensor, config: Config, flip_axes: Sequence[int]
) -> torch.Tensor:
    axes = [axis + 2 for axis in flip_axes]
    if config.task is Task.CLASSIFICATION:
        logits = model(batch.flip(axes)).float()
        return logits.log_softmax(dim=1) if config.activation is Activation.SOFTMAX else logits
    logits = sliding_window_inference(
        batch.flip(axes),
        roi_size=config.preprocess.window,
        sw_batch_size=WINDOWS_AT_ONCE,
        predictor=model,
        overlap=config.preprocess.overlap,
        mode="gaussian",
    )
    assert isinstance(logits, torch.Tensor)
    if config.activation is Activation.SOFTMAX:
        logits = logits.float().log_softmax(dim=1)
    return logits.float().flip(axes)
