"""Names, ids and dates, planted in every input of a study, are looked for in all it gives out."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image, PngImagePlugin
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage

from tests.conftest import PARTS, ball, segments, tiny_values, write_table

ROOT = Path(__file__).parents[2]
HEADER = {
    "PatientName": "Plantagenet^Alice",
    "PatientID": "PID778899",
    "PatientBirthDate": "19330607",
    "StudyDate": "20110203",
    "InstitutionName": "Plantedhospital",
    "SeriesDescription": "Plantedthorax",
    "AccessionNumber": "ACC112233",
    "ReferringPhysicianName": "Plantedoctor^Eve",
}
OF_TABLE = {
    "folder": "PLANTED_FOLDER_BOB",
    "file": "PlantedFile-1955",
    "case": "PlantedCase",
    "patient": "PlantedPatient",
    "surname": "Plantedson",
    "visit_date": "1966-09-1",
    "referring_physician": "Plantedphysician",
    "patient_id": "PlantedNumber",
    "alias": "PlantedAlias",
}
OF_VOLUMES = {
    "uid": "1.2.826.0.1.424242",
    "StructureSetLabel": "Plantedplan",
    "ROIName": "Plantedregion",
    "SegmentDescription": "Plantedsegment",
    "descrip": "Planted descrip 19440708",
    "extension": "Planted remark of an extension",
}
OF_PICTURES = {
    "text": "Planted text 19550809",
    "text of a label": "Planted text of Mr Fawkes",
    "EXIF": "Planted artist 19660910",
    "comment": "Planted comment of Dr Percy",
    "XMP": "Planted packet 19700102",
    "UserComment": "Planted user born in May",
}
OF_ARCHIVE = {"array": "Plantedarray", "text in an array": "Plantedwords", "zip": "Plantedzip"}
# where: what; each occurs nowhere else
PLANTED = HEADER | OF_TABLE | OF_VOLUMES | OF_PICTURES | OF_ARCHIVE
KINDS = {  # of studies: what is planted in its inputs
    "volumes": HEADER | OF_TABLE | OF_VOLUMES,
    "pictures": OF_TABLE | OF_PICTURES,
    "archive": OF_ARCHIVE,
}
EACH = [(kind, where) for kind, planted in KINDS.items() for where in planted]


def dataset_of(storage, *, uid, number):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
    for keyword, value in HEADER.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, f"{uid}.{number}"
    dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = dataset.StudyInstanceUID = uid
    return dataset


def slice_of(pixels, *, uid, number):
    dataset = dataset_of(CTImageStorage, uid=uid, number=number)
    dataset.Modality, dataset.SamplesPerPixel = "CT", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, -number]
    dataset.PixelData = pixels.astype(np.int16).tobytes()
    return dataset


def structures_of(label, *, uid):
    """Return an RTSTRUCT of a label map ``[slice, row, column]``, pixel by pixel."""
    dataset = dataset_of(RTStructureSetStorage, uid=uid, number=999)
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", OF_VOLUMES["StructureSetLabel"]
    names, drawn = [], []
    for number, name in enumerate(("ball", "core", OF_VOLUMES["ROIName"]), start=1):
        said, roi = Dataset(), Dataset()
        said.ROINumber, said.ROIName, roi.ReferencedROINumber = number, name, number
        contours = []
        for z, y, x in np.argwhere(label == number):
            contour = Dataset()
            corners = [(x + i, y + j, -z) for i, j in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5))]
            corners.append((x - 0.5, y + 0.5, -z))
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
            contour.ContourData = [float(value) for value in np.ravel(corners)]
            contours.append(contour)
        roi.ContourSequence = Sequence(contours)
        names.append(said)
        drawn.append(roi)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(names), Sequence(drawn)
    return dataset


def segments_of(label, sources):
    """Return a SEG of a label map ``[slice, row, column]``, drawn on these slices."""
    made = segments(label, sources, ("ball", "core"))
    made.SegmentSequence[0].SegmentDescription = OF_VOLUMES["SegmentDescription"]
    return made


def write_volume(folder, number):
    """Write a DICOM series with its label: NIfTI, an RTSTRUCT or a SEG; return their names."""
    image, label = ball(3, seed=number)
    (folder / "series").mkdir(parents=True)
    uid, file = f"{OF_VOLUMES['uid']}.{number}", OF_TABLE["file"]
    sources = [slice_of(pixels, uid=uid, number=index) for index, pixels in enumerate(image)]
    for index, dataset in enumerate(sources):
        dataset.save_as(folder / "series" / f"{file}-{index}.dcm", enforce_file_format=True)
    if number % 3:
        drawn = structures_of(label, uid=uid) if number % 3 == 1 else segments_of(label, sources)
        drawn.save_as(folder / f"{file}-drawn.dcm", enforce_file_format=True)
        return "series", f"{file}-drawn.dcm"
    affine = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    mask = nibabel.Nifti1Image(label.astype(np.uint8), affine)
    mask.header["descrip"] = OF_VOLUMES["descrip"].encode()
    remark = nibabel.nifti1.Nifti1Extension(6, OF_VOLUMES["extension"].encode())
    mask.header.extensions.append(remark)
    nibabel.save(mask, folder / f"{file}-mask.nii.gz")
    return "series", f"{file}-mask.nii.gz"


def write_picture(folder, number):
    """Write a PNG or JPEG and its label map, with words beside their pixels; return their names."""
    image, label = ball(2, seed=number)
    folder.mkdir(parents=True)
    suffix = ".jpg" if number % 3 == 2 else ".png"
    names = [f"{OF_TABLE['file']}-image{suffix}", f"{OF_TABLE['file']}-mask.png"]
    for name, array, where in zip(
        names, (image / 2, label), ("text", "text of a label"), strict=True
    ):
        text, exif = PngImagePlugin.PngInfo(), Image.Exif()
        text.add_text("Comment", OF_PICTURES[where], zip=bool(number % 2))
        exif[0x013B] = OF_PICTURES["EXIF"]
        exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + OF_PICTURES["UserComment"].encode()
        beside = {"pnginfo": text}
        if name.endswith(".jpg"):
            beside = {key.lower(): OF_PICTURES[key].encode() for key in ("comment", "XMP")}
        picture = Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))
        picture.save(folder / name, exif=exif, **beside)
    return names


def write_archive(root):
    """Write twelve pictures and their classes as MedMNIST does, with words among them."""
    made = {OF_ARCHIVE["array"]: np.array([OF_ARCHIVE["text in an array"].encode()])}
    for part, numbers in (("train", range(8)), ("val", range(8, 10)), ("test", range(10, 12))):
        pictures = [np.clip(ball(2, seed=number)[0] / 2, 0, 255) for number in numbers]
        made[f"{part}_images"] = np.array(pictures, np.uint8)
        made[f"{part}_labels"] = np.array([[number % 2] for number in numbers], np.uint8)
    root.mkdir()
    np.savez_compressed(root / "cases.npz", **made)
    with zipfile.ZipFile(root / "cases.npz", "a") as archive:
        archive.comment = OF_ARCHIVE["zip"].encode()


def write_data(root, dims):
    """Write ten cases and their table; all of them disclose patients."""
    rows = []
    for number in range(2 * len(PARTS)):
        folder = root / f"{OF_TABLE['folder']}_{number}"
        image, label = (write_volume if dims == 3 else write_picture)(folder, number)
        rows.append(
            {
                "case": f"{OF_TABLE['case']}-{number}",
                "image": f"{folder.name}/{image}",
                "label": f"{folder.name}/{label}",
                "patient": f"{OF_TABLE['patient']}-{number // 2}",
                "part": PARTS[number // 2],
                "surname": f"{OF_TABLE['surname']}-{number % 3}",
                "visit_date": f"{OF_TABLE['visit_date']}{number % 3}",
                "referring_physician": f"{OF_TABLE['referring_physician']}-{number % 3}",
                "patient_id": f"{OF_TABLE['patient_id']}-{number // 2}",
                "alias": f"{OF_TABLE['alias']}-{number // 2}",
                "site": ("north", "south")[number % 2],
            }
        )
    write_table(root / "cases.csv", rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a maker of a finished study, and of all that it has printed."""
    return cache(lambda kind: finish(tmp_path_factory.mktemp(kind), kind))


