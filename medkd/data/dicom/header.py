"""Header: the attributes of a DICOM file, read as if its writer meant harm.

Sizes are judged before anything of that size is made: of the file, of what a deflated file unpacks
to, and of the pixels it promises.
"""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset as parse
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medkd.data.dicom.crowd import may_be_crowded, refuse_crowd
from medkd.data.dicom.files import MAGIC, MAGIC_AT
from medkd.data.memory import refuse_larger
from medkd.errors import DataError

META = 0x0002  # the group of the meta header
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
RUST_PANIC = "PanicException"  # of a decoder: no Exception, and of no module to import
DESCRIBING = (  # what decoders and values need
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SpecificCharacterSet"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    *("SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData"),
    "SegmentedBluePaletteColorLookupTableData",
)
PLACING = (  # what series, frames and stack need
    *(
        "SOPClassUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "SeriesDescription",
        "FrameOfReferenceUID",
    ),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "TemporalPositionIdentifier", "EchoTime"),
    *("AcquisitionNumber", "DiffusionBValue", "TriggerTime", "ImageType", "InstanceNumber"),
)
REFERRING = (  # what references of a SEG or RTSTRUCT need
    *("SegmentSequence", "SegmentationType", "StructureSetROISequence", "ROIContourSequence"),
    *("ReferencedFrameOfReferenceSequence", "PixelPresentation"),
)
HEADER_TAGS = [*DESCRIBING, *PLACING, *REFERRING]
PIXEL_TAGS = [*DESCRIBING, "PixelData", "FloatPixelData", "DoubleFloatPixelData"]
PIXEL_TAGS += ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]


def read_dataset(
    path: Path, *, memory_bytes: int, with_pixels: bool = False, all_attributes: bool = False
) -> Dataset:
    """Read what readers need of a file's attributes, or all; and its stored pixels if asked for.

    Raises:
        DataError: missing, not DICOM, damaged, or larger than ``memory_bytes``.
    """
    with refusing(path), path.open("rb") as file:
        size = path.stat().st_size
        refuse_larger(path, size, memory_bytes=memory_bytes)
        meta = _meta(path, file, size, memory_bytes)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            dataset = _inflated(path, file, meta, memory_bytes, with_pixels=with_pixels)
        else:
            if may_be_crowded(size, memory_bytes=memory_bytes):
                _refuse_crowd_in(path, file, meta.get("TransferSyntaxUID"), memory_bytes)
            file.seek(0)
            tags: list[str] = PIXEL_TAGS if with_pixels else HEADER_TAGS
            dataset = dcmread(
                file,
                force=True,
                specific_tags=None if all_attributes else tags,
                stop_before_pixels=not with_pixels,
            )
        if not len(dataset):
            raise DataError(f"{path}: not a DICOM file; copy it again, or remove it")
        _complete(dataset)
    return dataset


def read_encoded(
    content: bytes, syntax: str, *, up_to: str, memory_bytes: int, name: Path
) -> Dataset:
    """Read a data set as it came over the network, from its first attribute to one of them.

    Args:
        content: without a meta header.
        syntax: UID of its transfer syntax, which is not a deflated one.
        up_to: keyword of the last attribute that is read.
        memory_bytes: that it may take.
        name: it goes by in errors.

    Raises:
        DataError: not DICOM, damaged, or larger than ``memory_bytes``.
    """
    last = Tag(up_to)

    def is_past(tag: BaseTag, vr: str | None, length: int) -> bool:
        return tag > last

    with refusing(name):
        refuse_larger(name, len(content), memory_bytes=memory_bytes)
        stream = BytesIO(content)
        if may_be_crowded(len(content), memory_bytes=memory_bytes):
            _refuse_crowd_in(name, stream, syntax, memory_bytes)
            stream.seek(0)
        is_implicit, is_little = _encoding(syntax)
        return parse(stream, is_implicit, is_little, stop_when=is_past)


def _meta(path: Path, file: BufferedReader, size: int, memory_bytes: int) -> FileMetaDataset:
    """Return a file's meta header, and leave it where the data set begins."""
    start = file.read(MAGIC_AT + len(MAGIC))
    if start[MAGIC_AT:] != MAGIC:
        file.seek(0)
        return FileMetaDataset()
    if may_be_crowded(size, memory_bytes=memory_bytes):
        refuse_crowd(
            path, file, is_implicit=False, is_little=True, memory_bytes=memory_bytes, group=META
        )
        file.seek(len(start))
    # the length that the header tells of itself is not what ends it
    return FileMetaDataset(
        parse(file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_past_meta)
    )


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != META


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn whatever a DICOM library raises over a bad file into one typed error that names it.

    Raises:
        DataError: anything went wrong inside.
    """
    # pydicom warns with the values of attributes, which may name a patient
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except RecursionError:
        raise DataError(f"{path}: its sequences are nested too deeply; copy it again") from None
    except MemoryError:
        raise DataError(f"{path}: reading it takes more memory than there is") from None
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == RUST_PANIC):
            raise
        # its text may hold what the file says of its patient
        what = f"not a DICOM file that can be read ({type(error).__name__})"
        if isinstance(error, OSError) and error.strerror:
            what = f"cannot be read ({error.strerror})"
        raise DataError(f"{path}: {what}; copy it again, or remove it") from None


def _refuse_crowd_in(
    path: Path, file: BufferedIOBase, syntax: str | None, memory_bytes: int
) -> None:
    """Count the elements of a data set that is large enough to be a danger."""
    start = file.tell()
    is_explicit = file.read(6)[4:].isalpha()
    file.seek(start)
    is_implicit, is_little = _encoding(syntax) if syntax else (not is_explicit, True)
    refuse_crowd(
        path, file, is_implicit=is_implicit, is_little=is_little, memory_bytes=memory_bytes
    )


def _encoding(syntax: str) -> tuple[bool, bool]:
    """Whether elements do not tell their types, and whether their lowest byte comes first."""
    return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian


def _inflated(
    path: Path, file: BufferedIOBase, meta: FileMetaDataset, memory_bytes: int, *, with_pixels: bool
) -> Dataset:
    """Parse a deflated data set (PS3.5 A.5); pydicom would unpack it whatever its size."""
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), memory_bytes + 1)
    refuse_larger(path, len(content), memory_bytes=memory_bytes)
    stream = BytesIO(content)
    if may_be_crowded(len(content), memory_bytes=memory_bytes):
        _refuse_crowd_in(path, stream, ExplicitVRLittleEndian, memory_bytes)
        stream.seek(0)

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        return not with_pixels and tag in PIXELS

    dataset = parse(stream, is_implicit_VR=False, is_little_endian=True, stop_when=at_pixels)
    dataset.file_meta = meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _complete(dataset: Dataset) -> None:
    """Name the transfer syntax where the file does not: decoders ask for it."""
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    is_implicit, is_little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = plain if is_little else ExplicitVRBigEndian
