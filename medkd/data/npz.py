"""npz: arrays out of NumPy's zip files, whose sizes are known before anything is unpacked."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medkd.data.memory import refuse_larger
from medkd.errors import DataError
from medkd.options import ReadingOptions

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, NotImplementedError),
    *(OverflowError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(struct.error, tokenize.TokenError),
)


def read_arrays(
    path: Path, *, wanted: Callable[[str], bool], memory_bytes: int | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays whose names are ``wanted``; the others are not touched.

    Raises:
        DataError: missing, damaged, pickled objects, or larger than ``memory_bytes``.
    """
    limit = memory_bytes or ReadingOptions().memory_bytes
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy") and wanted(info.filename[:-4])
            }
            sizes = [_size(archive, info) for info in members.values()]
            refuse_larger(path, sum(sizes), memory_bytes=limit, of=f"{len(members)} arrays")
            return {name: _array(archive, info) for name, info in members.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: truncated or not an npz file ({reason}); copy it again") from None


def _size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return how many bytes an array takes, by its own header; the zip has to agree."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f"npy format {version}")
        shape, _, dtype = HEADERS[version](member)
        start = member.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    size = math.prod(shape) * dtype.itemsize
    if size + start != info.file_size:
        raise ValueError(
            f"{info.filename} is said to take {size} bytes, {info.file_size} are there"
        )
    return size


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
