"""Validate: a network's figures on the validation cases, and its temperature."""

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from medkd.config import Config
from medkd.data.activation import decided
from medkd.data.annotated import covered, covered_questions, merged_log
from medkd.data.labels import of_judged_voxels, structure_masks, without_channel
from medkd.data.samples import Sample
from medkd.metrics.classification import auroc, auroc_of, by_class
from medkd.metrics.overlap import dice
from medkd.predict.infer import predict_logits
from medkd.train.calibrate import fit_on_cases
from medkd.types import UNLABELLED, Activation, Task, Temperature


def validation_figures(
    model: nn.Module, samples: Sequence[Sample], config: Config
) -> dict[str, float]:
    """Score a network on validation cases; the first figure is the one that is maximised.

    Segmentation: Dice by structure on the network's grid, averaged over the cases whose label
    covers it, then over structures.
    Classification: AUROC; of findings the mean over them, each over the cases in which it was
    judged. All: NLL, averaged over voxels, then cases.
    """
    is_segmentation = config.task is Task.SEGMENTATION
    nll, said, found = [], [], []
    for sample in samples:  # those of whole volumes would not fit into memory together
        answer = predict_logits(model, sample.image, config)
        nll.append(_nll(answer, sample, config))
        if is_segmentation:
            found.append(_dice(answer, sample, config))
        else:
            said.append(answer)
    if not is_segmentation:
        if config.data.overlapping:
            return _of_findings(np.stack(said), samples, config) | {"nll": float(np.mean(nll))}
        probabilities = np.exp(np.stack(said))
        labels = np.array([int(sample.label[0]) for sample in samples])
        return {"auroc": auroc(probabilities, labels), "nll": float(np.mean(nll))}
    per_class = {
        name: _mean([own for own in values if not math.isnan(own)])
        for name, values in zip(config.structures, zip(*found, strict=True), strict=True)
    }
    mean = float(np.mean(list(per_class.values())))
    by_class = {f"dice/{name}": value for name, value in per_class.items()}
    return {"dice": mean, "nll": float(np.mean(nll)), **by_class}


def fitted_temperature(
    model: nn.Module, samples: Sequence[Sample], config: Config, *, by_class: bool = False
) -> Temperature:
    """Return the temperature that calibrates a network on validation cases, or one a class."""
    said = (predict_logits(model, sample.image, config) for sample in samples)
    return fit_on_cases(said, samples, config, by_class=by_class)


def _of_findings(logits: np.ndarray, samples: Sequence[Sample], config: Config) -> dict[str, float]:
    labels = np.stack([sample.label for sample in samples])
    each = by_class(auroc_of, logits, labels)
    named = {f"auroc/{name}": float(v) for name, v in zip(config.classes, each, strict=True)}
    return {"auroc": float(each.mean()), **named}


def _mean(values: Sequence[float]) -> float:
    """Return NaN where no label covers the structure."""
    return float(np.mean(values)) if values else math.nan


def _dice(logits: np.ndarray, sample: Sample, config: Config) -> list[float]:
    """Return the Dice of each structure, NaN of those that the label does not cover."""
    truth = without_channel(sample.label, config)
    (answer,) = of_judged_voxels(decided(logits, config.activation), reference=truth)
    masks = (structure_masks(each, config) for each in (answer, truth))
    told = covered_questions(sample.case, config)
    return [
        dice(said, there) if is_told else math.nan
        for said, there, is_told in zip(*masks, told, strict=True)
    ]


def _nll(logits: np.ndarray, sample: Sample, config: Config) -> float:
    label = sample.label
    if config.activation is Activation.SIGMOID:
        judged = label != UNLABELLED
        towards = np.where(label[judged] == 1, logits[judged], -logits[judged])
        return float(np.logaddexp(0, -towards).mean())
    log_p = merged_log(logits, covered(sample.case, config))
    judged = label.reshape(log_p.shape[1:]) != UNLABELLED
    index = label.astype(np.int64).reshape(1, *log_p.shape[1:])[:, judged]
    return float(-np.take_along_axis(log_p[:, judged], index, axis=0).mean())
