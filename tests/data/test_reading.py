import shutil
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medkd.config import load
from medkd.data import nifti
from medkd.data.quality.examine import examine
from medkd.data.reader import read_image, read_label
from medkd.data.reading import (
    from_small_to_large,
    image_of,
    images_alone,
    label_of,
    label_on_image,
    options_of,
)
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Case


def slice_of(uid, number, value):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{uid}.{number}"
    dataset.SeriesInstanceUID, dataset.Modality = uid, "CT"
    dataset.Rows = dataset.Columns = 4
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, number]
    dataset.PixelData = bytes([value]) * 16
    return dataset


@pytest.fixture
def folder(tmp_path):
    """Two series of two slices in one folder."""
    (tmp_path / "study").mkdir()
    for value, uid in ((10, "1.7"), (20, "1.8")):
        for number in range(2):
            path = tmp_path / "study" / f"{value}-{number}.dcm"
            slice_of(uid, number, value).save_as(path, enforce_file_format=True)
    return tmp_path / "study"


def test_the_datalist_says_which_series_of_a_folder_is_meant(make_config, folder):
    config = load(make_config(), overrides=["data.series=uid"])
    case = Case("c", folder, None, "p", {"uid": "1.8"})
    assert (image_of(case, config).array == 20).all()
    assert (image_of(replace(case, attributes={"uid": "1.7"}), config).array == 10).all()
    with pytest.raises(DataError, match="2 series"):
        image_of(replace(case, attributes={"uid": ""}), config)
    with pytest.raises(DataError, match=r"case c: no column 'uid', which data.series names"):
        image_of(replace(case, attributes={}), config)


def test_a_series_that_shares_its_folder_can_be_read_without_the_datalist(make_config, folder):
    config = load(make_config(), overrides=["data.series=uid"])
    shared = Case("c", folder, None, "p", {"uid": "1.8"})
    alone = Case("d", folder.parent / "d.nii.gz", None, "p", {"uid": ""})
    with images_alone([shared, alone], config) as images:
        ((only,), others) = images
        assert (read_image(only).array == 20).all()
        assert others == alone.images
    assert not only.exists()


def test_options_of_the_config_hold_for_every_case(make_config, folder):
    config = load(make_config(), overrides=["preprocess.reading.series={uid: '1.7'}"])
    case = Case("c", folder, None, "p")
    assert (image_of(case, config).array == 10).all()
    assert options_of(case, config) == config.preprocess.reading
    assert config.preprocess.of_anyone.reading.series.uid is None


def test_a_label_map_is_read_on_the_grid_of_its_image(make_config, tmp_path):
    config = load(make_config(), overrides=["preprocess.reading.shear_correct=true"])
    skewed = np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nifti.write(tmp_path / "i.nii", np.ones((4, 4, 4), np.float32), affine=skewed)
    nifti.write(tmp_path / "l.nii", np.full((4, 4, 4), 2, np.uint8), affine=skewed)
    case = Case("c", tmp_path / "i.nii", tmp_path / "l.nii", "p")
    image, label = image_of(case, config), label_of(case, config)
    assert image.shape == label.shape
    np.testing.assert_allclose(image.affine, label.affine)
    assert set(np.unique(label.array)) == {0, 2}


@pytest.mark.data
def test_a_nifti_label_of_a_dicom_series_is_turned_onto_its_slices(data_root):
    folder = data_root / "dicom/series/ct_body_j2k"
    case = Case("c", folder / "dicom", folder / "segmentation.nii.gz", "p")
    label, stored = label_on_image(case, {}, ReadingOptions()), read_label(case.label)
    image = read_image(case.image)
    assert stored.shape == (512, 512, 20)
    assert label.shape == image.shape == (20, 512, 512)
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-3)
    seen = np.argwhere(label.array[0])[::997]
    places = np.linalg.inv(stored.affine) @ label.affine @ np.c_[seen, np.ones(len(seen))].T
    there = np.rint(places[:3]).astype(int)
    np.testing.assert_allclose(there, places[:3], atol=1e-3)
    np.testing.assert_array_equal(stored.array[0][tuple(there)], label.array[0][tuple(seen.T)])
    assert np.bincount(label.array.ravel()).tolist() == np.bincount(stored.array.ravel()).tolist()
    assert not examine(case).findings
    body = image.array[0][label.array[0] > 0]
    assert np.median(body) > np.median(image.array) + 500  # inside the body is no air


