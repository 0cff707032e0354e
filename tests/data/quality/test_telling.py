import gzip
import re

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medkd.data.quality.telling import (
    DIRECT,
    LONGEST,
    OWN_WORDS,
    PATTERNS,
    PLACE_TAKEN,
    _profile,
    is_direct,
    looks_like,
    telling,
)

UID_OF_FILE = "MediaStorageSOPInstanceUID"  # DICOM has none without
SECRETS = ("Doe", "19560304", "MRN0042", "Mercy", "1.2.826.0.1.77")


def dicom(path, **changes):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.Rows = "CT", 2
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_header_tells_the_names_of_what_it_says_and_not_what(tmp_path):
    item = Dataset()
    item.ScheduledPerformingPhysicianName = "Roe^Richard"
    path = dicom(
        tmp_path / "x.dcm",
        PatientName="Doe^Jane",
        PatientID="MRN0042",
        PatientBirthDate="19560304",
        StudyDate="20200102",
        InstitutionName="Mercy",
        SeriesInstanceUID="1.2.826.0.1.77",
        ReferringPhysicianName="",
        PatientComments="anonymous",
        ReferencedStudySequence=[item],
    )
    told = telling(path)
    assert set(told) == {
        *("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "InstitutionName"),
        *("SeriesInstanceUID", "ScheduledPerformingPhysicianName"),
        *("ReferencedStudySequence", UID_OF_FILE),
    }
    assert not any(secret in " ".join(told) for secret in SECRETS)


def test_a_header_without_a_patient_tells_nothing(tmp_path):
    path = dicom(tmp_path / "x.dcm", PatientName="ANONYMOUS", PatientID="")
    assert telling(path) == (UID_OF_FILE,)


def test_every_file_of_a_series_is_asked(tmp_path):
    for number in range(5):
        dicom(tmp_path / f"{number}.dcm", **({"PatientName": "Doe^Jane"} if number == 3 else {}))
    assert set(telling(tmp_path)) == {UID_OF_FILE, "PatientName"}


@pytest.mark.parametrize(
    "told",
    [
        {"ClinicalTrialSubjectID": "S-7"},
        {"PatientAge": "043Y"},
        {"GantryID": "G2"},
        {"TextString": "seen at noon"},
        {"PerformedProcedureStepID": "77"},
    ],
)
def test_what_the_basic_profile_removes_is_told(tmp_path, told):
    path = dicom(tmp_path / "x.dcm", **told, KVP="120", Manufacturer="Maker")
    assert set(telling(path)) == {UID_OF_FILE, *told}


def test_the_profile_names_attributes_of_dicom():
    """As many as its table has, but for those the dictionary lacks."""
    known = _profile()
    repeating = {"OverlayComments", "OverlayData", "CurveData"}
    assert all(tag_for_keyword(keyword) for keyword in known - repeating)
    assert len(known) == 627 + len(repeating)
    assert known > DIRECT


def test_private_attributes_are_told(tmp_path):
    path = tmp_path / "x.dcm"
    dicom(path)
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.private_block(0x0009, "VENDOR", create=True).add_new(1, "LO", "Doe^Jane")
    dataset.save_as(path)
    assert telling(path) == (UID_OF_FILE, "private attributes")


def test_private_attributes_are_told_wherever_they_lie_and_what_lies_in_them(tmp_path):
    from pydicom import dcmread

    item, inside = Dataset(), Dataset()
    item.private_block(0x0011, "VENDOR", create=True).add_new(1, "LO", "x")
    path = dicom(tmp_path / "x.dcm", ReferencedImageSequence=[item])
    assert set(telling(path)) == {UID_OF_FILE, "ReferencedImageSequence", "private attributes"}
    dataset = dcmread(dicom(tmp_path / "y.dcm"))
    inside.PatientName = "Doe^Jane"
    dataset.private_block(0x0011, "VENDOR", create=True).add_new(1, "SQ", [inside])
    dataset.save_as(tmp_path / "y.dcm")
    assert set(telling(tmp_path / "y.dcm")) == {UID_OF_FILE, "PatientName", "private attributes"}


def test_an_element_of_another_type_hides_no_other(tmp_path):
    """Its VR is the file's, whatever the dictionary says; what cannot be decoded is told."""
    from pydicom import DataElement

    path = dicom(tmp_path / "x.dcm", PatientName="Doe^Jane", BurnedInAnnotation="YES")
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset[0x0008, 0x1140] = DataElement(0x00081140, "LO", "no sequence")
    dataset[0x0040, 0xA30A] = DataElement(0x0040A30A, "DS", "1.5")
    dataset.save_as(path)
    content = path.read_bytes().replace(b"1.5 ", b"a.b ")
    path.write_bytes(content)
    assert {"PatientName", "burned in", UID_OF_FILE} <= set(telling(path))


def test_overlays_and_curves_are_told(tmp_path):
    from pydicom import DataElement, dcmread

    path = dicom(tmp_path / "x.dcm")
    dataset = dcmread(path)
    dataset[0x6002, 0x4000] = DataElement(0x60024000, "LT", "seen by Dr Roe")
    dataset[0x5000, 0x3000] = DataElement(0x50003000, "OW", b"ab")
    dataset.save_as(path)
    assert set(telling(path)) == {UID_OF_FILE, "OverlayComments", "CurveData"}


def test_who_a_patient_is_is_said_by_names_of_persons_and_not_of_things():
    direct = ("PatientName", "PhysiciansOfRecord", "ResponsiblePerson", "ClinicalTrialSubjectID")
    assert all(map(is_direct, direct))
    assert not any(map(is_direct, ("ROIName", "RTPlanName", "InstitutionName", "StudyDate")))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned in"),
        ({"Modality": "US"}, "may be burned in"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "may be burned in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "may be burned in"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, None),
        ({"Modality": "DX"}, None),
        ({"RecognizableVisualFeatures": "YES"}, "a face"),
    ],
)
def test_hints_of_what_pixels_show(tmp_path, changes, told):
    found = telling(dicom(tmp_path / "x.dcm", **changes))
    assert [name for name in found if " " in name] == ([told] if told else [])


