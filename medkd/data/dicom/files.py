"""Files: which of them are DICOM, told without a DICOM library."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAGIC_AT, MAGIC = 128, b"DICM"
BARE = (b"\x02\x00", b"\x08\x00")  # a data set without preamble begins with one of these groups


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a DICOM file, or a folder that holds one, by content."""
    if path.is_dir():
        return any(is_dicom(file) for file in files_in(path))
    with path.open("rb") as file:
        start = file.read(MAGIC_AT + len(MAGIC))
    if start[MAGIC_AT:] == MAGIC:
        return True
    return path.suffix.lower() in {".dcm", ""} and start[:2] in BARE and start[3:4] == b"\0"


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are neither hidden nor the directory of a medium."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
    )


@contextmanager
def linked(files: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder that holds links to these files alone."""
    with tempfile.TemporaryDirectory() as name:
        for number, file in enumerate(files):
            (Path(name) / f"{number:05d}.dcm").symlink_to(file.resolve())
        yield Path(name)
