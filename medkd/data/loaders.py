"""Loaders: batches of augmented patches; batch n is a function of the seed and n alone.

Other processes cut the patches. They augment them too, or that is done batch by batch on the device
that trains: there it is faster where a GPU trains faster than the processes change large volumes.
"""

import math
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from medkd.config import Config
from medkd.data.activation import TINY, decided, sigmoid
from medkd.data.annotated import covered, covered_questions
from medkd.data.augment import CPU, INTERPOLATION, Augment, augmentation
from medkd.data.samples import Sample, Sliceable, places_of_structures
from medkd.options import TrainOptions
from medkd.progress import console
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED

AHEAD = 4  # batches made before they are asked for, or one a worker: they take shared memory
SETTLED, TRIED = 8, 32  # batches: the first are not counted, after so many it is decided
SAMPLE = 8  # batches that a device augments before that: what is drawn for one may cost little
FAST = ("cuda",)  # devices that may augment volumes faster than workers
Batch = dict[str, Tensor]


class PatchDataset(Dataset[Batch]):
    """Patches by number: patch i of a seed is always the same, in any process and order.

    Each epoch visits every case once, in an order of its own.
    """

    def __init__(self, samples: Sequence[Sample], config: Config, *, options: TrainOptions) -> None:
        self._samples = samples
        self._config = config
        self._options = options
        self._augments = {CPU: self._augment_on(CPU)}
        # the order of the epoch last asked for
        self._epoch, self._order = -1, np.empty(0, np.int64)
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
        if epoch != self._epoch:
            rng = np.random.default_rng(derive_seed(self._config.study.seed, "epoch", epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._samples))
        return int(self._order[position])

    def __getitem__(self, index: int) -> Batch:
        return self.augmented(self.cut(index), index)

    def cut(self, index: int) -> Batch:
        """Return a patch as it lies in its case: each map ``[channels, *space]``."""
        which, seed = self._which(index), self._config.study.seed
        sample, window = self._samples[which], self._config.preprocess.window
        start = self._start(which, np.random.default_rng(derive_seed(seed, "patch", index)))
        is_map = sample.label.ndim > 1
        arrays = {
            "image": _crop(sample.image, start, window),
            "valid": _within(sample.image.shape[1:], start, window),
            "label": self._label(sample, start) if is_map else np.array(sample.label),
        }
        if sample.soft is not None:
            soft = self._soft(sample.soft, start) if is_map else self._said(sample.soft[:])
            arrays["soft"] = soft.astype(np.float32, copy=False)
        patch = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
        if sample.asked is not None:
            patch["asked"] = torch.tensor(sample.asked)
        if self._covered is not None:
            patch["covered"] = self._covered[which]
        return patch

    def augmented(self, patch: Batch, index: int) -> Batch:
        """Return what the networks see of patch ``index``, which was cut and may be on any device.

        Its soft target is overwritten.
        """
        image = patch["image"]
        if image.device not in self._augments:
            self._augments[image.device] = self._augment_on(image.device)
        maps = {key: patch[key] for key in INTERPOLATION if key in patch}
        maps = {key: value for key, value in maps.items() if value.ndim == image.ndim}
        seed = derive_seed(self._config.study.seed, "augment", index)
        patch = patch | self._augments[image.device](maps, seed)
        return _finished(patch, overlapping=self._config.data.overlapping)

    def _augment_on(self, device: torch.device) -> Augment:
        return augmentation(
            self._config.augment,
            self._config.preprocess,
            soft=any(sample.soft is not None for sample in self._samples),
            device=device,
        )

    def is_tried_on(self, device: torch.device) -> bool:
        """Whether it is measured if ``device`` augments faster than workers; images it cannot."""
        is_left_open = self._options.augment_on == "auto" and device.type in FAST
        return is_left_open and self._config.dims == 3

    def _label(self, sample: Sample, start: Sequence[int]) -> np.ndarray:
        """Cut a label; what lies outside is background, for whom the label tells anything."""
        told = np.full(len(sample.label), sample.case.label is not None)
        if self._config.data.overlapping:
            told &= covered_questions(sample.case, self._config)
        outside = np.where(told, 0, UNLABELLED)
        return _crop(sample.label, start, self._config.preprocess.window, outside=outside)

    def _soft(self, soft: Sliceable, start: Sequence[int]) -> np.ndarray:
        """Cut probabilities; what lies outside is surely background."""
        window, overlapping = self._config.preprocess.window, self._config.data.overlapping
        outside = np.full(soft.shape[0], -np.inf)
        if not overlapping:
            outside[0] = 0
        return self._said(_crop(soft, start, window, outside=outside))

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


class _Cuts(Dataset[Batch]):
    """The same patches, as they were cut."""

    def __init__(self, patches: PatchDataset) -> None:
        self._patches = patches

    def __getitem__(self, index: int) -> Batch:
        return self._patches.cut(index)


