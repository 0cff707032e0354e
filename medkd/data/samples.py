"""Samples: preprocessed cases, in memory, or mapped from disk where they are too many for it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from medkd.config import Config, expand
from medkd.data.annotated import as_judged
from medkd.data.labels import class_indices, class_of, structure_masks, without_channel
from medkd.data.preprocess import Grid, preprocess, to_grid
from medkd.data.quality.examine import files_of
from medkd.data.reading import image_of, label_of, options_of
from medkd.data.volumes import VolumeStore
from medkd.environment import memory_bytes
from medkd.progress import progress
from medkd.seeding import derive_seed
from medkd.study import digest, sha256
from medkd.types import UNLABELLED, Case, Task

PLACES_PER_CLASS = 512  # voxels remembered per class and case, to centre patches on
SHARE_OF_MEMORY = 0.5  # the other half belongs to training
PLACES = "places-"  # of one class
SCHEMA = 2  # of what is stored; part of every key


@runtime_checkable
class Sliceable(Protocol):
    """An array that may lie on disk; cutting a patch reads the patch."""

    @property
    def dtype(self) -> np.dtype:
        """Its type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def __getitem__(self, place: Any) -> np.ndarray:  # noqa: ANN401
        """Read a part."""


@dataclass(frozen=True)
class Sample:
    """One preprocessed case.

    Attributes:
        case: where it comes from.
        image: ``[channels, *space]`` float32.
        label: ``[1, *space]`` class index per voxel, or ``[1]`` the class of the image; of
            structures that may overlap ``[structures, *space]``, 0 or 1, and of findings
            ``[findings]``; ``UNLABELLED`` where there is none.
        grid: how it lies in the image's own grid.
        places: of each foreground class that occurs, some of its voxels ``[voxels, dims]``.
        soft: the teacher's log-probabilities ``[classes, *space]`` (or ``[classes]``), or None; of
            structures that may overlap, and of findings, the logarithms of their odds.
        asked: the weights of the teachers that may speak of it while the student trains, or None.
    """

    case: Case
    image: np.ndarray
    label: np.ndarray
    grid: Grid
    places: tuple[np.ndarray, ...] = ()
    soft: Sliceable | None = None
    asked: tuple[float, ...] | None = None


def load_samples(cases: Sequence[Case], config: Config) -> list[Sample]:
    """Read and preprocess cases.

    They are held in memory up to ``data.memory_gib``. From there on all of them are kept on disk
    and mapped: a patch costs the patch, processes share what the system caches, and what was
    preprocessed once is not preprocessed again.
    """
    limit = (config.data.memory_gib or memory_bytes() * SHARE_OF_MEMORY / 2**30) * 2**30
    loading, samples, held = _Loading(config), [], 0
    for case in progress(cases, "preprocess", total=len(cases)):
        sample = loading.stored(case) or _sample(case, config)
        samples.append(sample)
        held += sample.image.nbytes + sample.label.nbytes
        if held > limit:
            samples = [loading.mapped(sample) for sample in samples]
    return samples


class _Loading:
    """What of a study's cases is on disk."""

    def __init__(self, config: Config) -> None:
        self._config = config
        where = config.data.store
        self._store = VolumeStore(
            expand(where, key="data.store") if where else config.folder / "preprocessed"
        )

    def stored(self, case: Case) -> Sample | None:
        """Return a case that was kept, or None."""
        if not self._store.exists or (key := self._key(case)) not in self._store:
            return None
        kept = self._store.read(key)
        places = tuple(np.array(a) for name, a in kept.arrays.items() if name.startswith(PLACES))
        image, label = kept.arrays["image"], kept.arrays["label"]
        return Sample(case, image, label, Grid.from_json(kept.said), places)

    def mapped(self, sample: Sample) -> Sample:
        """Return the same sample, mapped from disk."""
        if isinstance(sample.image, np.memmap):
            return sample
        arrays = {"image": sample.image, "label": sample.label}
        arrays |= {f"{PLACES}{i:05d}": place for i, place in enumerate(sample.places)}
        self._store.write(self._key(sample.case), arrays, said=sample.grid.to_json())
        kept = self.stored(sample.case)
        assert kept is not None
        return replace(sample, image=kept.image, label=kept.label)

    def _key(self, case: Case) -> str:
        labels = list(self._config.data.labels.items())  # some are read by name, some in order
        made_from = [SCHEMA, self._config.preprocess.model_dump(), labels]
        made_from.append(self._config.data.ignore)
        if self._config.data.overlapping:
            made_from.append(["overlapping", self._config.data.includes, case.annotated])
        made_from.append(options_of(case, self._config).model_dump())  # which series of a folder
        if self._config.task is Task.CLASSIFICATION:
            made_from.append(case.label)  # which is in no file
        named = [path for path in (*case.images, case.label) if isinstance(path, Path)]
        return digest(*made_from, *([sha256(file) for file in files_of(path)] for path in named))


def _sample(case: Case, config: Config) -> Sample:
    image, grid = preprocess(image_of(case, config), config.preprocess)
    image = np.ascontiguousarray(image)  # as patches are cut from it
    if config.task is Task.CLASSIFICATION:
        return Sample(case=case, image=image, label=class_of(case, config), grid=grid)
    if case.label is None:
        channels = len(config.structures) if config.data.overlapping else 1
        label = np.full((channels, *image.shape[1:]), UNLABELLED, np.uint8)
        return Sample(case=case, image=image, label=label, grid=grid)
    indices = class_indices(label_of(case, config).array, config)
    if config.data.overlapping:
        indices = as_judged(indices, case, config)
    label = to_grid(indices, grid, order=0)
    label = np.ascontiguousarray(label)
    places = places_of_structures(without_channel(label, config), case.id, config)
    return Sample(case, image, label, grid, places)


def places_of_structures(
    indices: np.ndarray, case_id: str, config: Config
) -> tuple[np.ndarray, ...]:
    """Draw voxels of each structure that is there, of a label with or without overlaps."""
    if not config.data.overlapping:
        return places_in(indices, case_id)
    return _drawn((mask for mask in structure_masks(indices, config) if mask.any()), case_id)


def places_in(label: np.ndarray, case_id: str) -> tuple[np.ndarray, ...]:
    """Draw up to ``PLACES_PER_CLASS`` voxels ``[voxels, dims]`` of each foreground class."""
    there = np.unique(label[(label > 0) & (label != UNLABELLED)])
    return _drawn((label == index for index in there), case_id)


def _drawn(masks: Iterable[np.ndarray], case_id: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(derive_seed(0, "places", case_id))
    return tuple(
        rng.permutation(np.argwhere(mask))[:PLACES_PER_CLASS].astype(np.int32) for mask in masks
    )
