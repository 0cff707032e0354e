import highdicom as hd  # noqa: TID253
import numpy as np
import pytest

from medkd.data.dicom.reference import read_reference
from medkd.data.dicom.volume import read
from medkd.device import load
from medkd.device.dicom.segmentation import segmentation
from medkd.device.dicom.source import Source, release_id, save
from medkd.device.guard import Finding
from medkd.device.predictor import Prediction
from medkd.errors import DataError
from medkd.options import ReadingOptions

VALUES = np.array([0, 7, 255])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}
LEFT = {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
UNLIKE = Finding(distance=9, limit=2, reasons=("spacing of axis 2: 5 mm, expected 0.8-1.2",))


def answered(folder, release, *, finding=None, seed=0):
    volume, manifest = read(folder), load(release).manifest
    mask = VALUES[np.random.default_rng(seed).integers(0, 3, volume.shape)]
    mask[2] = 0  # a slice without anything
    source = Source.read(sorted(folder.iterdir()), volume)
    made = segmentation(Prediction(mask=mask, finding=finding), volume, source, manifest)
    return made, mask, volume, source


def read_back(made, path):
    """Return a SEG's label values and affine (RAS), read by highdicom from its file."""
    save(made, path)
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return VALUES[volume.array], LPS @ volume.affine


def test_a_mask_comes_back_identical_on_the_same_grid(release_3d, write_series, tmp_path):
    made, mask, volume, _ = answered(write_series(tmp_path / "one"), release_3d)
    back, affine = read_back(made, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(back, mask)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-6)


def test_it_refers_to_the_images_their_patient_and_frame(release_3d, write_series, tmp_path):
    made, _, _, source = answered(write_series(tmp_path / "one"), release_3d)
    (series,) = made.ReferencedSeriesSequence
    referred = {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence}
    assert referred == {header.SOPInstanceUID for header in source.headers}
    first = source.headers[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert made[keyword].value == first[keyword].value
    assert made.SeriesInstanceUID != first.SeriesInstanceUID
    by_place = {tuple(h.ImagePositionPatient): h.SOPInstanceUID for h in source.headers}
    for frame in made.PerFrameFunctionalGroupsSequence:
        (derivation,) = frame.DerivationImageSequence
        (image,) = derivation.SourceImageSequence
        place = tuple(frame.PlanePositionSequence[0].ImagePositionPatient)
        assert image.ReferencedSOPInstanceUID == by_place[place]


def test_segments_carry_codes_and_the_algorithm(release_3d, changed, write_series, tmp_path):
    release = changed(release_3d, codes={"organ": LIVER | {"modifier": LEFT}})
    made, *_ = answered(write_series(tmp_path / "one"), release)
    organ, lesion = made.SegmentSequence
    assert (organ.SegmentLabel, lesion.SegmentLabel) == ("organ", "lesion")
    (code,) = organ.SegmentedPropertyTypeCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("10200004", "SCT")
    (modifier,) = code.SegmentedPropertyTypeModifierCodeSequence
    assert (modifier.CodeValue, modifier.CodeMeaning) == ("7771000", "Left")
    (own,) = lesion.SegmentedPropertyTypeCodeSequence
    assert "SegmentedPropertyTypeModifierCodeSequence" not in own
    assert (own.CodeMeaning, own.CodingSchemeDesignator) == ("lesion", "99MEDKD")
    (algorithm,) = organ.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "medkd student"
    assert release_id(load(release).manifest) in algorithm.AlgorithmVersion


def test_the_same_answer_has_the_same_uid_and_another_has_another(
    release_3d, changed, write_series, tmp_path
):
    one = write_series(tmp_path / "one")
    uids = [answered(one, release_3d, seed=seed)[0].SOPInstanceUID for seed in (0, 1)]
    assert uids[0] == uids[1]
    other_release = answered(one, changed(release_3d, temperature=2.0))[0].SOPInstanceUID
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for file in sorted(one.iterdir())[:1]:
        (fewer / file.name).write_bytes(file.read_bytes())
    source = Source.read(sorted(fewer.iterdir()), read(one))
    assert len({uids[0], other_release, source.uid(load(release_3d).manifest, "segmentation")}) == 3


def test_an_image_unlike_the_usual_is_marked_where_viewers_show_it(
    release_3d, write_series, tmp_path
):
    made, *_ = answered(write_series(tmp_path / "one"), release_3d, finding=UNLIKE)
    assert "UNLIKE VALIDATED DATA" in made.SeriesDescription
    assert "UNLIKE VALIDATED DATA" in made.ContentDescription
    assert made.ImageComments == UNLIKE.verdict


def test_what_was_mended_to_read_the_images_is_in_it(release_3d, write_series, tmp_path):
    folder = write_series(tmp_path / "one")
    (folder / "001.dcm").unlink()
    volume, manifest = read(folder, ReadingOptions(resample_missing=1)), load(release_3d).manifest
    source = Source.read(sorted(folder.iterdir()), volume)
    prediction = Prediction(mask=np.zeros(volume.shape, np.uint8), finding=UNLIKE)
    save(segmentation(prediction, volume, source, manifest), tmp_path / "seg.dcm")
    found = hd.seg.segread(tmp_path / "seg.dcm")
    (remedy,) = volume.remedies
    assert found.ImageComments == f"{UNLIKE.verdict}; mended: {remedy}"
    assert found.ContentDescription == "UNLIKE VALIDATED DATA, images mended"


def test_images_that_nothing_can_refer_to_are_refused(release_3d, write_series, tmp_path):
    folder = write_series(tmp_path / "one")
    volume, manifest = read(folder), load(release_3d).manifest
    source = Source.read(sorted(folder.iterdir()), volume)
    for header in source.headers:
        del header.Rows
    prediction = Prediction(mask=np.zeros(volume.shape, np.uint8))
    with pytest.raises(DataError, match="no DICOM SEG can refer to these images"):
        segmentation(prediction, volume, source, manifest)
    (folder / "000.dcm").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000\.dcm: without SOPInstanceUID"):
        Source.read(sorted(folder.iterdir()), volume)


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        *("sts_008_ct", "sts_025_mr", "sts_008_pet", "hippocrop_11", "ct_torchio", "ge_sagittal"),
        *("mr_implicit", "compressed_jpegls", "pet_non_isotropic", "philips_enhanced_multiframe"),
    ],
)
def test_masks_of_real_series_come_back_identical(name, release_3d, data_root, tmp_path):
    folder = data_root / "dicom" / "series" / name / "dicom"
    made, mask, volume, _ = answered(folder, release_3d)
    back, affine = read_back(made, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(back, mask)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-3)


