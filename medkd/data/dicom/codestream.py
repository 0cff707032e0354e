"""Codestream: how large a compressed picture says it is, before a decoder believes it."""

import struct
from pathlib import Path

from pydicom import Dataset
from pydicom.encaps import generate_frames

from medkd.data.memory import refuse_larger
from medkd.errors import DataError

J2K = b"\xff\x4f\xff\x51"  # start of codestream, then its size
FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG, and JPEG-LS
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
MOST_COMPONENTS = 4
EXPANDS = 64  # RLE: two bytes stand for at most 128


def refuse_bombs(path: Path, dataset: Dataset, *, memory_bytes: int) -> None:
    """Refuse pixels that would take more memory than the header says, or than they may.

    Raises:
        DataError: they would.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    voxel = samples * max(1, int(dataset.get("BitsAllocated") or 32) // 8)
    refuse_larger(path, rows * columns * voxel, memory_bytes=memory_bytes)
    if not dataset.file_meta.TransferSyntaxUID.is_compressed or "PixelData" not in dataset:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        said = declared(frame)
        if said is None:
            refuse_larger(path, EXPANDS * len(frame), memory_bytes=memory_bytes)
        elif said[:2] != (rows, columns) or said[2] > MOST_COMPONENTS:
            raise DataError(
                f"{path}: its header says {rows}x{columns} pixels, its compressed pixels say "
                f"{said[0]}x{said[1]}; copy it again, or remove it"
            )


def declared(frame: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and components of JPEG, JPEG-LS or JPEG 2000; None for anything else.

    Example:
        >>> declared(bytes.fromhex("ffd8 ffc0 0011 08 0040 0080 03"))
        (64, 128, 3)
    """
    if frame[:2] == b"\xff\xd8":
        return _jpeg(frame)
    at = frame.find(J2K, 0, 4096)
    if at < 0 or len(frame) < at + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    return bottom - top, right - left, components


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(frame):
        if frame[at] != 0xFF or frame[at + 1] == 0xFF:  # fill bytes
            at += 1
            continue
        marker = frame[at + 1]
        if marker in FRAME_HEADERS:
            rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, components
        at += 2 if marker in ALONE else 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None
