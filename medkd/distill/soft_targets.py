"""Soft targets: the teacher's class probabilities, one compressed array a case, written once.

They are kept as log-probabilities, because a small probability that is rounded away cannot be
tempered back: in 8 bits a class, from 0 to -69 in steps that grow with the root of the distance
from 0. On a DynUNet teacher of two classes that is 0.8 bytes a voxel after compression (3.4 in
float16), and tempered to 4 it diverges from what the teacher said by 1.3e-5 of its entropy; by
2e-5 where one of three classes is sure by 80, of which even steps down to -24 would lose 3 %. A
case that would lose more than ``LOSS_LIMIT`` is kept in float16.

Of structures that may overlap the logarithms of the odds are kept, because the probability that one
is not there must not be rounded away either: from -69 to 69 (a float32 probability knows them up to
17), in steps that grow with the root of the distance from 0 as well.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from medkd.errors import StudyError
from medkd.extras import require
from medkd.types import Activation

FLOOR = -69.0  # natural log of 1e-30, the smallest probability that losses tell from 0
STEPS, ODDS_STEPS = 255, 127
LOSS_LIMIT = 1e-3  # divergence that storing may cause, as a share of the entropy
LOSS_TEMPERATURE = 4.0
CHUNKS = {0: (), 1: (4096,), 2: (128, 128), 3: (32, 32, 32)}  # a patch is read without the volume
ZSTD_LEVEL = 3
KEPT_BYTES = 2**30  # of all soft targets of a study; the images are in memory too
WHOLE = "whole"  # attribute of a key's group: its array
SCHEMA = 6  # of what is stored; part of every key


class SoftTarget:
    """Logits ``[classes, *space]`` (or ``[classes]``) that are read where they are cut.

    Of classes that exclude each other they are log-probabilities.

    ``target[:, 8:40, 8:40, 8:40]`` reads and unpacks the chunks that the patch touches.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, array: Any) -> None:  # noqa: ANN401
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Classes, and the spatial shape of the case on the network's grid."""
        return self._array.shape

    @property
    def nbytes(self) -> int:
        """What it takes in memory, undone the compression."""
        return self._array.nbytes

    def kept(self) -> "SoftTarget":
        """Return the same, read once and held in memory."""
        return SoftTarget(np.asarray(self._array[...]))

    def __getitem__(self, place: Any) -> np.ndarray:  # noqa: ANN401
        codes = np.asarray(self._array[place])
        return decode(codes)


@dataclass(frozen=True)
class SoftTargetStore:
    """A zarr group of soft targets, in a folder or at any address that fsspec opens.

    A soft target is called by the key of all that it was made from, and is there once it is whole:
    what was made from something else has another key, and can not be read by mistake. Studies may
    share a store, and processes write at once: each into an array of its own, which the key names
    once it is whole, so that two that write the same do not disturb each other.
    """

    location: str

    def write(
        self, key: str, logits: np.ndarray, activation: Activation = Activation.SOFTMAX
    ) -> None:
        """Write ``[classes, *space]`` (or ``[classes]``) under ``key``, if it is not there.

        Another study that shares the store may read what is whole, so that is left as it is.

        Args:
            key: of all that they were made from.
            logits: log-probabilities; of structures that may overlap, the logarithms of their odds.
            activation: which of the two.
        """
        if self.holds(key):
            return
        codes, own = encode(logits, activation), secrets.token_hex(4)
        group = self._group("a").require_group(key)
        array = group.create_array(
            own,
            shape=codes.shape,
            dtype=codes.dtype,
            chunks=chunks(codes.shape),
            compressors=require("zarr", extra="train").codecs.ZstdCodec(level=ZSTD_LEVEL),
        )
        array[...] = codes
        group.attrs[WHOLE] = own  # last

    def holds(self, key: str) -> bool:
        """Whether what ``key`` stands for is there, and whole."""
        return _whole(self._group("a"), key) is not None

    def read(self, key: str) -> SoftTarget:
        """Open the soft target of a key.

        Raises:
            StudyError: there is none, or it is unfinished.
        """
        array = _whole(self._reading, key)
        if array is None:
            raise StudyError(
                f"{self.location}: no soft target was made from this teacher, image and "
                f"preprocessing ({key}); run medkd soften"
            )
        return SoftTarget(array)

    @cached_property
    def _reading(self) -> Any:  # noqa: ANN401
        try:
            return self._group("r")
        except FileNotFoundError:
            raise StudyError(
                f"{self.location}: no soft targets there; delete the study's folder soft_targets "
                f"and run medkd soften"
            ) from None

    def _group(self, mode: str) -> Any:  # noqa: ANN401
        # as fsspec's, a folder would have to be there before
        location = self.location.removeprefix("file://")
        return require("zarr", extra="train").open_group(location, mode=mode)


