"""Tiny data sets: a bright ball in noise is structure 1, its core structure 2.

medkd is imported by the functions that need it: what a conftest imports at once would escape the
type checks, which are installed later.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage

# plain text, where a CI asks for colours too
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
os.environ.pop("FORCE_COLOR", None)

SIZE = 16
NAMES = ("DOE^JANE", "1956-03-04", "MRN0042")  # what ids, dates and file names may tell
PARTS = ("train", "train", "train", "validation", "test")  # of patients; each has two cases

NEEDED_BY_SEG = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
SEGMENTATION = {
    "data": {"labels": {"ball": 1, "core": 2}},
    "teacher": {"model": {"name": "dynunet", "filters": [4, 8, 8]}},
    "student": {"model": {"name": "plain_unet", "channels": [4, 8]}},
}
CLASSIFICATION = {
    "data": {"labels": {"small": 0, "large": 1}},
    "teacher": {"model": {"name": "resnet", "widths": [8] * 4, "stem_stride": 1}},
    "student": {"model": {"name": "resnet", "widths": [4] * 4, "stem_stride": 1}},
}


def segments(label, sources, names, *, kind="BINARY", **options):
    """Return a DICOM SEG by highdicom of ``[slices, rows, columns]``, drawn on these images."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    ai = AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
    code = codes.SCT.Organ
    described = [
        SegmentDescription(number, name, code, code, "AUTOMATIC", ai)
        for number, name in enumerate(names, start=1)
    ]
    for source in sources:
        for needed in NEEDED_BY_SEG:
            source.setdefault(needed, "")
        source.LossyImageCompression = "00"
        source.setdefault("SliceThickness", 1)
    uid = sources[0].SeriesInstanceUID
    return Segmentation(
        sources,
        label.astype(np.uint8),
        kind,
        described,
        series_instance_uid=f"{uid}.7",
        series_number=2,
        sop_instance_uid=f"{uid}.8",
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        **options,
    )


def ball(dims, *, seed):
    """Return an image ``[*space]`` and its label map."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(6, 10, dims).reshape(-1, *[1] * dims)
    distance = np.linalg.norm(np.indices([SIZE] * dims) - centre, axis=0)
    radius = 5 if seed % 2 else 3
    label = (distance < radius).astype(np.uint8) + (distance < radius - 2)
    return 100 + 80 * label + 10 * rng.normal(size=label.shape), label


def write_cases(folder, *, dims, task):
    """Write ten cases of five patients and their table, ``cases.csv``."""
    from medkd.data import images, nifti

    rows = []
    for number in range(2 * len(PARTS)):
        image, label = ball(dims, seed=number)
        row = {"case": f"c{number}", "patient": f"p{number // 2}", "part": PARTS[number // 2]}
        if dims == 3:
            row |= {"image": f"c{number}.nii.gz", "label": f"c{number}-label.nii.gz"}
            nifti.write(folder / row["image"], image.astype(np.float32), affine=np.eye(4))
            nifti.write(folder / row["label"], label, affine=np.eye(4))
        else:
            row |= {"image": f"c{number}.png", "label": f"c{number}-label.png"}
            images.write(folder / row["image"], np.clip(image / 2, 0, 255).astype(np.uint8))
            images.write(folder / row["label"], label)
        if task == "classification":
            row["label"] = number % 2
        rows.append(row)
    write_table(folder / "cases.csv", rows)


def overlap(folder):
    """Let the structures of cases of ``write_cases`` overlap: the core is of the ball, too."""
    from medkd.data.reader import read_label, write_masks

    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        label = read_label(folder / row["label"])
        masks = np.stack([label.array[0] >= 1, label.array[0] == 2])
        row["label"] = row["label"].replace(".png", ".tif")
        write_masks(folder / row["label"], masks, affine=label.affine)
    write_table(folder / "cases.csv", rows)


def find(folder):
    """Let images of ``write_cases`` have findings: large or not, and marked in a corner or not.

    In each part there are images with and without each of the two.
    """
    from medkd.data import images

    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        found = ["large"] if number % 2 else []
        if number // 2 % 2 == number % 2:
            found.append("marked")
            picture = images.read(folder / row["image"]).array[0].astype(np.uint8)
            picture[:4, :4] = 255
            images.write(folder / row["image"], picture)
        row["label"] = "|".join(found) or "none"
    write_table(folder / "cases.csv", rows)


def disclose(folder):
    """Let ids, dates and file names of cases of ``write_cases`` tell who the patients are."""
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column in ("image", "label"):
            path = folder / row[column]
            row[column] = path.rename(folder / f"{NAMES[0]}-{path.name}").name
        row["case"] = f"{NAMES[0]}-{row['case']}"
        row["patient"] = f"{NAMES[2]}-{row['patient']}"
        row["scan_date"] = NAMES[1]
    write_table(folder / "cases.csv", rows)


def write_table(path, rows):
    """Write a datalist."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def tiny_values(root, *, dims, task):
    """Return the config of a study whose networks train in a second, as a YAML tree."""
    train = {"steps": 6, "validate_every": 3, "workers": 0, "precision": "32-true"}
    named = SEGMENTATION if task == "segmentation" else CLASSIFICATION
    return {
        "study": {"name": "tiny", "root": str(root / "runs")},
        "task": task,
        "data": {"source": "data/cases.csv", "split": {"column": "part"}} | named["data"],
        "preprocess": {"orientation": "RAS" if dims == 3 else None, "window": [SIZE] * dims},
        "teacher": named["teacher"] | {"train": train},
        "student": named["student"] | {"train": train},
        "distill": {"losses": [{"name": "pixel_kd"}]},
        "export": {"variants": ["onnx"]},
        "evaluate": {"bootstrap": 50, "overlays": 1, "least_patients": 1},
        "latency": {"queries": 2, "threads": 1},
        "gates": [{"figure": "parameters", "over": "teacher", "at_most": 0.9}],
    }


