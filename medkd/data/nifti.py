"""NIfTI: read a file into a Volume, write a mask back onto the image's own grid."""

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase, BufferedWriter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medkd.data.memory import refuse_larger
from medkd.data.shear import SKEWED_DEGREES, at_right_angles, grid_at_right_angles, skew_degrees
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Volume, grid_distance_mm, without_values

SINGULAR = 1e-9  # mm³ a voxel
SAME_SIZE = 0.01  # by which voxels of qform and sform may differ
SAME = 1e-5  # relative, and of a voxel's shortest edge: qform and sform are rounded apart
TEMPLATES = {3, 4}  # codes of Talairach's and MNI's spaces
UNITS_MM = {1: 1e3, 3: 1e-3}  # metres and micrometres by their code; all others are millimetres
UNITS_OF_SPACE = 0b111  # of xyzt_units; the rest is of time
UNSCALED = {(None, None), (1, 0)}  # slope and intercept
FLOAT_BYTES = 8  # scaled values are read as float64
HEADER_BYTES = 544  # of NIfTI-2, the longer
MOST_WORDS = 2**16  # of extensions, that are looked through
TEXTS = ("descrip", "aux_file", "db_name", "intent_name", "data_type")
NO_EXTENSION = bytes(4)  # after the header
EXTENSIONS = {2: "DICOM", 6: "comment"}  # those that are told apart, by their codes
PACKING = 1  # of 9 levels: more saves little of a mask, and takes twice as long
PIECE = 2**20  # bytes that are packed or unpacked at once
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
    whatever the header's unit. Where a header does not say so, the volume's remedies tell what was
    taken for granted. With ``shear_correct`` axes that are off right angles are resampled.

    Args:
        path: the file, or either of a pair.
        options: how much memory the image may take, and what may be mended.
        order: 1 for images, 0 for label maps: how they are resampled if they are.

    Raises:
        DataError: the file is missing, truncated, not NIfTI, too large, neither 3D nor 4D, its
            voxels are colours or complex numbers, its affine does not place them, its qform and
            sform disagree, or its header contradicts what the file is.
    """
    options = options or ReadingOptions()
    with _opened(path, options) as (header, stream):
        forms = _forms(header, path)
        affine, remedies = _affine(header, forms, path), _remedies(header, forms)
        try:
            array = _scaled(ArrayProxy(stream, header).get_unscaled(), header)
        except DAMAGED as error:
            raise _damaged(path, error) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    volume = Volume(_channels_first(array), affine, remedies)
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
    with _opened(path, options) as (header, _):
        affine = _affine(header, _forms(header, path), path)
        shape = tuple(header.get_data_shape()[:3])
    if options.shear_correct and skew_degrees(affine) > SKEWED_DEGREES:
        shape, affine = grid_at_right_angles(shape, affine)
    return without_values(shape, affine)


def remarks(path: Path) -> dict[str, str]:
    """Return what a file says in words: texts of its header, and extensions, by where they are.

    Raises:
        DataError: not a NIfTI file.
    """
    halves = pair_of(path)
    try:
        with _stream(halves[0] if halves else path) as stream:
            start = stream.read(HEADER_BYTES + MOST_WORDS)
        kind = _kind(start, path, is_pair=bool(halves))
        header = kind(start[: kind.template_dtype.itemsize], check=False)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    texts = {field: bytes(header[field]).rstrip(b"\0") for field in TEXTS if field in header}
    size = kind.template_dtype.itemsize
    if start[size : size + 1] > b"\0":
        code = int.from_bytes(start[size + 8 : size + 12], "little")
        end = len(start) if halves else int(header["vox_offset"])
        kind_of = f"extension ({EXTENSIONS[code]})" if code in EXTENSIONS else "extension"
        texts[kind_of] = start[size + 4 : end]
    return {field: text.decode("latin-1") for field, text in texts.items() if text}


def write(path: Path, array: np.ndarray, *, affine: np.ndarray) -> None:
    """Write ``[*space]`` to a NIfTI file whose grid is ``affine``.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: ``[*space]``, or ``[*space, channels]``.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    header = nib.nifti1.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=int(skew_degrees(affine) < 1e-2))  # a quaternion has no shear
    header.set_xyzt_units("mm")
    header.set_data_offset(len(header.binaryblock) + len(NO_EXTENSION))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    with temporary.open("wb") as file, _packed(file, path) as stream:
        stream.write(header.binaryblock + NO_EXTENSION)
        for plane in np.moveaxis(array, -1, 0):
            stream.write(plane.tobytes(order="F"))
    temporary.replace(path)


