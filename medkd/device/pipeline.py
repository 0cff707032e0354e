"""Pipeline: the next image is read and the last answer written while the network works."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")
A = TypeVar("A")

AHEAD = 1  # images in memory beside the one at work, on either side


def pipelined(
    items: Iterable[T],
    *,
    read: Callable[[T], R],
    work: Callable[[T, R], W],
    write: Callable[[T, W], A],
) -> Generator[tuple[T, "Future[A]"], None, None]:
    """Yield each item with its outcome, in order; one that fails stops no other.

    Args:
        items: are taken as they are needed.
        read: runs in a thread of its own.
        work: runs in the caller's thread.
        write: runs in a third thread.
    """
    rest = iter(items)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reads = deque((item, reader.submit(read, item)) for item in islice(rest, AHEAD))
        writes: deque[tuple[T, Future[A]]] = deque()
        while reads:
            item, loaded = reads.popleft()
            reads.extend((each, reader.submit(read, each)) for each in islice(rest, AHEAD))
            writes.append((item, _then(item, loaded, work, write, writer)))
            del loaded
            while len(writes) > AHEAD:
                yield _settled(*writes.popleft())
        for item, outcome in writes:
            yield _settled(item, outcome)


def _then(
    item: T,
    loaded: "Future[R]",
    work: Callable[[T, R], W],
    write: Callable[[T, W], A],
    writer: ThreadPoolExecutor,
) -> "Future[A]":
    try:
        return writer.submit(write, item, work(item, loaded.result()))
    except Exception as error:  # noqa: BLE001  the outcome carries it to whoever asks
        failed: Future[A] = Future()
        failed.set_exception(error)
        return failed


def _settled(item: T, outcome: "Future[A]") -> tuple[T, "Future[A]"]:
    outcome.exception()  # waits
    return item, outcome
