"""Labels: from the values of a label map to indices of classes."""

import numpy as np

from medkd.config import Config
from medkd.types import UNLABELLED


def class_indices(label: np.ndarray, config: Config) -> np.ndarray:
    """Map the values of a label map to indices of ``config.classes``, uint8.

    Voxels of the value ``data.ignore``, which nobody has judged, become ``UNLABELLED``.
    """
    indices = np.searchsorted(np.asarray(config.label_values), label).astype(np.uint8)
    if config.data.ignore is not None:
        indices[label == config.data.ignore] = UNLABELLED
    return indices


def of_judged_voxels(*labels: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Return label maps of class indices that hold nothing where the reference is not judged."""
    judged = reference != UNLABELLED
    if judged.all():
        return list(labels)
    return [np.where(judged, label, 0) for label in labels]
