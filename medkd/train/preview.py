"""Preview: what a network answers for one validation case, as training goes on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from medkd.config import Config
from medkd.data.activation import decided
from medkd.data.labels import flattened, without_channel
from medkd.data.quality.thumbnail import slice_of, thumbnail
from medkd.data.samples import Sample
from medkd.options import TrainOptions
from medkd.predict.infer import predict_logits
from medkd.types import UNLABELLED

PREVIEWS = 20  # of a training, however often it validates
EDGE, GAP = 512, 2  # pixels of the longer side, and voxels between reference and answer


def is_shown(step: int, options: TrainOptions) -> bool:
    """Whether the validation after so many steps is one of those that draw a picture."""
    validations = -(-options.steps // options.validate_every)
    every = options.validate_every * -(-validations // PREVIEWS)
    return step % every == 0 or step == options.steps


def draw_preview(path: Path, model: nn.Module, samples: Sequence[Sample], config: Config) -> None:
    """Write a PNG of one validation case: outlines of the reference left, of the answer right.

    It is the case with the most foreground, the same at every step, on the network's grid.
    """
    sample = max(samples, key=lambda s: np.count_nonzero(_reference(s, config)))
    reference = _reference(sample, config)
    answer = decided(predict_logits(model, sample.image, config), config.activation)
    truth = without_channel(np.asarray(sample.label), config)
    answer = flattened(answer, config, like=truth)
    image = np.asarray(sample.image)
    if reference.ndim == 3:
        at = [slice_of(image, reference)]
        image, reference, answer = image[..., at], reference[..., at], answer[..., at]
    # across the picture: the second axis of pixels [rows, columns], the first of a volume
    across = 0 if reference.ndim == 3 else 1
    gap = [(0, GAP) if axis == across else (0, 0) for axis in range(reference.ndim)]
    left = np.pad(image, [(0, 0), *gap], constant_values=image.min())
    both = np.concatenate([left, image], axis=across + 1)
    masks = np.concatenate([np.pad(reference, gap), answer], axis=across)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    thumbnail(both, masks, edge=EDGE).save(temporary, format="PNG")
    temporary.replace(path)


def _reference(sample: Sample, config: Config) -> np.ndarray:
    label = flattened(without_channel(np.asarray(sample.label), config), config)
    return np.where(label == UNLABELLED, 0, label)
