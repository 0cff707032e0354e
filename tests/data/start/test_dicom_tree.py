import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from medkd.config import load
from medkd.data.quality.examine import examine
from medkd.data.quality.survey import survey
from medkd.data.start.dicom_tree import recognise
from medkd.data.start.init import init
from medkd.errors import DataError
from medkd.study import Study
from medkd.types import Case
from tests.conftest import segments
from tests.data.test_reading import slice_of

SIZE, DEPTH = 24, 8


def item(**values):
    made = Dataset()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def write_images(folder, uid, *, seed, patient="MRN0042", modality="CT"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(DEPTH):
        image = slice_of(uid, number, 0)
        image.Rows = image.Columns = SIZE
        image.PixelData = rng.integers(0, 200, (SIZE, SIZE), np.uint8).tobytes()
        image.PatientID, image.PatientName, image.Manufacturer = patient, "DOE^JANE", "Maker"
        image.Modality = modality
        image.FrameOfReferenceUID, image.StudyInstanceUID = f"{uid}.9", f"{uid}.3"
        image.save_as(folder / f"{uid}-{number}.dcm", enforce_file_format=True)


def circle(radius):
    """Return the outlines of a cylinder on the slices between the first and the last."""
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    flat = SIZE / 2 + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for number in range(1, DEPTH - 1):
        points = np.column_stack([flat, np.full(len(flat), number)])
        yield item(
            ContourGeometricType="CLOSED_PLANAR", ContourData=points.round(3).ravel().tolist()
        )


def write_outlines(path, uid, structures, *, patient="MRN0042"):
    """Write an RTSTRUCT; ``structures`` are radii by name, or None for a point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = item(SOPClassUID=RTStructureSetStorage, SOPInstanceUID=f"{uid}.5", Modality="RTSTRUCT")
    made.SeriesInstanceUID, made.PatientID = f"{uid}.6", patient
    made.PatientName = "DOE^JANE"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.ReferencedFrameOfReferenceSequence = [
        item(
            FrameOfReferenceUID=f"{uid}.9",
            RTReferencedStudySequence=[
                item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=uid)])
            ],
        )
    ]
    numbered = list(enumerate(structures, start=1))
    made.StructureSetROISequence = [item(ROINumber=n, ROIName=name) for n, name in numbered]
    made.ROIContourSequence = [
        item(
            ReferencedROINumber=n,
            ContourSequence=[item(ContourGeometricType="POINT", ContourData=[1, 1, 1])]
            if structures[name] is None
            else list(circle(structures[name])),
        )
        for n, name in numbered
    ]
    made.save_as(path, enforce_file_format=True)


def write_segments(path, images, name, *, radius):
    """Write a SEG of one structure, a cylinder, by highdicom."""
    sources = sorted(map(dcmread, images.iterdir()), key=lambda s: s.ImagePositionPatient[2])
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    shown = (rows**2 + columns**2 < radius**2)[None].repeat(DEPTH, axis=0).astype(np.uint8)
    segments(shown, sources, [name]).save_as(path)


def test_series_go_with_the_outlines_that_refer_to_them_and_nothing_tells_the_patient(tmp_path):
    for number, patient in enumerate(["MRN0042", "MRN0007", "MRN0042"]):
        uid = f"1.2.{number}"
        write_images(tmp_path / f"s{number}" / "ct", uid, seed=number, patient=patient)
        write_outlines(tmp_path / f"s{number}" / "rs.dcm", uid, {"organ": 4}, patient=patient)
    found = recognise(tmp_path)
    assert found.labels == {"organ": 1}
    assert [row.case for row in found.rows] == ["case_001", "case_002", "case_003"]
    assert [row.image for row in found.rows] == [tmp_path / f"s{n}" / "ct" for n in range(3)]
    assert len({row.patient for row in found.rows}) == 2
    assert found.rows[0].patient == found.rows[2].patient
    assert not any(text in repr(found.rows) for text in ("MRN", "DOE", "1.2.0"))


@pytest.mark.parametrize("named", [0, 2])
def test_cases_whose_patient_was_blanked_are_not_of_one(tmp_path, named):
    for number in range(4):
        uid, patient = f"1.2.{number}", "MRN0042" if number < named else ""
        write_images(tmp_path / "data" / uid, uid, seed=number, patient=patient)
        outlines = tmp_path / "data" / f"{uid}.dcm"
        write_outlines(outlines, uid, {"organ": 4}, patient=patient)
    told = [row.patient for row in recognise(tmp_path / "data").rows]
    assert told == ["patient_001"] * named + [""] * (4 - named)
    made = init(tmp_path / "data", tmp_path / "study")
    assert made.patients.how.startswith(f"TODO: nobody tells whose {4 - named} of 4 cases are")
    assert made.data.patients == (3 if named else 4)


def test_series_of_one_folder_are_told_apart(tmp_path):
    for uid in ("1.2.1", "1.2.2"):
        write_images(tmp_path, uid, seed=int(uid[-1]))
        write_outlines(tmp_path / f"{uid}.dcm", uid, {"organ": 4})
    assert [row.attributes["series_uid"] for row in recognise(tmp_path).rows] == ["1.2.1", "1.2.2"]


def test_a_structure_is_one_however_it_is_spelt_and_a_point_is_none(tmp_path):
    for number, name in enumerate(["Left Lung", "left_lung", "Left Lung"]):
        uid = f"1.2.{number}"
        write_images(tmp_path / uid, uid, seed=number)
        write_outlines(tmp_path / f"{uid}.dcm", uid, {name: 4, "isocentre": None})
    assert recognise(tmp_path).labels == {"Left Lung": 1}


def test_a_series_in_two_folders_is_refused_with_their_names(tmp_path):
    write_images(tmp_path / "ct", "1.2.3", seed=0)
    write_outlines(tmp_path / "rs.dcm", "1.2.3", {"organ": 4})
    (tmp_path / "ct2").mkdir()
    last = sorted((tmp_path / "ct").iterdir())[-1]
    last.rename(tmp_path / "ct2" / last.name)
    with pytest.raises(DataError, match=r"1 series lie in several folders.*\nct and ct2"):
        recognise(tmp_path)


def test_series_without_a_label_are_cases_unless_they_would_harm(tmp_path):
    write_images(tmp_path / "ct", "1.2.1", seed=0, patient="P1")
    write_outlines(tmp_path / "rs.dcm", "1.2.1", {"organ": 4}, patient="P1")
    write_images(tmp_path / "other", "1.2.2", seed=1, patient="P2")
    write_images(tmp_path / "again", "1.2.3", seed=2, patient="P1")
    write_images(tmp_path / "mr", "1.2.4", seed=3, patient="P3", modality="MR")
    write_images(tmp_path / "bad", "1.2.5", seed=4, patient="P4")
    (tmp_path / "bad/1.2.5-3.dcm").unlink()
    found = recognise(tmp_path)
    assert [(row.image.name, row.label is None) for row in found.rows] == [
        ("ct", False),
        ("other", True),
    ]
    assert [row.patient for row in found.rows] == ["patient_001", "patient_002"]
    assert found.remarks[0].startswith("1 series have no label")
    for why in ("of another modality", "of patients who have a labelled one", "cannot be read"):
        assert f"1 {why}" in found.remarks[1] or f"1 that {why}" in found.remarks[1]


def test_a_tree_with_series_without_a_label_passes_the_check(tmp_path):
    for number in range(12):
        uid, patient = f"1.2.{number}", f"P{number}"
        write_images(tmp_path / "data" / uid, uid, seed=number, patient=patient)
        if number < 9:
            outlines = tmp_path / "data" / f"{uid}.dcm"
            write_outlines(outlines, uid, {"organ": 4}, patient=patient)
    made = init(tmp_path / "data", tmp_path / "study")
    assert "3 series have no label" in made.summary
    found = survey(Study(load(made.config), config_path=made.config))
    assert not found.errors
    assert sum(case.label is None for case in found.cases.values()) == 3


def test_structures_by_the_name_of_a_patient_or_a_day_are_left_out(tmp_path):
    extra = ["Doe Jane GTV", "GTV 3.4.2019", "mrn7 tumour", "heart"]
    for number, name in enumerate(extra):
        uid, patient = f"1.2.{number}", f"MRN{number + 5}"
        write_images(tmp_path / uid, uid, seed=number, patient=patient)
        structures = {"Mr lung": 4, name: 2}  # of all of them, so of nobody
        write_outlines(tmp_path / f"{uid}.dcm", uid, structures, patient=patient)
    found = recognise(tmp_path)
    assert found.labels == {"Mr lung": 1, "heart": 2}
    (said,) = found.remarks
    assert said.startswith("TODO: the names of 3 structures look as if they told of a patient")
    assert not any(name in said for name in extra)


def test_a_tree_whose_names_all_tell_of_patients_is_refused_without_them(tmp_path):
    write_images(tmp_path / "ct", "1.2.3", seed=0)
    write_outlines(tmp_path / "rs.dcm", "1.2.3", {"Jane": 4})
    with pytest.raises(DataError, match="there are no others; rename them") as refusal:
        recognise(tmp_path)
    assert "Jane" not in str(refusal.value)


def test_of_structures_in_one_another_the_smaller_keeps_what_they_share(tmp_path):
    for number in range(4):
        uid, patient = f"1.2.{number}", f"P{number}"
        write_images(tmp_path / "data" / uid, uid, seed=number, patient=patient)
        outlines = {"aorta": 3, "body": 9}
        write_outlines(tmp_path / "data" / f"{uid}.dcm", uid, outlines, patient=patient)
    made = init(tmp_path / "data", tmp_path / "study")
    config = load(made.config)
    assert config.data.labels == {"body": 1, "aorta": 2}
    assert config.preprocess.reading.overlap == "last"
    row = made.layout.rows[0]
    voxels = examine(Case("c", row.image, row.label, "p"), config).voxels
    assert voxels[1] > voxels[2] > 0


def test_a_study_of_a_dicom_tree_passes_the_check_as_init_wrote_it(tmp_path):
    for number in range(12):
        uid, patient = f"1.2.{number}", f"MRN{number}"
        write_images(tmp_path / "data" / uid, uid, seed=number, patient=patient)
        outlines = tmp_path / "data" / f"{uid}.dcm"
        write_outlines(outlines, uid, {"aorta": 3, "body": 9}, patient=patient)
    made = init(tmp_path / "data", tmp_path / "study")
    found = survey(Study(load(made.config), config_path=made.config))
    assert not found.errors
    assert {len(part) for part in vars(found.split).values()} == {9, 1, 2}
    assert all(set(seen.voxels) == {0, 1, 2} for seen in found.examined.values())
    assert not any("MRN" in path.read_text() for path in (tmp_path / "study").glob("*.*"))


def test_labels_that_cannot_be_read_are_an_error_that_says_why(tmp_path):
    for number in range(2):
        uid = f"1.2.{number}"
        write_images(tmp_path / "data" / uid, uid, seed=number)
        write_outlines(tmp_path / "data" / f"{uid}.dcm", uid, {"organ": 4})
        path = tmp_path / "data" / f"{uid}.dcm"
        path.write_bytes(path.read_bytes().replace(f"{uid}.9".encode(), f"{uid}.8".encode()))
    with pytest.raises(DataError, match=r"no label can be read.*\n.*another frame of reference"):
        init(tmp_path / "data", tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_several_references_of_one_series_are_refused_with_their_names(tmp_path):
    write_images(tmp_path / "ct", "1.2.3", seed=0)
    write_outlines(tmp_path / "lung.dcm", "1.2.3", {"lung": 4})
    write_outlines(tmp_path / "tumour.dcm", "1.2.3", {"tumour": 2})
    with pytest.raises(DataError, match=r"1 series .*annotated.*\n.*lung\.dcm and tumour\.dcm"):
        recognise(tmp_path)


def test_outlines_without_their_images_are_refused(tmp_path):
    write_outlines(tmp_path / "rs.dcm", "1.2.3", {"organ": 4})
    with pytest.raises(DataError, match="not the image series they refer to"):
        recognise(tmp_path)


def test_a_folder_without_references_and_one_of_damaged_files_are_others_to_recognise(tmp_path):
    write_images(tmp_path, "1.2.3", seed=0)
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM\x02\0")
    assert recognise(tmp_path) is None
