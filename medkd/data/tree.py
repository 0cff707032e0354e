"""Tree: a folder and all those below it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

OF_SYSTEMS = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}  # nobody may list them


def walk(top: Path, *, unlisted: Callable[[OSError], object] | None = None) -> Iterator[Path]:
    """Yield a folder and those below it, sorted; those behind links too, and none twice.

    Hidden folders and those of operating systems are left out.

    Args:
        top: where to begin.
        unlisted: told of what cannot be listed.
    """
    entered: set[tuple[int, int]] = set()
    for name, inner, _ in os.walk(top, onerror=unlisted, followlinks=True):
        found = Path(name).stat()
        if (found.st_dev, found.st_ino) in entered:
            inner.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        inner[:] = sorted(each for each in inner if each[0] != "." and each not in OF_SYSTEMS)
        yield Path(name)


def files_below(top: Path) -> Iterator[Path]:
    """Yield what of a tree is no folder and not hidden, sorted folder by folder."""
    for folder in walk(top):
        yield from sorted(
            path for path in folder.iterdir() if path.name[0] != "." and not path.is_dir()
        )
