"""Files: which of them are DICOM, told without a DICOM library."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

from medkd.errors import DataError

NAMED = {".dcm", ".dicom", ".ima"}  # suffixes that say DICOM
MAGIC_AT, MAGIC = 128, b"DICM"
BARE = (b"\x02\x00", b"\x08\x00")  # a data set without preamble begins with one of these groups


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a DICOM file by its content, or a folder that holds or should hold one.

    Raises:
        DataError: a file that cannot be read.
    """
    if path.is_dir():
        return any(any(dicom_of([file])) for file in files_in(path))
    try:
        with path.open("rb") as file:
            start = file.read(MAGIC_AT + len(MAGIC))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); see to its permissions and its disk, or "
            f"remove it"
        ) from None
    if start[MAGIC_AT:] == MAGIC:
        return True
    return path.suffix.lower() in {*NAMED, ""} and start[:2] in BARE and start[3:4] == b"\0"


def dicom_of(files: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Return those of some files that are DICOM, and why others, which may be, cannot be read."""
    found: list[Path] = []
    unreadable: dict[Path, str] = {}
    for file in files:
        try:
            if is_dicom(file):
                found.append(file)
            elif file.suffix.lower() in NAMED:
                unreadable[file] = "not DICOM, as its name says" if file.stat().st_size else "empty"
        except DataError as error:
            unreadable[file] = reason(error, file)
    return found, unreadable


def reason(error: DataError, file: Path) -> str:
    """Return what a reader's error says of a file, without the file and the remedy."""
    said = str(error).removeprefix(f"{file}: ")
    return said.rpartition("; ")[0] or said


def refusal(unreadable: Mapping[Path, str]) -> str:
    """Say which files of a folder are unreadable, and why; nothing where none are.

    Nobody can tell which series such a file belongs to, so none of its folder is known to be whole.
    """
    if not unreadable:
        return ""
    one = len(unreadable) == 1
    count = "1 file of this folder is" if one else f"{len(unreadable)} files of this folder are"
    listed = ", ".join(f"{file.name} ({why})" for file, why in sorted(unreadable.items()))
    return f"{count} unreadable: {listed}; mend or remove {'it' if one else 'them'}"


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are neither hidden nor the directory of a medium."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.upper() != "DICOMDIR" and _is_file(path)
    )


def _is_file(path: Path) -> bool:
    """Whether a path is a file; what cannot be looked at, as a link to nothing, may be one."""
    try:
        return S_ISREG(path.stat().st_mode)
    except OSError:
        return True


@contextmanager
def linked(files: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder that holds links to these files alone."""
    with tempfile.TemporaryDirectory() as name:
        for number, file in enumerate(files):
            (Path(name) / f"{number:05d}.dcm").symlink_to(file.resolve())
        yield Path(name)
