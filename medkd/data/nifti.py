"""NIfTI: read a file into a Volume, write a mask back onto the image's own grid."""

import gzip
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medkd.data.memory import refuse_larger
from medkd.data.shear import SKEWED_DEGREES, at_right_angles, grid_at_right_angles, skew_degrees
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Volume, without_values

SINGULAR = 1e-9  # mm³ a voxel
UNITS_MM = {1: 1e3, 3: 1e-3}  # metres and micrometres by their code; all others are millimetres
UNITS_OF_SPACE = 0b111  # of xyzt_units; the rest is of time
FLOAT_BYTES = 8  # scaled values are read as float64
HEADER_BYTES = 544  # of NIfTI-2, the longer
MOST_WORDS = 2**16  # of extensions, that are looked through
TEXTS = ("descrip", "aux_file", "db_name", "intent_name", "data_type")
DICOM_EXTENSION = 2
MOST_REMARKS = 2**26  # bytes before the first voxel
DAMAGED = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    TypeError,  # dimensions that are no numbers
    OverflowError,
    MemoryError,
    zlib.error,
)


def read(path: Path, options: ReadingOptions | None = None, *, order: int = 1) -> Volume:
    """Read a 3D or 4D (channels last) NIfTI file, or a pair of .hdr and .img.

    Any orientation and shear is read as it is: the affine says where a voxel lies, in millimetres
    whatever the header's unit. With ``shear_correct`` axes that are off right angles are resampled.

    Args:
        path: the file, or either of a pair.
        options: how much memory the image may take, and what may be mended.
        order: 1 for images, 0 for label maps: how they are resampled if they are.

    Raises:
        DataError: the file is missing, truncated, not NIfTI, too large, neither 3D nor 4D, its
            voxels are colours or complex numbers, its affine does not place them, or its qform and
            sform are mirror images.
    """
    options = options or ReadingOptions()
    image = _opened(path, options)
    affine = _affine(image, path)
    try:
        array = np.asanyarray(image.dataobj)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    volume = Volume(array=_channels_first(array, path), affine=affine)
    if options.shear_correct and skew_degrees(affine) > SKEWED_DEGREES:
        shape, _ = grid_at_right_angles(volume.shape, affine)
        size = FLOAT_BYTES * len(volume.array) * math.prod(shape)
        refuse_larger(path, size, memory_bytes=options.memory_bytes, of="at right angles")
        return at_right_angles(volume, order=order)
    return volume