@pytest.mark.data
def test_a_single_picture_without_a_place_gets_a_mask(release_2d, data_root, tmp_path):
    file = data_root / "dicom" / "single" / "dx_image.dcm"
    volume = read(file)
    source = Source.read([file], volume)
    mask = VALUES[np.random.default_rng(0).integers(0, 3, volume.shape)]
    made = segmentation(Prediction(mask=mask), volume, source, load(release_2d).manifest)
    save(made, tmp_path / "seg.dcm")
    back = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        [source.headers[0].SOPInstanceUID], combine_segments=True
    )
    np.testing.assert_array_equal(VALUES[back[0]], mask)


def test_segments_that_overlap_come_back_voxel_by_voxel(
    release_overlapping, write_series, tmp_path
):
    folder = write_series(tmp_path / "one")
    volume, manifest = read(folder), load(release_overlapping).manifest
    mask = np.random.default_rng(0).integers(0, 2, (2, *volume.shape)).astype(np.uint8)
    mask[:, 2] = 0  # a slice without anything
    source = Source.read(sorted(folder.iterdir()), volume)
    made = segmentation(Prediction(mask=mask), volume, source, manifest)
    path = tmp_path / "seg.dcm"
    save(made, path)
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["organ", "lesion"]
    labels = {"organ": 3, "lesion": 4}
    found = read_reference(path, volume, labels, overlapping=True)
    np.testing.assert_array_equal(found.array, mask)
