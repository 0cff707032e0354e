"""Loaders: batches of augmented patches; batch n is a function of the seed and n alone."""

import signal
import sys
from collections.abc import Generator, Sequence
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medkd.config import Config
from medkd.data.activation import decided, sigmoid
from medkd.data.annotated import covered
from medkd.data.augment import Patch, augmentation
from medkd.data.samples import Sample, Sliceable, places_of_structures
from medkd.options import TrainOptions
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED

AHEAD = 4  # batches made before they are asked for, or one a worker: they take shared memory
SMALLEST = 1e-30  # a probability of 0 has no logarithm; one that is only small keeps its own


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Patches by number: patch i of a seed is always the same, in any process and order.

    Each epoch visits every case once, in an order of its own.
    """

    def __init__(self, samples: Sequence[Sample], config: Config, *, options: TrainOptions) -> None:
        self._samples = samples
        self._config = config
        self._options = options
        soft = any(sample.soft is not None for sample in samples)
        self._augment = augmentation(
            config.augment, config.preprocess, soft=soft, exclusive=not config.data.overlapping
        )
        told = np.array([covered(sample.case, config) for sample in samples])
        is_told = told.all() or config.data.overlapping  # whose labels say it voxel by voxel
        self._covered = None if is_told else torch.from_numpy(told)
        self._places = [sample.places or _places_of_soft(sample, config) for sample in samples]

    def __len__(self) -> int:
        return self._options.steps * self._options.batch

    def indices_of(self, step: int) -> range:
        """Return the numbers of the patches that make the batch of a step."""
        return range(step * self._options.batch, (step + 1) * self._options.batch)

    def case_of(self, index: int) -> str:
        """Return the id of the case that a patch is cut from."""
        return self._samples[self._which(index)].case.id

    def _which(self, index: int) -> int:
        epoch, position = divmod(index, len(self._samples))
        order = np.random.default_rng(derive_seed(self._config.study.seed, "epoch", epoch))
        return int(order.permutation(len(self._samples))[position])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        seed, which = self._config.study.seed, self._which(index)
        rng = np.random.default_rng(derive_seed(seed, "patch", index))
        patch = self._patch(which, rng)
        is_map = self._samples[which].label.ndim > 1
        if not is_map:
            label, soft = patch.pop("label"), patch.pop("soft", None)
        patch = self._augment(patch, derive_seed(seed, "augment", index))
        if not is_map:
            patch |= {"label": label} | ({} if soft is None else {"soft": soft})
        tensors = _tensors(patch, overlapping=self._config.data.overlapping)
        asked = self._samples[which].asked
        if asked is not None:
            tensors["asked"] = torch.tensor(asked)
        if self._covered is not None:
            tensors["covered"] = self._covered[which]
        return tensors

    def _patch(self, which: int, rng: np.random.Generator) -> Patch:
        sample, window = self._samples[which], self._config.preprocess.window
        start = self._start(which, rng)
        shape = sample.image.shape[1:]
        patch = {"image": _crop(sample.image, start, window)}
        patch["valid"] = _crop(np.ones((1, *shape), np.uint8), start, window)
        is_map = sample.label.ndim > 1
        patch["label"] = _crop(sample.label, start, window) if is_map else sample.label
        if sample.soft is not None:
            patch["soft"] = self._soft(sample.soft, start) if is_map else self._said(sample.soft[:])
        return patch

    def _soft(self, soft: Sliceable, start: Sequence[int]) -> np.ndarray:
        """Cut probabilities; what lies outside is surely background."""
        window, overlapping = self._config.preprocess.window, self._config.data.overlapping
        cut = _crop(soft, start, window, outside=-np.inf, first=None if overlapping else 0.0)
        return self._said(cut)

    def _said(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits) if self._config.data.overlapping else np.exp(logits)

    def _start(self, which: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Corner of the patch; negative where the image is smaller than the window."""
        window = np.array(self._config.preprocess.window)
        room = np.array(self._samples[which].image.shape[1:]) - window
        centre = rng.random(len(window)) * room
        places = self._places[which]
        if places and rng.random() < self._options.foreground:
            of_class = places[rng.integers(len(places))]
            centre = of_class[rng.integers(len(of_class))] - window // 2
        centred = -(-room // 2)  # a small image lies in the middle, as the sliding window pads it
        start = np.where(room > 0, np.clip(np.rint(centre), 0, np.maximum(room, 0)), centred)
        return tuple(int(v) for v in start)


def batches(
    dataset: PatchDataset,
    *,
    options: TrainOptions,
    first_step: int,
    share: slice = slice(None),
    workers: int,
) -> Generator[dict[str, torch.Tensor]]:
    """Yield the batches from ``first_step`` on, or a share of each; ``[batch, channels, *space]``.

    They are made by as many ``workers``, or by this process, and are the same however many; who
    closes the generator ends the workers.
    ``image`` float32, ``label`` int64 without the channel axis (uint8 with one of structures where
    they may overlap, or of findings), ``valid`` bool without it; where the samples have them,
    ``soft``, the teacher's probabilities, and ``asked``, ``[batch, teachers]``; where labels cover
    some structures only, ``covered``, ``[batch, classes]`` bool.
    """
    steps = [list(dataset.indices_of(step)[share]) for step in range(first_step, options.steps)]
    loader = DataLoader(
        dataset,
        batch_sampler=steps,
        num_workers=workers,
        prefetch_factor=-(-AHEAD // workers) if workers else None,
        worker_init_fn=_begin_worker,
    )
    yield from loader


def _begin_worker(worker: int) -> None:
    del worker
    torch.set_num_threads(1)  # the other cores belong to the training step
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the trainer decides,
        signal.signal(number, signal.SIG_IGN)  # and would die of a worker that went first
    sys.excepthook = _say_unless_left_alone


def _say_unless_left_alone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what goes wrong in a worker, but not that the trainer left in the midst of a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _tensors(patch: Patch, *, overlapping: bool) -> dict[str, torch.Tensor]:
    tensors = {
        "image": torch.from_numpy(np.ascontiguousarray(patch["image"], dtype=np.float32)),
        "label": _label(patch["label"], overlapping=overlapping),
        "valid": torch.from_numpy(np.ascontiguousarray(patch["valid"][0] > 0)),
    }
    if "soft" in patch:
        soft = np.clip(np.ascontiguousarray(patch["soft"], dtype=np.float32), SMALLEST, 1)
        tensors["soft"] = torch.from_numpy(
            soft if overlapping else soft / soft.sum(axis=0, keepdims=True)
        )
    return tensors


def _label(label: np.ndarray, *, overlapping: bool) -> torch.Tensor:
    if overlapping:
        return torch.from_numpy(label.astype(np.uint8, order="C")).clone()
    if label.ndim > 1:
        return torch.from_numpy(label[0].astype(np.int64, order="C")).clone()
    return torch.tensor(int(label[0]))


def _crop(
    array: Sliceable,
    start: Sequence[int],
    window: Sequence[int],
    *,
    outside: float = 0,
    first: float | None = None,
) -> np.ndarray:
    """Cut ``window`` from ``[channels, *space]`` at ``start``.

    What lies outside is padded; ``first`` pads the first channel, ``outside`` the others.
    """
    lows = [max(s, 0) for s in start]
    highs = [min(s + w, n) for s, w, n in zip(start, window, array.shape[1:], strict=True)]
    cut = array[(slice(None), *map(slice, lows, highs))]
    if cut.shape[1:] == tuple(window):  # a tensor may not lie on what is mapped read only
        return cut if cut.flags.writeable else cut.copy()
    padded = np.full((array.shape[0], *window), outside, dtype=array.dtype)
    if first is not None:
        padded[0] = first
    inside = [slice(lo - s, hi - s) for lo, hi, s in zip(lows, highs, start, strict=True)]
    padded[(slice(None), *inside)] = cut
    return padded


def _places_of_soft(sample: Sample, config: Config) -> tuple[np.ndarray, ...]:
    """Where there is no label, the teacher's answer says what occurs."""
    if sample.label.ndim == 1 or sample.soft is None or (sample.label != UNLABELLED).any():
        return ()
    answer = decided(sample.soft[...], config.activation)
    return places_of_structures(answer, sample.case.id, config)