def read_grid(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Return the grid that ``read`` would put the file on: a volume without values.

    Raises:
        DataError: as ``read``, but for voxels that are missing.
    """
    options = options or ReadingOptions()
    image = _opened(path, options)
    affine, shape = _affine(image, path), tuple(image.shape[:3])
    if options.shear_correct and skew_degrees(affine) > SKEWED_DEGREES:
        shape, affine = grid_at_right_angles(shape, affine)
    return without_values(shape, affine)


def remarks(path: Path) -> dict[str, str]:
    """Return what a file says in words: texts of its header, and extensions, by where they are.

    Raises:
        DataError: not a NIfTI file.
    """
    try:
        kind, halves = _kind(path), pair_of(path)
        opened = gzip.open if path.name.lower().endswith(".gz") else Path.open
        with opened(halves[0] if halves else path, "rb") as stream:
            start = stream.read(HEADER_BYTES + MOST_WORDS)
        header = kind.header_class(start[: kind.header_class.template_dtype.itemsize], check=False)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    texts = {field: bytes(header[field]).rstrip(b"\0") for field in TEXTS if field in header}
    size = kind.header_class.template_dtype.itemsize
    if start[size : size + 1] > b"\0":
        code = int.from_bytes(start[size + 8 : size + 12], "little")
        end = len(start) if halves else int(header["vox_offset"])
        kinds = "extension (DICOM)" if code == DICOM_EXTENSION else "extension"
        texts[kinds] = start[size + 4 : end]
    return {field: text.decode("latin-1") for field, text in texts.items() if text}


def write(path: Path, array: np.ndarray, *, affine: np.ndarray) -> None:
    """Write ``[*space]`` to a NIfTI file whose grid is ``affine``.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: ``[*space]``, or ``[*space, channels]``.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres.
    """
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["sform_code"] = 1
    image.header["qform_code"] = int(skew_degrees(affine) < 1e-2)  # a quaternion has no shear
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    nib.loadsave.save(image, temporary)
    temporary.replace(path)


def _opened(path: Path, options: ReadingOptions) -> nib.nifti1.Nifti1Pair:
    """Read the header, and judge by it what the voxels will take."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    for half in pair_of(path):
        if not half.exists():
            raise DataError(f"{path}: without {half.name}; a NIfTI pair needs both, copy it again")
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # what is odd is refused, or harmless
    try:
        image = _kind(path).from_filename(path)
        slope, intercept = image.header.get_slope_inter()
    except DAMAGED as error:
        raise _damaged(path, error) from None
    dtype = image.get_data_dtype()
    if dtype.kind not in "iufb":
        raise DataError(f"{path}: voxels of type {dtype}; a volume holds one number a voxel")
    if min(image.shape, default=0) < 1:
        raise DataError(f"{path}: shape {image.shape}, so it holds no voxel; copy it again")
    each = dtype.itemsize if slope is None and intercept is None else FLOAT_BYTES
    shape = "x".join(map(str, image.shape))
    size = math.prod(map(int, image.shape)) * each
    refuse_larger(path, size, memory_bytes=options.memory_bytes, of=f"{shape} voxels")
    return image


def pair_of(path: Path) -> list[Path]:
    """Return header and voxels of a pair, by whichever of them it is named; none of a file."""
    pair = {".hdr": ".img", ".img": ".hdr", ".HDR": ".IMG", ".IMG": ".HDR"}
    other = pair.get(path.suffix)
    if other is None:
        return []
    return sorted([path, path.with_suffix(other)], key=lambda half: half.suffix.lower())


class _NoRemarks(list[object]):
    """Extensions that are passed over: XML, DICOM and whatever else nibabel would parse there."""

    @classmethod
    def from_fileobj(cls, *_: object) -> "_NoRemarks":
        """Read nothing."""
        return cls()


def _without_remarks(kind: Any) -> Any:  # noqa: ANN401
    header = type("Header", (kind.header_class,), {"exts_klass": _NoRemarks})
    return type(kind.__name__, (kind,), {"header_class": header})


KINDS = {  # size of the header, and whether header and voxels are files of their own
    (348, False): _without_remarks(nib.nifti1.Nifti1Image),
    (348, True): _without_remarks(nib.nifti1.Nifti1Pair),
    (540, False): _without_remarks(nib.nifti2.Nifti2Image),
    (540, True): _without_remarks(nib.nifti2.Nifti2Pair),
}
MAGIC_AT = {348: 344, 540: 4}


def _kind(path: Path) -> Any:  # noqa: ANN401
    """Return nibabel's class for a file; of a pair by its header."""
    halves = pair_of(path)
    opened = gzip.open if path.name.lower().endswith(".gz") else Path.open
    with opened(halves[0] if halves else path, "rb") as stream:
        start = stream.read(HEADER_BYTES)
    size = _size_of_header(start)
    magic = start[MAGIC_AT[size] :][:2]
    if magic == b"\0\0" and size == 348:
        raise ImageFileError("Analyze 7.5, which does not tell left from right")
    if magic not in {b"n+", b"ni"}:
        raise ImageFileError("no NIfTI magic")
    return KINDS[size, bool(halves)]


def _size_of_header(start: bytes) -> int:
    for order in "<>" if len(start) >= 348 else "":
        (size,) = struct.unpack_from(f"{order}i", start)
        if size == 348:
            (offset,) = struct.unpack_from(f"{order}f", start, 108)
        elif size == 540 and len(start) >= 540:
            (offset,) = struct.unpack_from(f"{order}q", start, 168)
        else:
            continue
        if not 0 <= offset <= MOST_REMARKS:  # they would be skipped by unpacking them
            raise ImageFileError(f"its voxels are said to start at byte {offset}")
        return int(size)
    raise ImageFileError("its header has no NIfTI size")


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())  # nibabel's span lines
    return DataError(f"{path}: truncated or not a NIfTI file ({reason}); copy it again")


def _affine(image: nib.nifti1.Nifti1Pair, path: Path) -> np.ndarray:
    _refuse_sides(image, path)
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SINGULAR:
        raise DataError(
            f"{path}: its affine does not place voxels in space {affine[:3, :3].tolist()}; correct "
            f"the header's sform or qform"
        )
    unit_mm = UNITS_MM.get(int(image.header["xyzt_units"]) & UNITS_OF_SPACE, 1.0)
    return np.diag([unit_mm] * 3 + [1.0]) @ affine


def _refuse_sides(image: nib.nifti1.Nifti1Pair, path: Path) -> None:
    """Refuse a header whose two affines are mirror images: readers differ on which they take."""
    try:
        affines = [image.get_qform(coded=True), image.get_sform(coded=True)]
    except DAMAGED as error:
        raise _damaged(path, error) from None
    sides = {np.linalg.det(affine[:3, :3]) > 0 for affine, code in affines if code}
    if len(sides) > 1:
        raise DataError(
            f"{path}: its qform and its sform disagree on which side is left; correct or remove "
            f"the wrong one"
        )


def _channels_first(array: np.ndarray, path: Path) -> np.ndarray:
    while array.ndim > 4 and array.shape[3] == 1:  # vector images keep a time axis of 1
        array = array[:, :, :, 0]
    if array.ndim == 3:
        return array[None]
    if array.ndim == 4:
        return np.moveaxis(array, 3, 0)
    raise DataError(f"{path}: shape {array.shape}; a volume has 3 axes, or 4 with channels last")