def finish(folder, kind):
    dims = 3 if kind == "volumes" else 2
    task = "classification" if kind == "archive" else "segmentation"
    values = tiny_values(folder, dims=dims, task=task)
    if kind == "archive":
        write_archive(folder / "data")
        values["data"] |= {"source": "data/cases.npz", "split": {"column": "split"}}
    else:
        write_data(folder / "data", dims)
        values["evaluate"] |= {"subgroups": ["site"], "least_in_group": 1}
    values["data"]["root"] = str(folder)
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values))
    said = ""
    for command in (
        [sys.executable, "-c", "from medkd.cli import main; main()", "check", str(config)],
        [sys.executable, str(ROOT / f"pipelines/{task}.py"), str(config)],
    ):
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in {0, 1}, done.stderr
        said += done.stdout + done.stderr
    return folder, said


def given_out(folder):
    """Return the files that leave a study, or may: everything but its own records."""
    study = folder / "runs" / "tiny"
    found = [folder / "mlflow.db", study / "journal.jsonl"]
    found += [study / name for name in ("report.json", "report.html", "model_card.md")]
    found += [study / "check/check.json", study / "check/check.html"]
    for inside in (folder / "mlartifacts", study / "releases", study / "shared"):
        found += [path for path in inside.rglob("*") if path.is_file()]
    for stage in ("evaluation", "soft_targets", "teacher", "student", "baseline"):
        found += [path for path in (study / stage).rglob("*") if path.is_file()]
    return found


