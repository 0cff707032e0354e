"""NIfTI: read a file into a Volume, write a mask back onto the image's own grid."""

import gzip
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

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
FLOAT_BYTES = 8  # scaled values are read as float64
HEADER_BYTES = 544  # of NIfTI-2, the longer
MOST_REMARKS = 2**20  # bytes before the first voxel
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

    Any orientation and shear is read as it is: the affine says where a voxel lies. With
    ``shear_correct`` axes that are off right angles are resampled.

    Args:
        path: the file, or either of a pair.
        options: how much memory the image may take, and what may be mended.
        order: 1 for images, 0 for label maps: how they are resampled if they are.

    Raises:
        DataError: the file is missing, truncated, not NIfTI, too large, neither 3D nor 4D, its
            voxels are colours or complex numbers, or its affine does not place them.
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


def write(path: Path, array: np.ndarray, *, affine: np.ndarray) -> None:
    """Write ``[*space]`` to a NIfTI file whose grid is ``affine``.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: ``[*space]``, or ``[*space, channels]``.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres.
    """
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    if skew_degrees(affine) < 1e-2:  # a quaternion has no shear
        image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    nib.loadsave.save(image, temporary)
    temporary.replace(path)


def _opened(path: Path, options: ReadingOptions) -> nib.nifti1.Nifti1Pair:
    """Read the header, and judge by it what the voxels will take."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    for half in _halves(path):
        if not half.exists():
            raise DataError(f"{path}: without {half.name}; a NIfTI pair needs both, copy it again")
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # what is odd is refused, or harmless
    try:
        _refuse_long_headers(path)
        image = nib.loadsave.load(path)
        if not isinstance(image, nib.nifti1.Nifti1Pair):
            raise DataError(f"{path}: {_named(image)}; convert it to NIfTI")
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


def _halves(path: Path) -> list[Path]:
    """Return header and voxels of a pair, by whichever of them it is named."""
    pair = {".hdr": ".img", ".img": ".hdr", ".HDR": ".IMG", ".IMG": ".HDR"}
    other = pair.get(path.suffix)
    if other is None:
        return []
    return sorted([path, path.with_suffix(other)], key=lambda half: half.suffix.lower())


def _named(image: object) -> str:
    """Say what a file is that nibabel reads and that is no image in the world."""
    kind = type(image).__name__
    if "Analyze" in kind:
        return "Analyze 7.5, which does not tell left from right"
    return f"a {kind}, and not an image with a place in space"


def _refuse_long_headers(path: Path) -> None:
    """Refuse extensions that lie about their size, or are no remark but the bulk of a file.

    nibabel reads as much as they say, out of a few compressed bytes if it comes to that.
    """
    halves = _halves(path)
    file = halves[0] if halves else path
    opened = gzip.open if path.name.lower().endswith(".gz") else Path.open
    with opened(file, "rb") as stream:
        start = stream.read(HEADER_BYTES)
        size, end, order = _layout(start)
        end = file.stat().st_size if halves else end
        if end > MOST_REMARKS:
            raise ImageFileError(f"its header takes {end} bytes")
        start += stream.read(max(0, end - len(start)))
    at = size + 4
    while start[size : size + 1] > b"\0" and at + 16 <= end:
        length = int.from_bytes(start[at : at + 4], order, signed=True)
        if length < 16 or at + length > end:
            raise ImageFileError(f"an extension says it takes {length} bytes")
        at += length


def _layout(start: bytes) -> tuple[int, int, Literal["little", "big"]]:
    """Return the size of a header, where its voxels start, and the order of its bytes."""
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size == 348 and len(start) >= 348:
            (offset,) = struct.unpack_from("<f" if order == "little" else ">f", start, 108)
        elif size == 540 and len(start) >= 540:
            (offset,) = struct.unpack_from("<q" if order == "little" else ">q", start, 168)
        else:
            continue
        if not 0 <= offset < 2**62:
            raise ImageFileError(f"its voxels are said to start at byte {offset}")
        return size, int(offset), order
    raise ImageFileError("its header has no NIfTI size")


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())  # nibabel's span lines
    return DataError(f"{path}: truncated or not a NIfTI file ({reason}); copy it again")


def _affine(image: nib.nifti1.Nifti1Pair, path: Path) -> np.ndarray:
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SINGULAR:
        raise DataError(
            f"{path}: its affine does not place voxels in space {affine[:3, :3].tolist()}; correct "
            f"the header's sform or qform"
        )
    return affine


def _channels_first(array: np.ndarray, path: Path) -> np.ndarray:
    while array.ndim > 4 and array.shape[3] == 1:  # vector images keep a time axis of 1
        array = array[:, :, :, 0]
    if array.ndim == 3:
        return array[None]
    if array.ndim == 4:
        return np.moveaxis(array, 3, 0)
    raise DataError(f"{path}: shape {array.shape}; a volume has 3 axes, or 4 with channels last")