def nifti(path, field, text):
    kind = nibabel.Nifti1Pair if path.suffix == ".hdr" else nibabel.Nifti1Image
    image = kind(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header[field] = text
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
@pytest.mark.parametrize("field", ["descrip", "aux_file", "db_name"])
def test_texts_of_a_nifti_header_are_looked_through(tmp_path, suffix, field):
    path = nifti(tmp_path / f"i{suffix}", field, b"Doe^Jane")
    assert telling(path) == (f"NIfTI {field}: a name",)


@pytest.mark.parametrize(
    "text",
    [
        *("FSL5.0", "FSL3.3\0 v2.25 NIfTI-1 Single file format", "5.0.10", "SPM12", ""),
        *("spm - 3D normalized", "FreeSurfer May 13 2013", "TE=5.8;Time=161353.260;phase=1"),
        *(
            "?TR:6000.000 TE:39",
            "6.0.5:9e026117",
            "6.0.5:ddc0a010",
            "ITK 5.3",
            "MRtrix version: 3.0.3",
            "Red-Yellow",
        ),
    ],
)
def test_what_programs_write_into_a_nifti_header_tells_nothing(tmp_path, text):
    assert telling(nifti(tmp_path / "i.nii", "descrip", text.encode())) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Jane Doe", OWN_WORDS),
        ("Doe, Jane", OWN_WORDS),
        ("DOE_JANE", OWN_WORDS),
        ("TE=5.8;Time=161353.260;name=Doe", OWN_WORDS),
        ("FSL5.0\0Doe", OWN_WORDS),
        ("pat id 12345", "a patient's number"),
        ("born 03/04/56", "a date"),
        ("born in 56", "a birth"),
        ("4 Mar 1956", "a date"),
        ("FreeSurfer 4 Mar 1956", "a date"),
    ],
)
@pytest.mark.parametrize("field", ["descrip", "comment"])
def test_what_people_write_there_is_told(tmp_path, text, kind, field):
    path = tmp_path / "i.nii"
    if field == "descrip":
        nifti(path, field, text.encode())
    else:
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", text.encode()))
        nibabel.save(image, path)
    (told,) = telling(path)
    assert told == f"NIfTI {field if field == 'descrip' else 'extension (comment)'}: {kind}"
    assert is_direct(told) is (kind != OWN_WORDS)


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (6, b"born 1956-03-04", "NIfTI extension (comment): a date"),
        (4, b"<Date>1956-03-04</Date>", "NIfTI extension: a date"),
        (2, b"\x10\x00\x10\x00", "NIfTI extension (DICOM): a DICOM header"),
        (6, b"resampled", None),
    ],
)
def test_extensions_of_nifti_are_looked_through(tmp_path, code, text, told):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, text))
    content = bytearray(image.to_bytes())
    content[356:360] = code.to_bytes(4, "little")
    (tmp_path / "i.nii.gz").write_bytes(gzip.compress(bytes(content)))
    assert telling(tmp_path / "i.nii.gz") == ((told,) if told else ())


def test_texts_beside_pixels_are_looked_through(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "patient MRN 00420042")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "i.png", pnginfo=text)
    assert telling(tmp_path / "i.png") == ("text Comment: a patient's number",)


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        (0x010E, "Doe, Jane", "EXIF 270: words of its own"),
        (0x010E, "ImageJ=1.53t", None),
        (0x0132, "2011:02:03 10:11:12", "EXIF 306: a date"),
        (0x013B, "Dr Roe", "EXIF 315: a name"),
        (0x9C9C, "born 4 Mar 1956".encode("utf-16-le"), "EXIF 40092: a date"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_is_looked_through(tmp_path, suffix, tag, value, told):
    exif = Image.Exif()
    exif[tag] = value
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"i{suffix}", exif=exif)
    assert telling(tmp_path / f"i{suffix}") == ((told,) if told else ())