@pytest.mark.data
def test_outlines_are_a_label_map_with_the_values_of_the_config(make_config, data_root):
    config = load(make_config(), overrides=["data.labels={gtv mass ct: 3}"])
    folder = data_root / "dicom/series/sts_008_ct"
    case = Case("c", folder / "dicom", folder / "rtstruct.dcm", "p")
    label = label_of(case, config)
    assert set(np.unique(label.array)) == {0, 3}
    assert label.shape == image_of(case, config).shape


@pytest.mark.data
@pytest.mark.parametrize("name", ["1.2.840.113", "rs.v2", "folder/1.2.840.113"])
def test_outlines_are_told_by_content_whatever_their_file_is_called(
    make_config, data_root, tmp_path, name
):
    config = load(make_config(), overrides=["data.labels={gtv mass ct: 3}"])
    folder = data_root / "dicom/series/sts_008_ct"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "rtstruct.dcm", tmp_path / name)
    label = tmp_path / name.partition("/")[0]
    known = label_of(Case("c", folder / "dicom", folder / "rtstruct.dcm", "p"), config)
    found = label_of(Case("c", folder / "dicom", label, "p"), config)
    np.testing.assert_array_equal(found.array, known.array)


@pytest.fixture
def two(make_config, folder):
    """A config of two modalities, and a case whose series share a folder."""
    overrides = ["preprocess.channels=2", "preprocess.modalities=[t1, flair]"]
    case = Case("c", folder, None, "p", {"uid_t1": "1.8", "uid_flair": "1.7"}, further=(folder,))
    return lambda *more: load(make_config(), overrides=[*overrides, *more]), case


def test_series_of_several_modalities_are_named_in_a_column_of_each(two):
    make, case = two
    config = make("data.series=uid")
    assert [image_of(case, config).array[channel].max() for channel in (0, 1)] == [20, 10]
    with images_alone([case], config) as ((first, second),):
        assert (read_image(first).array == 20).all()
        assert (read_image(second).array == 10).all()
    with pytest.raises(DataError, match=r"case c: no column 'uid_flair', which data.series names"):
        image_of(replace(case, attributes={"uid_t1": "1.8"}), config)


def test_a_rule_of_each_modality_tells_the_series_of_a_folder_apart(two):
    make, case = two
    rule = "preprocess.reading.series_of={t1: {uid: '1.7'}, flair: {uid: '1.8'}}"
    config = make(rule)
    assert [image_of(case, config).array[channel].max() for channel in (0, 1)] == [10, 20]
    with pytest.raises(DataError, match="2 series"):
        image_of(case, make("preprocess.reading.series_of={t1: {uid: '1.7'}}"))


def test_cases_from_small_to_large_are_those_of_even_shares(tmp_path):
    cases = []
    for size in (5, 16, 9, 1, 12, 3, 15, 2, 7, 10, 4, 13, 6, 11, 8, 14):
        series = tmp_path / f"{size}"
        series.mkdir()
        (series / "a.dcm").write_bytes(bytes(size - 1))
        (series / "b.dcm").write_bytes(bytes(1))
        cases.append(Case(f"c{size}", series, None, patient=str(size)))
    found = [case.id for case in from_small_to_large(cases, 4)]
    assert found == ["c3", "c7", "c11", "c15"]
    assert from_small_to_large(cases[:1], 4) == cases[:1]
    assert len(from_small_to_large(cases, 99)) == 16
    png = tmp_path / "a.png"
    png.write_bytes(bytes(99))
    largest = Case("png", png, None, patient="a")
    assert from_small_to_large([largest, *cases], 17)[-1] is largest