def unpacked(path):
    """Yield a file's bytes, and what is compressed in them."""
    content = path.read_bytes()
    yield content
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    elif content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    at = content.find(b"zTXt")
    while at >= 0:  # compressed text of a PNG
        start = content.index(b"\0", at) + 2
        yield zlib.decompressobj().decompress(content[start:])
        at = content.find(b"zTXt", at + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "where"), EACH)
def test_it_was_planted(finished, kind, where):
    inputs = [path for path in (finished(kind)[0] / "data").rglob("*") if path.is_file()]
    secret = PLANTED[where].encode()
    assert any(secret in str(p).encode() or secret in b"".join(unpacked(p)) for p in inputs)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "where"), EACH)
def test_nothing_planted_comes_out(finished, kind, where):
    folder, said = finished(kind)
    paths = given_out(folder)
    assert len(paths) > 40
    secret = PLANTED[where].encode()
    told = [
        str(path.relative_to(folder))
        for path in paths
        if secret in path.name.encode() or any(secret in content for content in unpacked(path))
    ]
    assert not told
    if where not in {"case", "file", "folder"}:  # a terminal tells its user which case is meant
        assert PLANTED[where] not in said


@pytest.mark.slow
def test_the_check_says_what_was_planted_and_where(finished):
    told = {
        kind: " ".join(
            f"{found['message']} {found['remedy']}" for found in findings(finished, kind)
        )
        for kind in KINDS
    }
    for keyword in (*HEADER, "StructureSetLabel", "ROIName"):
        assert keyword in told["volumes"]
    for where in ("text Comment: a date", "text comment: a name", "text xmp: a date"):
        assert where in told["pictures"]
    for where in ("EXIF 315: a date", "EXIF 37510: a birth"):
        assert where in told["pictures"]
    for said in (told["volumes"], told["pictures"]):
        for column in ("surname", "visit_date", "referring_physician", "patient_id"):
            assert f"the column {column!r}" in said
        assert "'site'" not in said


def findings(finished, kind):
    return json.loads((finished(kind)[0] / "runs/tiny/check/check.json").read_text())["findings"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_keys_stand_in_for_cases_and_the_salt_stays(finished, kind):
    folder, _ = finished(kind)
    study = folder / "runs/tiny"
    report = json.loads((study / "report.json").read_text())
    keys = {case["case"] for case in report["roles"]["student"]["cases"]}
    assert len(keys) == 2
    assert all(key.startswith("case-") for key in keys)
    salt = (study / ".salt").read_bytes()
    assert not any(salt in path.read_bytes() for path in given_out(folder))
