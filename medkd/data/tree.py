"""Tree: a folder and all those below it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from medkd.errors import DataError

OF_SYSTEMS = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}  # nobody may list them


def walk(
    top: Path, *, unlisted: Callable[[OSError], object]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield a folder and those below it, each with the names of its files.

    Folders behind links are walked after all others, so that a folder goes by its own name where it
    has one; none is walked twice, and none that ``top`` itself lies in. Hidden folders and those of
    operating systems are left out.

    Args:
        top: where to begin.
        unlisted: told of a folder that cannot be listed, which is then left out.
    """
    entered = {_identity(folder) for folder in top.resolve().parents}
    tops = [top]
    for start in tops:
        for name, inner, files in os.walk(start, onerror=unlisted):
            folder = Path(name)
            identity = _identity(folder)
            if identity in entered:
                inner.clear()
                continue
            entered.add(identity)
            inner[:] = sorted(each for each in inner if each[0] != "." and each not in OF_SYSTEMS)
            below = [folder / each for each in inner]
            tops += [each for each in below if os.path.islink(each)]  # noqa: PTH114 - never raises
            yield folder, tuple(sorted(files))


def files_below(top: Path) -> list[Path]:
    """Return what of a tree is no folder and not hidden, sorted.

    Raises:
        DataError: a folder of it cannot be listed.
    """
    files = walk(top, unlisted=_refuse)
    return sorted(folder / name for folder, names in files for name in names if name[0] != ".")


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: the folder cannot be listed ({error.strerror}); see to its "
        f"permissions, or remove it"
    ) from error