@contextmanager
def _packed(file: BufferedIOBase, path: Path) -> Iterator[BufferedIOBase]:
    """Yield what writes into a file, and packs it if its name says so; equal voxels, equal bytes.

    Large pieces cost less to pack than planes.
    """
    if not path.name.lower().endswith(".gz"):
        yield file
        return
    packing = gzip.GzipFile("", "wb", PACKING, file, mtime=0)
    with packing, BufferedWriter(packing, PIECE) as stream:
        yield stream


@contextmanager
def _opened(path: Path, options: ReadingOptions) -> Iterator[tuple[Any, BufferedIOBase]]:
    """Yield the header, judged by what its voxels will take, and the stream that these lie in."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    halves = pair_of(path)
    for half in halves:
        if not half.exists():
            raise DataError(
                f"{path}: without {half.name}; a NIfTI pair needs both, copy it again",
                private=(half.name,),
            )
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # what is odd is refused, or harmless
    with ExitStack() as stack:
        try:
            streams = [stack.enter_context(_stream(each)) for each in halves or [path]]
            kind = _kind(streams[0].read(HEADER_BYTES), path, is_pair=bool(halves))
            streams[0].seek(0)
            header = kind.from_fileobj(streams[0])
            slope, intercept = header.get_slope_inter()
            dtype, shape = header.get_data_dtype(), header.get_data_shape()
        except DAMAGED as error:
            raise _damaged(path, error) from None
        if dtype.kind not in "iufb":
            raise DataError(f"{path}: voxels of type {dtype}; a volume holds one number a voxel")
        if min(shape, default=0) < 1:
            raise DataError(f"{path}: shape {shape}, so it holds no voxel; copy it again")
        if len(_without_time(shape)) not in {3, 4}:
            raise DataError(f"{path}: shape {shape}; a volume has 3 axes, or 4 with channels last")
        is_scaled = (slope, intercept) not in UNSCALED
        each = FLOAT_BYTES if is_scaled else dtype.itemsize
        size, voxels = math.prod(map(int, shape)) * each, "x".join(map(str, shape))
        refuse_larger(path, size, memory_bytes=options.memory_bytes, of=f"{voxels} voxels")
        yield header, streams[-1]


def _stream(path: Path) -> BufferedIOBase:
    return _Unpacking(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


class _Unpacking(gzip.GzipFile):
    """Fills an array piece by piece: at once, all that is unpacked would lie beside it, twice."""

    def readinto(self, into: Any) -> int:  # noqa: ANN401
        """Fill a buffer; return how many bytes there were."""
        view, filled = memoryview(into).cast("B"), 0
        while filled < len(view):
            count = super().readinto(view[filled : filled + PIECE])
            if not count:
                break
            filled += count
        return filled


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


def _without_remarks(header: Any) -> Any:  # noqa: ANN401
    return type(header.__name__, (header,), {"exts_klass": _NoRemarks})


KINDS = {  # size of the header, and whether header and voxels are files of their own
    (348, False): _without_remarks(nib.nifti1.Nifti1Header),
    (348, True): _without_remarks(nib.nifti1.Nifti1PairHeader),
    (540, False): _without_remarks(nib.nifti2.Nifti2Header),
    (540, True): _without_remarks(nib.nifti2.Nifti2PairHeader),
}
MAGIC_AT = {348: 344, 540: 4}


def _kind(start: bytes, path: Path, *, is_pair: bool) -> Any:  # noqa: ANN401
    """Return nibabel's class for a header, by the first bytes of its file."""
    size, offset = _size_of_header(start)
    magic = start[MAGIC_AT[size] :][:2]
    if magic == b"\0\0" and size == 348:
        raise ImageFileError("Analyze 7.5, which does not tell left from right")
    if magic not in {b"n+", b"ni"}:
        raise ImageFileError("no NIfTI magic")
    if (magic == b"ni") != is_pair:
        said, found = ("one file", "a pair") if is_pair else ("a pair of .hdr and .img", "one file")
        raise DataError(f"{path}: its header is that of {said}, and it is {found}; save it anew")
    if not is_pair and offset < size + len(NO_EXTENSION):
        raise DataError(
            f"{path}: its voxels are said to start at byte {offset:g}, within its header; correct "
            f"vox_offset, or save it anew"
        )
    return KINDS[size, is_pair]


def _size_of_header(start: bytes) -> tuple[int, float]:
    """Return it, and where the voxels are said to start."""
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
        return int(size), float(offset)
    raise ImageFileError("its header has no NIfTI size")


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())  # nibabel's span lines
    private = () if isinstance(error, ImageFileError) else (reason,)  # those are of this file
    message = f"{path}: truncated or not a NIfTI file ({reason}); copy it again"
    return DataError(message, private=private)


