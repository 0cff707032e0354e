"""Values: from the numbers a DICOM file stores to those they stand for.

Modality rescale or LUT, padding, MONOCHROME1 and colours are applied here and nowhere else. VOI
windows are not: they are for eyes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut

from medkd.data.dicom.decoding import Decoding
from medkd.data.dicom.frames import Frame
from medkd.data.dicom.header import refusing
from medkd.errors import DataError

QUANTITIES = {"CT", "PT", "NM"}  # values have units; MONOCHROME1 says how to show them, no more
GREY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
SAME_PICTURE = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")


def shape_of(headers: Sequence[Dataset], path: Path) -> tuple[int, int, int]:
    """Return channels, rows and columns, which all files of a series share.

    Raises:
        DataError: they do not, or what they say is no picture.
    """
    kinds = {tuple(str(header.get(key)) for key in SAME_PICTURE) for header in headers}
    if len(kinds) > 1:
        listed = ", ".join(f"{k[0]}x{k[1]} {k[3]}" for k in sorted(kinds)[:4])
        raise DataError(
            f"{path}: pictures of several kinds: {listed}; keep those of one kind",
            private=(listed,),
        )
    first = headers[0]
    try:
        rows, columns, samples = int(first.Rows), int(first.Columns), int(first.SamplesPerPixel)
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path}: does not say how large its pictures are; copy it again") from None
    if min(rows, columns) < 1 or samples not in {1, 3}:
        raise DataError(
            f"{path}: pictures of {rows}x{columns} pixels and {samples} samples; copy it again"
        )
    colours = str(first.get("PhotometricInterpretation")) not in GREY
    return (3 if colours else 1), rows, columns


@dataclass(frozen=True)
class Picture:
    """What one frame shows.

    Attributes:
        frame: that it belongs to.
        array: ``[channels, rows, columns]``.
        padding: ``[rows, columns]``, true where nothing was measured; None where all was.
    """

    frame: Frame
    array: np.ndarray
    padding: np.ndarray | None = None


def pictures(frames: Sequence[Frame], *, memory_bytes: int) -> Iterator[Picture]:
    """Yield what the frames show, file by file.

    Integers stay integers where nothing is scaled by a fraction; else they are float32.

    Raises:
        DataError: pixels cannot be decoded, or would take more memory than they should.
    """
    with Decoding(memory_bytes=memory_bytes) as decoding:
        of_file: dict[Path, dict[int, Frame]] = defaultdict(dict)
        for frame in frames:  # slices of files may alternate
            of_file[frame.file][frame.index] = frame
        for file, of_index in of_file.items():
            for index, stored in enumerate(decoding.frames(file)):
                with refusing(file):
                    yield _picture(stored, of_index[index])


def filled(array: np.ndarray, padding: np.ndarray) -> None:
    """Give padding the lowest value that was measured, in place.

    Args:
        array: ``[channels, *space]``.
        padding: ``[*space]``, true where nothing was measured.
    """
    if padding.all() or not padding.any():
        return
    for channel in array:
        channel[padding] = channel[~padding].min()


def _picture(stored: np.ndarray, frame: Frame) -> Picture:
    colours = str(frame.get("PhotometricInterpretation"))
    if colours == PALETTE:
        stored = apply_color_lut(stored, frame.groups[-1])
        if stored.dtype == np.uint16:  # a palette tells 16 bits, of which screens show 8
            stored = (stored >> 8).astype(np.uint8)
    if stored.ndim == 3:
        return Picture(frame, np.moveaxis(stored, 2, 0))
    padding = _padding(stored, frame)
    is_inverse = colours == "MONOCHROME1" and str(frame.get("Modality")) not in QUANTITIES
    if frame.get("ModalityLUTSequence"):
        return Picture(frame, _looked_up(stored, frame, is_inverse=is_inverse)[None], padding)
    if is_inverse:
        stored = _inverted(stored, frame)
    return Picture(frame, _rescaled(stored, frame)[None], padding)


def _padding(stored: np.ndarray, frame: Frame) -> np.ndarray | None:
    """Return where pixels hold PixelPaddingValue, or lie from there to PixelPaddingRangeLimit."""
    first, last = frame.get("PixelPaddingValue"), frame.get("PixelPaddingRangeLimit")
    if first is None or stored.dtype.kind not in "iu":
        return None
    ends = sorted(_as_stored(v, stored.dtype) for v in (first, first if last is None else last))
    found = (stored >= ends[0]) & (stored <= ends[1])
    return found if found.any() else None


def _as_stored(value: Any, dtype: np.dtype) -> int:  # noqa: ANN401
    """Read a number as pixels are stored: writers mistake signed for unsigned."""
    bits = 8 * dtype.itemsize
    number = int(value) % 2**bits
    return number - 2**bits if dtype.kind == "i" and number >= 2 ** (bits - 1) else number


def _inverted(stored: np.ndarray, frame: Frame) -> np.ndarray:
    """Make high values bright, within the bits that are stored."""
    if stored.dtype.kind == "f":
        return -stored
    bits = int(frame.get("BitsStored"))
    least = -(2 ** (bits - 1)) if stored.dtype.kind == "i" else 0
    return (2 * least + 2**bits - 1 - stored.astype(np.int64)).astype(stored.dtype)


def _looked_up(stored: np.ndarray, frame: Frame, *, is_inverse: bool) -> np.ndarray:
    """Look values up in the Modality LUT; an inverse picture is turned within the table's range."""
    header = frame.groups[-1]
    shown = apply_modality_lut(stored, header).astype(np.float32)
    if not is_inverse:
        return shown
    count, first, _ = header.ModalityLUTSequence[0].LUTDescriptor
    table = apply_modality_lut(first + np.arange(count or 2**16), header)
    return np.float32(table.min()) + np.float32(table.max()) - shown


def _rescaled(stored: np.ndarray, frame: Frame) -> np.ndarray:
    slope, intercept = (
        float(given) if given not in {None, ""} else default
        for given, default in (
            (frame.get("RescaleSlope"), 1.0),
            (frame.get("RescaleIntercept"), 0.0),
        )
    )
    if not np.isfinite([slope, intercept]).all():
        raise DataError(
            f"{frame.file}: RescaleSlope or RescaleIntercept is infinite; copy it again"
        )
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu":
        return (stored.astype(np.int64) + int(intercept)).astype(np.int32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
