"""Distributed: one study, several processes that train together under ``torchrun``.

The first process runs the whole study. The others wait until it begins to train a network, train
with it, each on its share of every batch, and wait again. Nothing but training is shared, so
everything else is written once and read as if there were one process.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from medkd.environment import cores

_jobs: list[Mapping[str, Any]] = []  # what the first process has announced and not yet finished
MOST_WORKERS = 12  # that load for one process; more are seldom faster and each takes memory
PATIENCE = timedelta(days=30)  # the others wait for as long as the rest of the study takes


def rank() -> int:
    """Return the number of this process; 0 runs the study."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together() -> Iterator[None]:
    """Connect the processes; when the first one leaves between jobs, it sends the others home.

    When it fails in the midst of a job, ``torchrun`` ends them.
    """
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        if rank() == 0 and not _jobs:
            _tell(None)
        if not _jobs:
            dist.destroy_process_group()


@contextmanager
def shared(job: Mapping[str, Any]) -> Iterator[None]:
    """Have the other processes take part in a job while the block runs."""
    if world_size() > 1 and rank() == 0:
        _tell(job)
        _jobs.append(job)
    yield
    _jobs.clear()


def follow(take_part: Callable[[dict[str, Any]], None]) -> None:
    """Wait for jobs and take part in each, until the first process has no more."""
    while (job := _heard()) is not None:
        take_part(job)


def mean(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each value's mean over the processes; NaN and infinity spread to all."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    average(stacked)
    return dict(zip(values, stacked.tolist(), strict=True))


def average(tensor: Tensor) -> None:
    """Replace a tensor by its mean over the processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= world_size()


def agreed(decision: bool) -> bool:
    """Return what the first process decides."""
    if world_size() == 1:
        return decision
    told = torch.tensor(int(decision))
    dist.broadcast(told, src=0)
    return bool(told)


def share(batch: int) -> slice:
    """Return this process's part of a batch.

    Example:
        >>> share(4)
        slice(0, 4, None)
    """
    size = batch // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def workers(asked: int | None) -> int:
    """Return how many processes load patches for this one, as asked or by the machine.

    Where the CPU trains too it is one, and beside a GPU this process's share of the cores but one,
    at most ``MOST_WORKERS``.
    """
    if asked is not None:
        return asked
    if not torch.accelerator.is_available():
        return 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    share = min(cores(), (os.cpu_count() or 1) // here)  # who is pinned has only its own anyway
    return min(MOST_WORKERS, max(1, share - 1))


def _tell(job: Mapping[str, Any] | None) -> None:
    text = torch.frombuffer(bytearray(json.dumps(job).encode()), dtype=torch.uint8)
    dist.broadcast(torch.tensor(len(text)), src=0)
    dist.broadcast(text, src=0)


def _heard() -> dict[str, Any] | None:
    length = torch.tensor(0)
    dist.broadcast(length, src=0)
    text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    return json.loads(bytes(text.tolist()))
