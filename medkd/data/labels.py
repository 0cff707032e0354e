"""Labels: from what a label file holds to what is learned and scored.

Classes that exclude each other are indices ``[*space]``. Structures that may overlap are
``[structures, *space]``, 0 or 1 each, and so are the findings of an image, ``[findings]``. In all,
``UNLABELLED`` is what nobody has judged.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medkd.config import Config, within
from medkd.data.annotated import as_judged
from medkd.data.memory import pieces, smallest_type
from medkd.errors import DataError
from medkd.types import UNLABELLED, Case, Volume

SHOWN = 8  # undeclared values of a label map; an image in its place has hundreds


def class_indices(label: np.ndarray, config: Config) -> np.ndarray:
    """Map the values of a label map to indices of ``config.classes``, uint8.

    Voxels of the value ``data.ignore``, which nobody has judged, become ``UNLABELLED``. Structures
    that may overlap stay 0 and 1.
    """
    if config.data.overlapping:
        indices = (label == 1).astype(np.uint8)
    else:
        indices = np.searchsorted(np.asarray(config.label_values), label).astype(np.uint8)
    if config.data.ignore is not None:
        indices[label == config.data.ignore] = UNLABELLED
    return indices


def truth_of(label: Volume, case: Case, config: Config) -> np.ndarray:
    """Return what a label says: class indices ``[*space]``, or ``[structures, *space]``.

    Of structures that may overlap, those that the case's label does not cover are unjudged.
    """
    truth = class_indices(without_channel(label.array, config), config)
    return as_judged(truth, case, config) if config.data.overlapping else truth


def class_of(case: Case, config: Config) -> np.ndarray:
    """Return the class of an image ``[1]``, or its findings ``[findings]``, 0 or 1 each.

    ``UNLABELLED`` stands for what nobody has judged.
    """
    if not config.data.overlapping:
        return np.array([UNLABELLED if case.label is None else case.label])
    if not isinstance(case.label, tuple):
        return np.full(len(config.classes), UNLABELLED, np.uint8)
    there = np.array([name in case.label for name in config.classes], np.uint8)
    return as_judged(there, case, config)


def without_channel(label: np.ndarray, config: Config) -> np.ndarray:
    """Return ``[*space]`` of the ``[1, *space]`` of a label map; channels of structures stay."""
    return label if config.data.overlapping else label[0]


def structure_masks(indices: np.ndarray, config: Config) -> Iterator[np.ndarray]:
    """Yield the mask ``[*space]`` of each of ``config.structures``.

    Args:
        indices: ``[*space]``, or ``[structures, *space]`` where they may overlap.
        config: of the study.
    """
    if config.data.overlapping:
        yield from (channel == 1 for channel in indices)
    else:
        yield from (indices == index for index in range(1, len(config.classes)))


def of_judged_voxels(*labels: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Return label maps of class indices that hold nothing where the reference is not judged."""
    judged = reference != UNLABELLED
    if judged.all():
        return list(labels)
    return [np.where(judged, label, 0) for label in labels]


def flattened(indices: np.ndarray, config: Config, *, like: np.ndarray | None = None) -> np.ndarray:
    """Return one number a voxel ``[*space]`` for a picture: that of a structure, from 1; else 0.

    Of structures that overlap the smaller one is drawn over the larger.

    Args:
        indices: as for ``structure_masks``.
        config: of the study.
        like: the label whose sizes decide which is smaller; its own if None.
    """
    if not config.data.overlapping:
        return indices
    sizes = [np.count_nonzero(mask) for mask in structure_masks(_or(like, indices), config)]
    drawn = np.zeros(indices.shape[1:], np.uint8)
    for place in np.argsort(sizes, kind="stable")[::-1]:
        drawn[indices[place] == 1] = place + 1
    return drawn


def _or(like: np.ndarray | None, indices: np.ndarray) -> np.ndarray:
    return indices if like is None else like


def in_channels(label: Volume, config: Config, *, path: Path) -> Volume:
    """Return ``[structures, *space]`` of 0 and 1 (and ``data.ignore``) of a label that was read.

    A label map of one channel holds one value a voxel: a structure is the voxels of its own value
    and of all that ``data.includes`` says lie within it.

    Raises:
        DataError: another number of channels, or values that the config does not declare.
    """
    array, data = label.array, config.data
    is_map = len(array) == 1
    if not is_map and len(array) != len(config.structures):
        raise DataError(
            f"{path}: {len(array)} channels, and data.labels names {len(config.structures)} "
            f"structures ({', '.join(config.structures)}); give a channel of each, by rising value"
        )
    declared = {0, *(config.label_values if is_map else (1,))} | {data.ignore or 0}
    found = {value for part in pieces(array) for value in np.unique(part).tolist()}
    if unknown := sorted(found - declared):
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        known = f"data.labels ({dict(data.labels)})" if is_map else "a channel, 0 or 1"
        raise DataError(
            f"{path}: holds the values {unknown[:SHOWN]}{more}, which are none of {known}; declare "
            f"or correct them"
        )
    if is_map:
        array = np.stack([_of_values(array[0], name, config) for name in config.structures])
    return Volume(array, label.affine, label.remedies, label.frame_uid)


def _of_values(array: np.ndarray, name: str, config: Config) -> np.ndarray:
    data = config.data
    values = [data.labels[each] for each in (name, *within(name, data.includes))]
    mask = np.isin(array, values).astype(smallest_type(0, data.ignore or 1))
    if data.ignore is not None:
        mask[array == data.ignore] = data.ignore
    return mask