def _whole(store: Any, key: str) -> Any:  # noqa: ANN401
    """Return the array that a key names; None if it names none yet."""
    group = store.get(key)
    if group is None or WHOLE not in group.attrs:
        return None
    return group[group.attrs[WHOLE]]


def within_reach(targets: Mapping[str, SoftTarget]) -> dict[str, SoftTarget]:
    """Keep soft targets in memory if all of them together are small, and on disk otherwise.

    From memory a patch comes twice as fast; on a machine of few cores that is time of the training.
    """
    fits = sum(target.nbytes for target in targets.values()) <= KEPT_BYTES
    return {name: target.kept() if fits else target for name, target in targets.items()}


def encode(logits: np.ndarray, activation: Activation = Activation.SOFTMAX) -> np.ndarray:
    """Return 8-bit codes, or float16 where 8 bits would lose more than ``LOSS_LIMIT``.

    Log-probabilities become uint8, the logarithms of odds int8.
    """
    if activation is Activation.SIGMOID:
        exact = np.clip(logits, FLOOR, -FLOOR).astype(np.float32)
        roots = np.sign(exact) * np.sqrt(np.abs(exact) / -FLOOR)
        codes = np.rint(ODDS_STEPS * roots).astype(np.int8)
    else:
        exact = np.clip(logits, FLOOR, 0).astype(np.float32)
        codes = np.rint(STEPS * np.sqrt(exact / FLOOR)).astype(np.uint8)
    loss = _loss(exact, decode(codes), activation)
    return codes if loss <= LOSS_LIMIT else exact.astype(np.float16)


def decode(codes: np.ndarray) -> np.ndarray:
    """Return what was encoded as float32."""
    values = codes.astype(np.float32)
    if codes.dtype == np.uint8:
        values *= values
        values *= FLOOR / STEPS**2
    elif codes.dtype == np.int8:
        values *= np.abs(values)
        values *= -FLOOR / ODDS_STEPS**2
    return values


def chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return all classes by a block of space no larger than the case.

    Example:
        >>> chunks((3, 20, 300, 64)), chunks((5,))
        ((3, 20, 32, 32), (5,))
    """
    classes, *space = shape
    return (classes, *map(min, space, CHUNKS[len(space)]))


def _loss(exact: np.ndarray, stored: np.ndarray, activation: Activation) -> float:
    """Tempered divergence of what is stored from what was said, over the tempered entropy."""
    exact, stored = exact / LOSS_TEMPERATURE, stored / LOSS_TEMPERATURE
    if activation is Activation.SIGMOID:  # each is one of two: there, and not there
        log_p, log_q = (np.stack([special.log_expit(x) for x in (v, -v)]) for v in (exact, stored))
    else:
        log_p, log_q = (special.log_softmax(x, axis=0) for x in (exact, stored))
    p = np.exp(log_p)
    entropy = -(p * log_p).sum(axis=0).mean()
    return float((p * (log_p - log_q)).sum(axis=0).mean() / max(entropy, 1e-12))
