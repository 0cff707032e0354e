"""Volume: one DICOM series, strictly, with every frame where its header says it lies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medkd.data.dicom.frames import Frame, count_of, frames_of
from medkd.data.dicom.header import refusing
from medkd.data.dicom.series import Series, read_series
from medkd.data.dicom.stack import Stack, stack
from medkd.data.dicom.values import Picture, filled, pictures, shape_of
from medkd.data.memory import refuse_larger
from medkd.data.shear import at_right_angles, grid_at_right_angles
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Volume, without_values

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
VOXEL_BYTES = 8  # a value, and room to mend the volume
FRAME_BYTES = 1024  # what is known of a frame: pictures of a pixel may be many


def read(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Read a folder with a series, or a file of one or many frames.

    A series with a place in space is a volume ``[channels, slices, rows, columns]``; a picture
    without one (projection, ultrasound) is a 2D image ``[channels, rows, columns]``. A missing or
    duplicate slice, a tilted gantry, mixed orientations or a second series are refused, unless
    ``options`` name the remedy; the volume then tells it.

    Raises:
        DataError: not DICOM, damaged, too large, not decodable, or the geometry is irregular.
    """
    options = options or ReadingOptions()
    found = _found(path, options)
    shown = pictures([f for f in found.frames if f], memory_bytes=options.memory_bytes)
    array = _assembled(found, shown)
    if found.stack is None:
        return Volume(array=array[:, 0], affine=np.eye(3))
    remedies = _interpolated(array, found.stack)
    volume = Volume(array, LPS_TO_RAS @ found.stack.affine, remedies, found.frame_uid)
    if not found.stack.is_tilted:
        return volume
    shape, _ = grid_at_right_angles(volume.shape, volume.affine, slice_axis=0)
    _refuse_large(path, shape[0], (len(array), shape[1], shape[2]), options)
    return at_right_angles(volume, order=1, slice_axis=0)


def read_grid(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Return the grid that ``read`` would put the series on: a volume without values.

    Raises:
        DataError: as ``read``, but for pixels that cannot be decoded.
    """
    found = _found(path, options or ReadingOptions())
    shape: tuple[int, ...] = (len(found.frames), *found.shape[1:])
    if found.stack is None:
        return without_values(shape[1:], np.eye(3))
    affine = LPS_TO_RAS @ found.stack.affine
    if found.stack.is_tilted:
        shape, affine = grid_at_right_angles(shape, affine, slice_axis=0)
    return without_values(shape, affine, frame_uid=found.frame_uid)


@dataclass(frozen=True)
class _Found:
    """The frames of a series by slice, where they lie, and what kind of picture they are."""

    path: Path
    frames: tuple[Frame | None, ...]
    stack: Stack | None
    shape: tuple[int, int, int]
    frame_uid: str


def _found(path: Path, options: ReadingOptions) -> _Found:
    with refusing(path):
        series = read_series(path, options)
        shape = shape_of(series.headers, path)
        _refuse_mosaics(path, series)
        count = sum(map(count_of, series.files, series.headers))
        _refuse_large(path, count, shape, options)
        frames = frames_of(series)
        placed = [frame for frame in frames if frame.place]
        if len(frames) == 1 and (options.planar or not placed):
            return _Found(path, tuple(frames), None, shape, "")
        if len(placed) < len(frames):
            raise DataError(
                f"{path}: {len(frames) - len(placed)} of {len(frames)} pictures have no place in "
                f"space, as in a film; make a file of each picture that is to be read"
            )
        try:
            stacked = stack(
                frames,
                resample_missing=options.resample_missing,
                shear_correct=options.shear_correct,
            )
        except DataError as error:
            raise DataError(f"{path}: {error}", private=error.private) from None
        _refuse_large(path, len(stacked.frames), shape, options)
        return _Found(path, stacked.frames, stacked, shape, _frame_uid(path, series))


def _refuse_large(
    path: Path, count: int, shape: tuple[int, int, int], options: ReadingOptions
) -> None:
    size = count * (VOXEL_BYTES * int(np.prod(shape)) + FRAME_BYTES)
    pixels = f"{count} pictures of {shape[1]}x{shape[2]} pixels"
    refuse_larger(path, size, memory_bytes=options.memory_bytes, of=pixels)


def _refuse_mosaics(path: Path, series: Series) -> None:
    """Refuse pictures that hold all slices of a volume beside one another."""
    if any("MOSAIC" in (header.get("ImageType") or ()) for header in series.headers):
        raise DataError(
            f"{path}: mosaics, which show all slices in one picture without their places; convert "
            f"the series to NIfTI, or export it with a picture a slice"
        )


def _frame_uid(path: Path, series: Series) -> str:
    """Return the series' frame of reference; none where an anonymiser has removed it."""
    found = {str(header.get("FrameOfReferenceUID", "")) for header in series.headers}
    if len(found) > 1:
        raise DataError(
            f"{path}: its slices lie in {len(found)} frames of reference, whose places cannot be "
            f"compared; keep the slices of one"
        )
    return found.pop()


def _assembled(found: _Found, shown: Iterable[Picture]) -> np.ndarray:
    """Put pictures into ``[channels, slices, rows, columns]``, of a type that holds them all."""
    slot = {id(frame): number for number, frame in enumerate(found.frames)}
    array: np.ndarray | None = None
    padding: np.ndarray | None = None
    for picture in shown:
        number = slot[id(picture.frame)]
        if array is None:
            array = np.zeros(
                (found.shape[0], len(found.frames), *found.shape[1:]), picture.array.dtype
            )
        if picture.array.shape != (array.shape[0], *array.shape[2:]):
            raise DataError(f"{picture.frame.file}: its pixels are not what its header says")
        array = array.astype(np.promote_types(array.dtype, picture.array.dtype), copy=False)
        array[:, number] = picture.array
        if picture.padding is not None:
            padding = np.zeros(array.shape[1:], bool) if padding is None else padding
            padding[number] = picture.padding
    assert array is not None
    if padding is not None:
        filled(array, padding)
    return array


def _interpolated(array: np.ndarray, found: Stack) -> tuple[str, ...]:
    """Fill missing slices between their neighbours, in place, and say which."""
    if not found.missing:
        return ()
    present = [number for number, frame in enumerate(found.frames) if frame]
    for number in found.missing:
        before = max(p for p in present if p < number)
        after = min(p for p in present if p > number)
        share = (number - before) / (after - before)
        mixed = (1 - share) * array[:, before] + share * array[:, after]
        array[:, number] = np.rint(mixed) if array.dtype.kind in "iu" else mixed
    step = float(np.linalg.norm(found.step_mm))
    where = ", ".join(f"{step * number:.2f}" for number in found.missing[:8])
    return (f"resample_missing: {len(found.missing)} slices, {where} mm from the first",)
