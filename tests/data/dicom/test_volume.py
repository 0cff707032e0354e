import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medkd.data import dicom, nifti
from medkd.data.dicom import volume as series_reader
from medkd.errors import DataError

SPACING_MM = (0.8, 1.3, 2.5)  # between columns, rows, slices
TURN = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]])  # directions of columns, rows, slices
VOXELS = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.uint16)


def write_slice(folder, number, **changes):
    """Write slice ``number`` of VOXELS under a name whose order is not that of the slices."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    values = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.4",
        "FrameOfReferenceUID": "1.2.5",
        "Modality": "MR",
        "Rows": 6,
        "Columns": 7,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelSpacing": [SPACING_MM[1], SPACING_MM[0]],
        "SliceThickness": SPACING_MM[2],
        "ImageOrientationPatient": [*TURN[0], *TURN[1]],
        "ImagePositionPatient": list(np.array([10, -20, 30]) + SPACING_MM[2] * number * TURN[2]),
        "PixelData": VOXELS[number].tobytes(),
    }
    dataset = Dataset()
    dataset.file_meta = meta
    for key, value in (values | changes).items():
        setattr(dataset, key, value)
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / f"{(3 * number) % 5}.dcm", enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    for number in range(5):
        write_slice(tmp_path / "series", number)
    return tmp_path / "series"


def assert_same_in_the_world(volume, other, *, atol):
    """Every voxel of ``volume`` is a voxel of ``other`` with the same value."""
    indices = np.indices(volume.shape).reshape(3, -1)
    world = volume.affine @ np.vstack([indices, np.ones(indices.shape[1])])
    places = (np.linalg.inv(other.affine) @ world)[:3]
    np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
    channels = other.array[(slice(None), *np.rint(places).astype(int))]
    np.testing.assert_allclose(volume.array.reshape(channels.shape), channels, atol=atol)
    assert volume.array.size == other.array.size


def test_a_voxel_lies_where_the_standard_says(series):
    volume = series_reader.read(series)
    z, y, x = 3, 1, 4
    lps = [10, -20, 30] + TURN.T @ (np.array([x, y, z]) * SPACING_MM)
    ras = lps * [-1, -1, 1]
    index = np.rint(np.linalg.inv(volume.affine) @ [*ras, 1]).astype(int)[:3]
    np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], ras, atol=1e-6)
    assert volume.array[(0, *index)] == VOXELS[z, y, x]
    assert sorted(volume.spacing_mm) == pytest.approx(sorted(SPACING_MM))


def test_rescale_of_each_slice_is_applied(series):
    before = series_reader.read(series).array
    for number in range(5):
        write_slice(series, number, RescaleSlope=2 + number, RescaleIntercept=-100)
    after = series_reader.read(series).array
    slopes = (after + 100)[before > 0] / before[before > 0]
    assert sorted(set(slopes)) == [2, 3, 4, 5, 6]


def test_a_series_without_frame_of_reference_is_read(series):
    before = series_reader.read(series)
    for path in series.iterdir():
        dataset = dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    np.testing.assert_array_equal(series_reader.read(series).array, before.array)


def test_hidden_files_do_not_matter(series):
    (series / ".DS_Store").write_bytes(b"not DICOM")
    assert dicom.is_dicom(series)
    assert series_reader.read(series).shape == VOXELS.shape


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImagePositionPatient": [10, -20, 30]}, "regularly"),
        ({"ImagePositionPatient": [10, -20, 31]}, "regularly"),
        ({"ImagePositionPatient": [12, -20, 30 + 4 * 2.5]}, "regularly"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "orientation"),
        ({"SeriesInstanceUID": "1.2.9"}, "same series"),
        ({"PixelSpacing": [1, 1]}, "same spacing"),
        ({"PixelData": VOXELS[0].tobytes()[:-10]}, "less than expected"),
    ],
    ids=["duplicate", "gap", "shear", "orientation", "series", "spacing", "truncated"],
)
def test_an_irregular_series_is_refused(series, changes, reason):
    write_slice(series, 4, **changes)
    with pytest.raises(DataError, match=f"series: not one regular DICOM series .*{reason}"):
        series_reader.read(series)


def test_a_missing_slice_is_refused(series):
    (series / f"{(3 * 2) % 5}.dcm").unlink()
    with pytest.raises(DataError, match="not one regular DICOM series"):
        series_reader.read(series)


def test_what_is_not_dicom_is_refused(tmp_path):
    (tmp_path / "text.dcm").write_text("not DICOM")
    assert not dicom.is_dicom(tmp_path / "text.dcm")
    with pytest.raises(DataError, match=r"text\.dcm: not one regular DICOM series"):
        series_reader.read(tmp_path / "text.dcm")


@pytest.mark.parametrize("content", [[], [("notes.txt", "text")]])
def test_a_folder_without_dicom_is_not_dicom(tmp_path, content):
    for name, text in content:
        (tmp_path / name).write_text(text)
    assert not dicom.is_dicom(tmp_path)


TWINS = {
    "sts_008_ct": "image",
    "sts_008_mr": "image",
    "sts_008_pet": "image",
    "sts_025_mr": "image",
    "mr_plain": "ground_truth",
    "ge_sagittal": "ground_truth",
    "pet_non_isotropic": "ground_truth",
    "compressed_j2k": "ground_truth",
    "compressed_jpegls": "ground_truth",
    "compressed_rle": "ground_truth",
    "philips_enhanced_multiframe": "ground_truth",
}


@pytest.mark.data
@pytest.mark.parametrize(("name", "twin"), TWINS.items())
def test_a_series_is_the_same_in_the_world_as_its_nifti_twin(name, twin, data_root):
    folder = data_root / "dicom" / "series" / name
    volume, other = series_reader.read(folder / "dicom"), nifti.read(folder / f"{twin}.nii.gz")
    assert_same_in_the_world(volume, other, atol=1e-6 * np.abs(other.array).max())


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["missing_slice", "mixed_orientation", "gantry_tilt", "not_a_volume", "ge_fmri_4d"]
)
def test_real_series_that_are_no_volume_are_refused(name, data_root):
    with pytest.raises(DataError, match="not one regular DICOM series"):
        series_reader.read(data_root / "dicom" / "series" / name / "dicom")


@pytest.mark.data
def test_a_colour_series_has_three_channels(data_root):
    volume = series_reader.read(data_root / "dicom" / "series" / "rgb_j2k" / "dicom")
    assert volume.array.shape == (3, 4, 77, 52)


@pytest.mark.data
@pytest.mark.parametrize("name", ["rtdose", "rtplan", "badVR", "MR_truncated", "reportsi"])
def test_dicom_that_is_no_image_is_refused(name, data_root):
    with pytest.raises(DataError, match=f"{name}.dcm: not one regular DICOM series"):
        series_reader.read(data_root / "dicom" / "single" / f"{name}.dcm")
