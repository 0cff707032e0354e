"""Progress: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

T = TypeVar("T")
LINE_EVERY_S = 20.0

SPACES = "\n\t\N{NO-BREAK SPACE}"
PLAIN_WIDTH = 120  # columns where there is no terminal to ask


class InertConsole(Console):
    """A console on which text of others, such as a file's name, is shown and does nothing."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield what is drawn; characters that steer a terminal stand there as their codes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=inert(segment.text))


def inert(text: str) -> str:
    r"""Write the codes of characters that steer a terminal, or that nobody sees.

    Example:
        >>> print(inert("case \x1b[31m7"))
        case \x1b[31m7
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in SPACES else one.encode("unicode_escape").decode()
        for one in text
    )


def _console(*, stderr: bool) -> Console:
    probe = Console(stderr=stderr)
    width = None if probe.is_terminal else PLAIN_WIDTH
    return InertConsole(highlight=False, soft_wrap=True, stderr=stderr, width=width)


console = _console(stderr=False)
error_console = _console(stderr=True)


def progress(items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done and how long the rest takes.

    Args:
        items: what remains to be done.
        description: what is being done.
        total: number of items, those done before included.
        done: items done before (a resumed run).
    """
    if console.is_terminal:
        yield from _bar(items, description, total, done)
    else:
        yield from _lines(items, description, total, done)


def _bar(items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _lines(items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
    start = said = time.monotonic()
    count = 0
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said > LINE_EVERY_S:
            left_s = (now - start) / count * (total - done - count)
            console.print(f"{description}: {done + count}/{total}, {left_s:.0f} s left")
            said = now
    console.print(f"{description}: {done + count}/{total}, {time.monotonic() - start:.1f} s")
