"""Tree: a folder and all those below it."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from medkd.errors import DataError

OF_SYSTEMS = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}  # nobody may list them


def walk(
    top: Path, *, unlisted: Callable[[OSError], object]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield a folder and those below it, each with the names of its files.

    Folders behind links are walked after all others, so that a folder goes by its own name where it
    has one; none is walked twice, and no link is followed to what its folder or ``top`` lies in.
    Hidden folders and those of operating systems are left out.

    Args:
        top: where to begin.
        unlisted: told of a folder that cannot be listed, which is then left out.
    """
    entered: set[tuple[int, int]] = set()
    above_top = _identities([*top.absolute().parents, *top.resolve().parents])
    tops = [top]
    for start in tops:
        above = above_top | _identities(start.resolve().parents)
        for name, inner, files in os.walk(start, onerror=unlisted):
            folder = Path(name)
            identity = _identities([folder])
            if identity <= entered:
                inner.clear()
                continue
            entered |= identity
            inner[:] = sorted(each for each in inner if each[0] != "." and each not in OF_SYSTEMS)
            below = [folder / each for each in inner]
            links = [each for each in below if os.path.islink(each)]  # noqa: PTH114 - never raises
            tops += [each for each in links if not _identities([each]) <= above]
            yield folder, tuple(sorted(files))


def files_below(top: Path) -> list[Path]:
    """Return what of a tree is no folder and not hidden, sorted; nothing where ``top`` is none.

    Raises:
        DataError: a folder of it cannot be listed.
    """
    files = walk(top, unlisted=_refuse) if top.is_dir() else ()
    return sorted(folder / name for folder, names in files for name in names if name[0] != ".")


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    """Return what tells folders apart whatever they are called; of those that can be looked at."""
    found = set()
    for folder in folders:
        with suppress(OSError):
            seen = folder.stat()
            found.add((seen.st_dev, seen.st_ino))
    return found


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: the folder cannot be listed ({error.strerror}); see to its "
        f"permissions, or remove it"
    ) from error