@pytest.fixture
def blob():
    """Return a maker of smooth random masks, the same for the same seed."""

    def make(shape, *, seed, smooth=2.0):
        noise = np.random.default_rng(seed).normal(size=shape)
        field = ndimage.gaussian_filter(noise, smooth)
        return field > field.std()

    return make


@pytest.fixture
def data_root():
    if "MEDKD_DATA" not in os.environ:
        pytest.skip("MEDKD_DATA is not set")
    return Path(os.environ["MEDKD_DATA"])


@pytest.fixture(scope="session")
def make_config(tmp_path_factory):
    """Return a maker of a folder with ten cases and the config of a study of them."""

    def make(*, dims=3, task="segmentation", disclosing=False, overlapping=False):
        root = tmp_path_factory.mktemp("tiny")
        write_cases(root / "data", dims=dims, task=task)
        if overlapping:
            (overlap if task == "segmentation" else find)(root / "data")
        if disclosing:
            disclose(root / "data")
        values = tiny_values(root, dims=dims, task=task)
        values["data"] |= {"root": str(root)} | ({"overlapping": True} if overlapping else {})
        if overlapping and task == "classification":
            values["data"]["labels"] = {"large": 1, "marked": 2}
        path = root / "tiny.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make


@pytest.fixture(scope="session")
def make_study(make_config):
    """Return a maker of a checked tiny study: ``study, cohort = make_study("study.seed=1")``."""
    from medkd.config import load
    from medkd.data.check import check
    from medkd.study import Study

    def make(*overrides, **kind):
        path = make_config(**kind)
        study = Study(load(path, overrides=overrides), config_path=path)
        cohort = check(study)
        study.begin(cohort.split)
        return study, cohort

    return make


@pytest.fixture(scope="session")
def released(make_study):
    """A 3D segmentation study with its three releases, and its cohort; ids and files hold NAMES."""
    from medkd.export.release import export_all
    from medkd.track.tracker import NullTracker
    from medkd.train.run import distill, train_baseline, train_teacher
    from medkd.train.soften import soften

    study, cohort = make_study("student.temperature=by_class", disclosing=True)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    export_all(study, cohort)
    return study, cohort
