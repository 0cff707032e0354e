import errno
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from medkd.data.dicom.header import read_dataset, read_encoded
from medkd.data.dicom.volume import read
from medkd.errors import DataError
from medkd.options import ReadingOptions

MIB = 2**20
PREAMBLE = bytes(128) + b"DICM"


def test_attributes_are_read_with_and_without_pixels(tmp_path, kit):
    path = kit.save(tmp_path / "s.dcm", kit.slice_of(0))
    header = read_dataset(path, memory_bytes=MIB)
    assert (header.Rows, header.Columns, header.Modality) == (6, 7, "MR")
    assert "PixelData" not in header
    assert len(read_dataset(path, memory_bytes=MIB, with_pixels=True).PixelData) == 84


@pytest.mark.parametrize("implicit", [False, True])
def test_a_file_without_preamble_and_meta_header_is_read(tmp_path, kit, implicit):
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    dataset = kit.slice_of(0)
    write_dataset(buffer, dataset)
    path = tmp_path / "IM0001"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read(path).array[0, 0], kit.voxels[0])


def deflated(tmp_path, kit, padding, *, version=b"\0\1"):
    """Write a slice with ``padding`` bytes of zeros in a private element, deflated."""
    dataset = kit.slice_of(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    block = dataset.private_block(0x0009, "PADDING", create=True)
    block.add_new(1, "OB", bytes(padding))
    dataset.file_meta.FileMetaInformationVersion = version
    return kit.save(tmp_path / "deflated.dcm", dataset)


def test_a_deflated_file_is_read(tmp_path, kit):
    np.testing.assert_array_equal(read(deflated(tmp_path, kit, 10)).array[0, 0], kit.voxels[0])


@pytest.mark.parametrize("version", [b"\0\1", b"\0\1" * 4000], ids=["", "told late"])
def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path, kit, version):
    path = deflated(tmp_path, kit, 300 * MIB, version=version)
    assert path.stat().st_size < MIB
    tracemalloc.start()
    with pytest.raises(
        DataError,
        match=r"deflated\.dcm: takes 0\.0625 GiB, and .*memory_gib",
    ):
        read(path, ReadingOptions(memory_gib=1 / 16))
    assert tracemalloc.get_traced_memory()[1] < 200 * MIB
    tracemalloc.stop()


def test_a_deflated_file_that_ends_early_is_refused(tmp_path, kit):
    path = deflated(tmp_path, kit, 10)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"deflated\.dcm: "):
        read(path)


def written(path, content):
    """Write a file of a meta header and these bytes."""
    empty = Dataset()
    empty.file_meta = FileMetaDataset()
    empty.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    empty.file_meta.MediaStorageSOPClassUID = MRImageStorage
    empty.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    empty.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes() + content)
    return path


LITTLE = ReadingOptions(memory_gib=1 / 128)
OPENED = bytes.fromhex("00522992 53510000 ffffffff")  # (5200,9229), a sequence without an end
ITEM, EMPTY_ITEM = bytes.fromhex("feff00e0 ffffffff"), bytes.fromhex("feff00e0 00000000")


@pytest.mark.parametrize("memory_gib", [8, 1 / 4096])
@pytest.mark.parametrize("depth", [50, 5000])
def test_sequences_however_deep_are_refused(tmp_path, depth, memory_gib):
    path = written(tmp_path / "deep.dcm", (OPENED + ITEM) * depth)
    with pytest.raises(DataError, match=r"deep\.dcm: "):
        read(path, ReadingOptions(memory_gib=memory_gib))


def test_a_crowd_of_elements_is_refused_before_it_is_made(tmp_path):
    path = written(tmp_path / "crowd.dcm", OPENED + EMPTY_ITEM * 30_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"crowd\.dcm: holds more than 8192 elements"):
        read(path, LITTLE)
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("length", [b"\xff\xff\xff\x0f", b"\0\0\0\0"])
def test_a_crowd_is_found_whatever_the_meta_header_says_of_its_length(tmp_path, length):
    path = written(tmp_path / "crowd.dcm", OPENED + EMPTY_ITEM * 30_000)
    content = bytearray(path.read_bytes())
    content[140:144] = length
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"crowd\.dcm: holds more than 8192 elements"):
        read(path, LITTLE)


def test_a_crowd_in_the_meta_header_is_refused(tmp_path):
    sequence = bytes.fromhex("02002001 53510000 ffffffff") + EMPTY_ITEM * 30_000
    path = tmp_path / "crowd.dcm"
    path.write_bytes(PREAMBLE + sequence)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"crowd\.dcm: holds more than 8192 elements"):
        read(path, LITTLE)
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_encoded_data_set_is_read_up_to_an_attribute(kit, syntax):
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax.is_implicit_VR
    write_dataset(buffer, kit.slice_of(0))
    found = read_encoded(
        buffer.getvalue(),
        syntax,
        up_to="SeriesInstanceUID",
        memory_bytes=MIB,
        name=Path("an object"),
    )
    assert found.SeriesInstanceUID == kit.slice_of(0).SeriesInstanceUID
    assert "Rows" not in found


@pytest.mark.parametrize("content", [(OPENED + ITEM) * 5000, OPENED + EMPTY_ITEM * 30_000])
def test_an_encoded_data_set_is_guarded_as_a_file_is(content):
    crowd = bytes.fromhex("08001011") + content[4:]  # (0008,1110) stands before what is asked for
    with pytest.raises(DataError, match="an object: "):
        read_encoded(
            crowd,
            ExplicitVRLittleEndian,
            up_to="SeriesInstanceUID",
            memory_bytes=64 * MIB,
            name=Path("an object"),
        )


def test_a_file_larger_than_memory_is_refused_unread(tmp_path):
    path = tmp_path / "huge.dcm"
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        file.truncate(2**34)  # sparse
    with pytest.raises(DataError, match=r"huge\.dcm: takes 16 GiB"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"text", PREAMBLE, PREAMBLE + b"\x02\0"])
def test_what_holds_nothing_is_refused(tmp_path, content):
    path = tmp_path / "empty.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"empty\.dcm: "):
        read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.dcm: no such file"):
        read(tmp_path / "gone.dcm")


def test_a_disk_that_fails_is_told_as_such(tmp_path, monkeypatch):
    def fail(self, *args, **options):
        raise OSError(errno.EIO, "Input/output error", str(self))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DataError, match=r"a\.dcm: cannot be read \(Input/output error\); "):
        read_dataset(tmp_path / "a.dcm", memory_bytes=MIB)


def test_no_message_tells_what_the_file_says_of_its_patient(tmp_path, kit):
    """Neither the error nor a warning: pydicom's name the values that it takes exception to."""
    dataset = kit.slice_of(0)
    dataset.add_new("PatientBirthDate", "DA", "19560304")
    path = kit.save(tmp_path / "p.dcm", dataset)
    content = path.read_bytes().replace(b"19560304", b"DOE^JANE")
    content = content.replace(b"US\x02\x00\x06\x00", b"IS\x04\x00DOE^")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert "DOE" not in str(caught.value)
    assert dcmread(path, force=True) is not None