@dataclass(frozen=True)
class _Forms:
    """Both affines of a header, and their codes; what has the code 0 says nothing."""

    best: np.ndarray
    qform: np.ndarray
    sform: np.ndarray
    of_qform: int
    of_sform: int

    @cached_property
    def agree(self) -> bool:
        """Whether at most one says something, or both the same."""
        edge = np.linalg.norm(self.sform[:3, :3], axis=0).min()
        is_same = np.allclose(self.qform, self.sform, rtol=SAME, atol=SAME * edge)
        return is_same or not (self.of_qform and self.of_sform)


def _forms(header: Any, path: Path) -> _Forms:  # noqa: ANN401
    try:
        best = np.asarray(header.get_best_affine(), dtype=float)
        qform, of_qform = header.get_qform(coded=True)
        sform, of_sform = header.get_sform(coded=True)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    qform, sform = (np.eye(4) if form is None else form for form in (qform, sform))
    return _Forms(best, qform, sform, of_qform, of_sform)


def _affine(header: Any, forms: _Forms, path: Path) -> np.ndarray:  # noqa: ANN401
    affine = forms.best
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SINGULAR:
        raise DataError(
            f"{path}: its affine does not place voxels in space {affine[:3, :3].tolist()}; correct "
            f"the header's sform or qform"
        )
    if differing := _differing(forms):
        raise DataError(
            f"{path}: its qform and its sform disagree on {differing}; correct or remove the wrong "
            f"one"
        )
    unit_mm = UNITS_MM.get(int(header["xyzt_units"]) & UNITS_OF_SPACE, 1.0)
    return np.diag([unit_mm] * 3 + [1.0]) @ affine


def _differing(forms: _Forms) -> str:
    """Say on what two affines disagree that cannot both be right.

    They may be turned and moved against each other, where one is the scanner's and one came of a
    registration, but the patient has one left side, and a voxel one size, unless it was stretched
    to fit a template.
    """
    if forms.agree:
        return ""
    both = [forms.qform, _without_shear(forms.sform)]
    if np.prod([np.linalg.det(form[:3, :3]) for form in both]) < 0:
        return "which side is left"
    sizes = [np.linalg.norm(form[:3, :3], axis=0) for form in both]
    in_template = forms.of_sform in TEMPLATES
    if not in_template and not np.allclose(sizes[0], sizes[1], rtol=SAME_SIZE, atol=0):
        told = " and ".join("x".join(f"{edge:.4g}" for edge in size) for size in sizes)
        return f"how large a voxel is ({told})"
    return ""


def _without_shear(sform: np.ndarray) -> np.ndarray:
    """Return what of an affine a quaternion can hold."""
    straight = nib.nifti1.Nifti1Header()
    straight.set_qform(sform, code=1)
    return straight.get_qform()


def _scaled(array: np.ndarray, header: Any) -> np.ndarray:  # noqa: ANN401
    """Apply slope and intercept as nibabel does, without a second array of floats."""
    slope, intercept = header.get_slope_inter()
    if (slope, intercept) in UNSCALED:
        return array
    scaled = np.multiply(array, slope, dtype=np.float64)
    scaled += intercept
    return scaled


def _remedies(header: Any, forms: _Forms) -> tuple[str, ...]:  # noqa: ANN401
    """Tell what was taken where a header does not say where its voxels lie, or says it twice."""
    if not forms.of_qform and not forms.of_sform:
        return (
            "orientation: its header codes neither qform nor sform, and its axes are taken to run "
            "to the left, the front and the head",
        )
    if forms.agree or forms.of_qform != forms.of_sform:  # of two spaces, or one
        return ()
    qform = forms.qform
    grid = without_values(tuple(header.get_data_shape()[:3]), _without_shear(forms.sform))
    apart = grid_distance_mm(grid, qform)
    if apart <= np.linalg.norm(qform[:3, :3], axis=0).min():
        return ()
    return (
        f"orientation: its qform and its sform are of one space and place voxels up to {apart:.4g} "
        f"apart; the sform is taken, as most programs do",
    )


def _without_time(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out a time axis of 1, which images of vectors keep before their channels."""
    while len(shape) > 4 and shape[3] == 1:
        shape = shape[:3] + shape[4:]
    return shape


def _channels_first(array: np.ndarray) -> np.ndarray:
    array = array.reshape(_without_time(array.shape), order="F")
    return array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)
