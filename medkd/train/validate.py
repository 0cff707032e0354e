"""Validate: a network's figures on the validation cases, and its temperature."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from medkd.config import Config
from medkd.data.annotated import covered, merged_log
from medkd.data.labels import of_judged_voxels
from medkd.data.samples import Sample
from medkd.metrics.classification import auroc
from medkd.metrics.overlap import dice
from medkd.predict.infer import predict_log_probabilities
from medkd.train.calibrate import fit_on_cases
from medkd.types import UNLABELLED, Task, Temperature


def validation_figures(
    model: nn.Module, samples: Sequence[Sample], config: Config
) -> dict[str, float]:
    """Score a network on validation cases; the first figure is the one that is maximised.

    Segmentation: Dice by structure on the network's grid, averaged over the cases whose label
    covers it, then over structures.
    Classification: AUROC. Both: NLL, averaged over voxels, then cases.
    """
    log_p = [predict_log_probabilities(model, sample.image, config) for sample in samples]
    nll = [
        _nll(merged_log(p, covered(sample.case, config)), sample.label)
        for p, sample in zip(log_p, samples, strict=True)
    ]
    if config.task is Task.CLASSIFICATION:
        probabilities = np.exp(np.stack(log_p))
        labels = np.array([int(sample.label[0]) for sample in samples])
        return {"auroc": auroc(probabilities, labels), "nll": float(np.mean(nll))}
    told = np.array([covered(sample.case, config) for sample in samples])
    per_class = {
        name: _mean_dice(
            [(p, s) for p, s, own in zip(log_p, samples, told, strict=True) if own[index]], index
        )
        for index, name in enumerate(config.classes)
        if index > 0
    }
    mean = float(np.mean(list(per_class.values())))
    by_class = {f"dice/{name}": value for name, value in per_class.items()}
    return {"dice": mean, "nll": float(np.mean(nll)), **by_class}


def fitted_temperature(
    model: nn.Module, samples: Sequence[Sample], config: Config, *, by_class: bool = False
) -> Temperature:
    """Return the temperature that calibrates a network on validation cases, or one a class."""
    said = (predict_log_probabilities(model, sample.image, config) for sample in samples)
    return fit_on_cases(said, samples, config, by_class=by_class)


def _mean_dice(said: Sequence[tuple[np.ndarray, Sample]], index: int) -> float:
    """Return NaN where no label covers the structure."""
    found = [_dice(log_p, sample.label[0], index) for log_p, sample in said]
    return float(np.mean(found)) if found else float("nan")


def _dice(log_p: np.ndarray, label: np.ndarray, index: int) -> float:
    (answer,) = of_judged_voxels(log_p.argmax(axis=0), reference=label)
    return dice(answer == index, label == index)


def _nll(log_p: np.ndarray, label: np.ndarray) -> float:
    judged = label.reshape(log_p.shape[1:]) != UNLABELLED
    index = label.astype(np.int64).reshape(1, *log_p.shape[1:])[:, judged]
    return float(-np.take_along_axis(log_p[:, judged], index, axis=0).mean())