@pytest.mark.parametrize(
    ("ifd", "tag", "value", "told"),
    [
        (0x8769, 0x9286, b"ASCII\0\0\0Doe, Jane", "EXIF 37510: words of its own"),
        (0x8769, 0x9286, b"UNICODE\0" + "Dr Roe".encode("utf-16-le"), "EXIF 37510: a name"),
        (0x8769, 0x9003, "2011:02:03 10:11:12", "EXIF 36867: a date"),
        (0x8769, 0x927C, b"\x89\x50^\xa6 Dr Roe", None),  # numbers of a maker's own
        (0x8825, 2, (48.0, 8.0, 2.0), f"EXIF GPS: {PLACE_TAKEN}"),
    ],
)
def test_what_lies_deeper_in_exif_is_looked_through(tmp_path, ifd, tag, value, told):
    exif = Image.Exif()
    exif.get_ifd(ifd)[tag] = value
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "i.jpg", exif=exif)
    assert telling(tmp_path / "i.jpg") == ((told,) if told else ())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"comment": b"Doe, Jane"}, "text comment: words of its own"),
        ({"comment": b"seen by Dr Roe"}, "text comment: a name"),
        ({"comment": b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), default quality"}, None),
        (
            {"xmp": b"<dc:title>born 1956-03-04</dc:title>"},
            "text xmp: a date",
        ),
    ],
)
def test_bytes_beside_the_pixels_of_a_jpeg_are_looked_through(tmp_path, content, told):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "i.jpg", **content)
    assert telling(tmp_path / "i.jpg") == ((told,) if told else ())


def test_when_a_picture_was_taken_is_no_date_of_birth():
    assert not any(map(is_direct, ("EXIF 306: a date", "EXIF GPS: " + PLACE_TAKEN)))
    assert is_direct("EXIF 315: a date")


def test_words_that_a_picture_calls_its_texts_by_are_counted_and_not_shown(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Doe^Jane", "no word of her")
    text.add_text("MRN 00420042", "nor here")
    text.add_text("Patient", "Roe^Richard")
    text.add_text("Author", "Dr Roe")
    text.add_text("EXIF Doe", "nothing")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "i.png", pnginfo=text)
    assert telling(tmp_path / "i.png") == (
        "text Author: a name",
        "2 texts by names of their own: a name",
        "1 texts by names of their own: a patient's number",
    )


LONG = 2**20
HOSTILE = ("a", "aa ", "a@", "1.", "1.1", "0", "0.", "-", "mr ", "a.b@c-", "19", "1-1-")


@pytest.mark.parametrize("piece", HOSTILE)
def test_of_a_long_text_no_more_is_looked_at_than_a_bound(piece):
    class Measured(str):
        __slots__ = ()

        def __getitem__(self, part):
            assert part == slice(None, LONGEST, None)
            return str(self)[part]

    text = Measured((piece * LONG)[:LONG])
    assert looks_like(text) is not None
    assert looks_like(str(text)[:LONGEST]) in {None, looks_like(text)}


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_pattern_goes_back_over_what_it_has_passed(piece):
    """Matches are as short as they can be, and only UIDs and domains repeat a class."""
    text = (piece * LONGEST)[:LONGEST] + "\x00"
    for what, pattern in PATTERNS.items():
        found = pattern.search(text)
        assert found is None or len(found[0]) < 16 or what == "a DICOM UID"


FORMER = {
    "a name": r"[A-Za-z]{2,}\^[A-Za-z]*|(?i:\b(?:mr|mrs|dr)\.? [a-z]{2,})",
    "an address": r"[\w.+-]+@[\w-]+\.\w+",
    "a number of six digits or more": r"(?<![\d.])\d{6,}(?!\d)",
}


@given(st.text(st.sampled_from("aZ^@.-_ 019mrd"), max_size=40))
def test_the_start_of_a_match_is_as_good_as_all_of_it(text):
    for what, pattern in FORMER.items():
        assert bool(re.search(pattern, text)) == bool(PATTERNS[what].search(text))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("DOE^JANE", "a name"),
        ("seen by Dr Roe", "a name"),
        ("1956-03-04", "a date"),
        ("scan_19560304", "a date"),
        ("4.3.1956", "a date"),
        ("born 03/04/56", "a date"),
        ("12/31/1956", "a date"),
        ("04.03.56", "a date"),
        ("4 Mar 1956", "a date"),
        ("4-MAR-56", "a date"),
        ("March 4, 1956", "a date"),
        ("4. März 1956", "a date"),
        ("newborn_12", None),
        ("patient-12_T1", None),
        ("march_12", None),
        ("10.2.5", None),
        ("T1/T2", None),
        ("1/2/3", None),
        ("1.2.826.0.1.3680043.2", "a DICOM UID"),
        ("jane@doe.org", "an address"),
        ("p0012345", "a number of six digits or more"),
        ("FSL 6.0.5", None),
        ("sub-01_ses-2_T1w", None),
        ("hippocampus_367", None),
        ("TE=30", None),
    ],
)
def test_what_looks_like_a_patient(text, kind):
    assert looks_like(text) == kind


def test_what_cannot_be_read_is_left_to_the_readers(tmp_path):
    for name in ("a.nii", "a.png", "a.dcm"):
        (tmp_path / name).write_bytes(b"nothing")
        assert telling(tmp_path / name) == ()
    assert telling(tmp_path / "gone.nii") == ()
