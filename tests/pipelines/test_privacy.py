"""Names, ids and dates, planted in every input of a study, are looked for in all it gives out."""

import csv
import gzip
import json
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.conftest import PARTS, ball, tiny_values

ROOT = Path(__file__).parents[2]
PLANTED = {  # where: what, each of which occurs nowhere else
    "PatientName": "Plantagenet^Alice",
    "PatientID": "PID778899",
    "PatientBirthDate": "19330607",
    "StudyDate": "20110203",
    "InstitutionName": "Plantedhospital",
    "SeriesDescription": "Plantedthorax",
    "AccessionNumber": "ACC112233",
    "ReferringPhysicianName": "Plantedoctor^Eve",
    "uid": "1.2.826.0.1.424242",
    "descrip": "Planted descrip 19440708",
    "extension": "Planted remark of an extension",
    "folder": "PLANTED_FOLDER_BOB",
    "file": "PlantedFile-1955",
    "case": "PlantedCase",
    "patient": "PlantedPatient",
    "surname": "Plantedson",
    "visit_date": "1966-09-10",
}


def slice_of(pixels, *, uid, number):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
    for keyword in list(PLANTED)[:8]:
        setattr(dataset, keyword, PLANTED[keyword])
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{uid}.{number}"
    dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = dataset.StudyInstanceUID = uid
    dataset.Modality, dataset.SamplesPerPixel = "CT", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, -number]
    dataset.PixelData = pixels.astype(np.int16).tobytes()
    return dataset


def write_data(root):
    """Write ten DICOM series with NIfTI label maps, and a table; all of them disclose patients."""
    rows = []
    for number in range(2 * len(PARTS)):
        image, label = ball(3, seed=number)
        folder = root / f"{PLANTED['folder']}_{number}"
        (folder / "series").mkdir(parents=True)
        for index, pixels in enumerate(image):
            dataset = slice_of(pixels, uid=f"{PLANTED['uid']}.{number}", number=index)
            name = f"{PLANTED['file']}-{index}.dcm"
            dataset.save_as(folder / "series" / name, enforce_file_format=True)
        affine = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
        mask = nibabel.Nifti1Image(label.astype(np.uint8), affine)
        mask.header["descrip"] = PLANTED["descrip"].encode()
        remark = nibabel.nifti1.Nifti1Extension(6, PLANTED["extension"].encode())
        mask.header.extensions.append(remark)
        nibabel.save(mask, folder / f"{PLANTED['file']}-mask.nii.gz")
        rows.append(
            {
                "case": f"{PLANTED['case']}-{number}",
                "image": f"{folder.name}/series",
                "label": f"{folder.name}/{PLANTED['file']}-mask.nii.gz",
                "patient": f"{PLANTED['patient']}-{number // 2}",
                "part": PARTS[number // 2],
                "surname": PLANTED["surname"],
                "visit_date": PLANTED["visit_date"],
                "site": ("north", "south")[number % 2],
            }
        )
    with (root / "cases.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, and all that it has printed."""
    folder = tmp_path_factory.mktemp("study")
    write_data(folder / "data")
    values = tiny_values(folder, dims=3, task="segmentation")
    values["data"]["root"] = str(folder)
    values["evaluate"] |= {"subgroups": ["site"], "least_in_group": 1}
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values))
    said = ""
    for command in (
        [sys.executable, "-c", "from medkd.cli import main; main()", "check", str(config)],
        [sys.executable, str(ROOT / "pipelines/segmentation.py"), str(config)],
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
@pytest.mark.parametrize("where", PLANTED)
def test_it_was_planted(finished, where):
    inputs = [path for path in (finished[0] / "data").rglob("*") if path.is_file()]
    secret = PLANTED[where].encode()
    assert any(secret in str(p).encode() or secret in b"".join(unpacked(p)) for p in inputs)


@pytest.mark.slow
@pytest.mark.parametrize("where", PLANTED)
def test_nothing_planted_comes_out(finished, where):
    folder, said = finished
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
    account = json.loads((finished[0] / "runs/tiny/check/check.json").read_text())
    told = " ".join(f"{found['message']} {found['remedy']}" for found in account["findings"])
    for keyword in list(PLANTED)[:8]:
        assert keyword in told
    for column in ("surname", "visit_date"):
        assert f"the column {column!r}" in told
    assert "'site'" not in told


@pytest.mark.slow
def test_keys_stand_in_for_cases_and_the_salt_stays(finished):
    folder, _ = finished
    study = folder / "runs/tiny"
    report = json.loads((study / "report.json").read_text())
    keys = {case["case"] for case in report["roles"]["student"]["cases"]}
    assert len(keys) == 2
    assert all(key.startswith("case-") for key in keys)
    salt = (study / ".salt").read_bytes()
    assert not any(salt in path.read_bytes() for path in given_out(folder))
