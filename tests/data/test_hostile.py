"""Whatever the bytes of a file: a volume, or one typed error that names it.

Files of every kind are changed at random; tests/fuzz does the same for longer and on real files.
"""

import gzip
import io

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)

from medkd.data.npz import read_arrays
from medkd.data.reader import read_grid, read_image, read_label
from medkd.errors import DataError
from medkd.options import ReadingOptions

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
LITTLE = ReadingOptions(memory_gib=1 / 8)


def _nifti(suffix):
    image = nibabel.Nifti1Image(RNG.integers(0, 99, (5, 6, 7)).astype(np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a remark"))
    plain = image.to_bytes()
    return gzip.compress(plain, mtime=0) if suffix.endswith("gz") else plain


def _picture(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, kind, **options)
    return buffer.getvalue()


def _npz():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, train_images=SMOOTH, train_labels=SMOOTH[:, :1])
    return buffer.getvalue()


def _dicom(syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.SOPClassUID, dataset.SOPInstanceUID = meta, MRImageStorage, "1.2.3"
    dataset.SeriesInstanceUID, dataset.Modality = "1.2.4", "MR"
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PixelPaddingValue = 3
    dataset.RescaleSlope, dataset.RescaleIntercept = "1.5", "-10"
    dataset.PixelSpacing, dataset.SliceThickness = [1, 2], 3
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [1, 2, 3]
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2"
    dataset.ReferencedImageSequence = [item]
    dataset.PixelData = SMOOTH.tobytes()
    if syntax in {RLELossless, JPEG2000Lossless}:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


DICOM = {
    "plain": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "j2k": JPEG2000Lossless,
}


@pytest.fixture(scope="module")
def samples():
    """The bytes of a sound file of each kind, by suffix."""
    return {
        ".nii": _nifti(".nii"),
        ".nii.gz": _nifti(".nii.gz"),
        ".png": _picture("PNG"),
        ".jpg": _picture("JPEG"),
        ".tif": _picture("TIFF", compression="tiff_lzw"),
        ".npz": _npz(),
        **{name: _dicom(syntax) for name, syntax in DICOM.items()},
    }


def judge(path):
    """Read a file in every way; anything but a volume or a DataError that names it is a failure."""
    if path.suffix == ".npz":
        readers = [lambda p: read_arrays(p, wanted=bool, memory_bytes=LITTLE.memory_bytes)]
    else:
        readers = [lambda p: read_image(p, LITTLE), lambda p: read_label(p, LITTLE)]
        readers.append(lambda p: read_grid(p, LITTLE))
    for read in readers:
        said = said_of(read, path)
        assert said is None or said.startswith(str(path))
        assert len((said or "").splitlines()) <= 1


def said_of(read, path):
    """Return the error of reading a file; None of one that is read."""
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None


@st.composite
def mutations(draw):
    """Return a change of a file: places, as shares of its length, and what happens there."""
    kinds = st.sampled_from(["set", "flip", "cut", "insert", "repeat", "end"])
    places = st.floats(0, 1, exclude_max=True)
    step = st.tuples(kinds, places, st.integers(0, 255), st.integers(1, 9))
    return draw(st.lists(step, min_size=1, max_size=6)), draw(st.booleans())


def mutate(content, steps, *, near_start):
    """Apply changes; most that matter lie near the start, where headers are."""
    changed = bytearray(content)
    for kind, place, value, length in steps:
        at = int(place * min(len(changed), 400 if near_start else len(changed)))
        if kind == "set":
            changed[at : at + length] = bytes([value]) * len(changed[at : at + length])
        elif kind == "flip" and at < len(changed):
            changed[at] ^= 1 << (value % 8)
        elif kind == "cut":
            del changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = bytes([value]) * length
        elif kind == "repeat":
            changed[at:at] = changed[at : at + 16 * length]
        elif kind == "end":
            del changed[at:]
    return bytes(changed)


QUIET = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_the_files_are_sound_before_they_are_changed(samples, tmp_path):
    for kind, content in samples.items():
        path = tmp_path / (f"{kind}.dcm" if kind in DICOM else f"whole{kind}")
        path.write_bytes(content)
        assert (read_arrays(path, wanted=bool) if kind == ".npz" else read_image(path)) is not None


@pytest.mark.parametrize("kind", [".nii", ".nii.gz", ".png", ".jpg", ".tif", ".npz", *DICOM])
@QUIET
@given(mutations())
def test_a_changed_file_is_a_volume_or_one_error(samples, tmp_path, kind, change):
    path = tmp_path / (f"{kind}.dcm" if kind in DICOM else f"changed{kind}")
    path.write_bytes(mutate(samples[kind], change[0], near_start=change[1]))
    judge(path)


@pytest.mark.parametrize("kind", DICOM)
@QUIET
@given(mutations())
def test_a_series_with_a_changed_file_is_a_volume_or_one_error(samples, tmp_path, kind, change):
    (tmp_path / "series").mkdir(exist_ok=True)
    for number in range(3):
        content = samples[kind].replace(b"1\\2\\3 ", f"1\\2\\{number + 3} ".encode())
        changed = mutate(content, change[0], near_start=change[1]) if number == 1 else content
        (tmp_path / "series" / f"{number}.dcm").write_bytes(changed)
    said = said_of(lambda path: read_image(path, LITTLE), tmp_path / "series")
    assert said is None or said.startswith(str(tmp_path / "series"))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".jpg", ".tif", ".npz", ".dcm"])
@QUIET
@given(st.binary(max_size=700), st.booleans())
def test_bytes_of_no_meaning_are_one_error(tmp_path, suffix, content, marked):
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(bytes(128) + b"DICM" + content if marked and suffix == ".dcm" else content)
    with pytest.raises(DataError):
        read_arrays(path, wanted=bool) if suffix == ".npz" else read_image(path, LITTLE)
    judge(path)