def batches(
    dataset: PatchDataset,
    *,
    options: TrainOptions,
    first_step: int,
    share: slice = slice(None),
    workers: int,
    device: torch.device = CPU,
) -> Generator[Batch]:
    """Yield the batches from ``first_step`` on, or a share of each; ``[batch, channels, *space]``.

    They are made by as many ``workers``, or by this process, and are the same however many; who
    closes the generator ends the workers. On ``device``, which trains, they are the same but for
    rounding.
    ``image`` float32, ``label`` int64 without the channel axis (uint8 with one of structures where
    they may overlap, or of findings), ``valid`` bool without it; where the samples have them,
    ``soft``, the teacher's probabilities, and ``asked``, ``[batch, teachers]``; where labels cover
    some structures only, ``covered``, ``[batch, classes]`` bool.
    """
    steps = [list(dataset.indices_of(step)[share]) for step in range(first_step, options.steps)]
    if options.augment_on != "device":
        tried = device if dataset.is_tried_on(device) else None
        with closing(_loaded(dataset, steps, workers)) as loaded:
            done = yield from _while_they_keep_pace(loaded, dataset, steps, tried)
        steps = steps[done:]
    if steps:
        with closing(_loaded(_Cuts(dataset), steps, workers)) as cuts:
            for indices, cut in zip(steps, cuts, strict=True):
                yield _augmented(dataset, cut, indices, device)


def _loaded(patches: Dataset[Batch], steps: list[list[int]], workers: int) -> Generator[Batch]:
    yield from DataLoader(
        patches,
        batch_sampler=steps,
        num_workers=workers,
        prefetch_factor=-(-AHEAD // workers) if workers else None,
        worker_init_fn=_begin_worker,
    )


def _while_they_keep_pace(
    loaded: Iterator[Batch],
    dataset: PatchDataset,
    steps: list[list[int]],
    device: torch.device | None,
) -> Generator[Batch, None, int]:
    """Yield what the workers augment; return after how many batches a device would be faster.

    It is where it would take less time than the training waits for the workers.
    """
    waited_s, before = 0.0, time.perf_counter()
    for number, batch in enumerate(loaded, start=1):
        waited_s += time.perf_counter() - before if number > SETTLED else 0
        yield batch
        if device is not None and number == TRIED < len(steps):
            waited_ms = 1000 * waited_s / (TRIED - SETTLED)
            there_ms = _augmenting_ms(dataset, steps[number - SAMPLE : number], device)
            if there_ms < waited_ms:
                console.print(
                    f"augments on the device from here on: it takes {there_ms:.0f} ms a batch, and "
                    f"the training waited {waited_ms:.0f} ms for its workers"
                )
                return number
        before = time.perf_counter()
    return len(steps)


def _augmenting_ms(dataset: PatchDataset, steps: list[list[int]], device: torch.device) -> float:
    """Return how long a device takes to augment a batch; for ever, if its memory is too small."""
    spent_s = 0.0
    try:
        for number, indices in enumerate([steps[0], *steps]):
            cut = default_collate([dataset.cut(index) for index in indices])
            _settle(device)
            before = time.perf_counter()
            _augmented(dataset, cut, indices, device)
            _settle(device)
            spent_s += time.perf_counter() - before if number else 0  # the first one loads code
    except torch.OutOfMemoryError:
        return math.inf
    return 1000 * spent_s / len(steps)


def _settle(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _augmented(
    dataset: PatchDataset, cut: Batch, indices: list[int], device: torch.device
) -> Batch:
    there = {key: value.to(device) for key, value in cut.items()}
    return default_collate(
        [
            dataset.augmented({key: value[place] for key, value in there.items()}, index)
            for place, index in enumerate(indices)
        ]
    )


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


def _finished(patch: Batch, *, overlapping: bool) -> Batch:
    label, kind = patch["label"], torch.uint8 if overlapping else torch.int64
    own = (label if overlapping else label[0]).to(kind, copy=True)  # not the case's
    patch |= {"label": own, "valid": patch["valid"][0] > 0}
    if "soft" in patch:
        soft = patch["soft"].clamp_(TINY, 1)
        patch["soft"] = soft if overlapping else soft.div_(soft.sum(dim=0, keepdim=True))
    return patch


def _crop(
    array: Sliceable,
    start: Sequence[int],
    window: Sequence[int],
    *,
    outside: np.ndarray | float = 0,
) -> np.ndarray:
    """Cut ``window`` from ``[channels, *space]``; ``outside``, of each channel, pads."""
    there, inside = _overlap(array.shape[1:], start, window)
    cut = array[(slice(None), *there)]
    if cut.shape[1:] == tuple(window):  # a tensor may not lie on what is mapped read only
        return cut if cut.flags.writeable else cut.copy()
    padded = np.empty((array.shape[0], *window), dtype=array.dtype)
    padded[:] = np.reshape(outside, (-1, *[1] * len(window)))
    padded[(slice(None), *inside)] = cut
    return padded


def _within(shape: Sequence[int], start: Sequence[int], window: Sequence[int]) -> np.ndarray:
    """Return ``[1, *window]``, 1 where it lies in an image of ``shape``."""
    valid = np.zeros((1, *window), np.uint8)
    valid[(slice(None), *_overlap(shape, start, window)[1])] = 1
    return valid


def _overlap(
    shape: Sequence[int], start: Sequence[int], window: Sequence[int]
) -> tuple[list[slice], list[slice]]:
    """Return where an image and a window at ``start`` meet: in the one, and in the other."""
    lows = [max(s, 0) for s in start]
    highs = [min(s + w, n) for s, w, n in zip(start, window, shape, strict=True)]
    inside = [slice(lo - s, hi - s) for lo, hi, s in zip(lows, highs, start, strict=True)]
    return list(map(slice, lows, highs)), inside


def _places_of_soft(sample: Sample, config: Config) -> tuple[np.ndarray, ...]:
    """Where there is no label, the teacher's answer says what occurs."""
    if sample.label.ndim == 1 or sample.soft is None or (sample.label != UNLABELLED).any():
        return ()
    answer = decided(sample.soft[...], config.activation)
    return places_of_structures(answer, sample.case.id, config)
