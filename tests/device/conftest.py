import json

import numpy as np
import pytest
import torch
from hypothesis import settings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from torch import nn

from medkd.device.manifest import MANIFEST, WEIGHTS, Manifest, sha256
from medkd.export.onnx import export_onnx
from medkd.options import PreprocessOptions, ReadingOptions, SeriesOptions
from medkd.types import Activation, Task

settings.register_profile("files", deadline=None)  # disks and shared cores are slow at times
settings.load_profile("files")


class PixelClasses(nn.Module):
    """Three classes by intensity after z-scoring: dark, middle, bright."""

    def __init__(self, dims):
        super().__init__()
        self.smooth = (nn.Conv2d, nn.Conv3d)[dims - 2](1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.smooth.weight, 0.02)
        with torch.no_grad():
            self.smooth.weight[(0, 0, *[1] * dims)] = 1

    def forward(self, image):
        x = self.smooth(image)
        return torch.cat([-2 * x, 0.5 + 0 * x, 2 * x - 1], dim=1)


class PixelStructures(PixelClasses):
    """Two structures by intensity that overlap: not dark, and bright."""

    def forward(self, image):
        x = self.smooth(image)
        return torch.cat([4 * x + 2, 4 * x - 3], dim=1)


class BrightAndDark(nn.Module):
    """Two classes by the mean of the image."""

    def forward(self, image):
        mean = image.mean(dim=(1, 2, 3))
        return torch.stack([-4 * mean + 2, 4 * mean - 2], dim=1)


class BrightAndStriped(nn.Module):
    """Two findings: the mean of the image, and how its left differs from its right."""

    def forward(self, image):
        mean = image.mean(dim=(1, 2, 3))
        left, right = (half.mean(dim=(1, 2, 3)) for half in image.chunk(2, dim=3))
        return torch.stack([6 * mean - 3, 6 * (left - right) - 3], dim=1)


def write_release(folder, *, task, window, network, activation=Activation.SOFTMAX, **preprocess):
    """Export a network into a release folder and return it."""
    folder.mkdir()
    export_onnx(network, folder / WEIGHTS, shape=(preprocess.get("channels", 1), *window))
    segmentation = task is Task.SEGMENTATION
    first = 0 if activation is Activation.SOFTMAX else 1
    manifest = Manifest(
        role="student",
        task=task,
        activation=activation,
        classes=("background", "organ", "lesion")[first:] if segmentation else ("dark", "bright"),
        label_values=(0, 7, 255)[first:] if segmentation else (first, first + 1),
        preprocess=PreprocessOptions(window=window, **preprocess),
        temperature=1.5,
        model={"name": "tiny"},
        parameters=1,
        macs=1,
        study={},
        parity={},
        files={WEIGHTS: sha256(folder / WEIGHTS)},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture(scope="session")
def release_3d(tmp_path_factory):
    """A release that works at 1.5 mm in RAS with windows of 8 voxels."""
    return write_release(
        tmp_path_factory.mktemp("release") / "volumes",
        task=Task.SEGMENTATION,
        window=(8, 8, 8),
        network=PixelClasses(3),
        spacing_mm=(1.5, 1.5, 1.5),
    )


@pytest.fixture(scope="session")
def release_two(tmp_path_factory):
    """A release of two modalities, which DICOM series are told by what they are described as."""

    class Difference(PixelClasses):
        def forward(self, image):
            return super().forward(image[:, :1] - image[:, 1:])

    rules = {name: SeriesOptions(description=f"*{name}*") for name in ("t1", "flair")}
    return write_release(
        tmp_path_factory.mktemp("release") / "two",
        task=Task.SEGMENTATION,
        window=(8, 8, 8),
        network=Difference(3),
        channels=2,
        modalities=("t1", "flair"),
        reading=ReadingOptions(series_of=rules),
    )


@pytest.fixture(scope="session")
def release_overlapping(tmp_path_factory):
    """A release whose structures may overlap, at 1.5 mm in RAS with windows of 8 voxels."""
    return write_release(
        tmp_path_factory.mktemp("release") / "overlapping",
        task=Task.SEGMENTATION,
        window=(8, 8, 8),
        network=PixelStructures(3),
        activation=Activation.SIGMOID,
        spacing_mm=(1.5, 1.5, 1.5),
    )


@pytest.fixture(scope="session")
def release_overlapping_2d(tmp_path_factory):
    return write_release(
        tmp_path_factory.mktemp("release") / "overlapping-pictures",
        task=Task.SEGMENTATION,
        window=(16, 16),
        network=PixelStructures(2),
        activation=Activation.SIGMOID,
        orientation=None,
    )


@pytest.fixture(scope="session")
def release_2d(tmp_path_factory):
    return write_release(
        tmp_path_factory.mktemp("release") / "pictures",
        task=Task.SEGMENTATION,
        window=(16, 16),
        network=PixelClasses(2),
        orientation=None,
    )


WHOLE = {  # a classifier looks at whole images
    "task": Task.CLASSIFICATION,
    "window": (8, 8),
    "size": (8, 8),
    "orientation": None,
    "intensity": "unit",
}


@pytest.fixture(scope="session")
def release_classes(tmp_path_factory):
    return write_release(
        tmp_path_factory.mktemp("release") / "classes",
        network=BrightAndDark(),
        **WHOLE,
    )


@pytest.fixture(scope="session")
def release_slices(tmp_path_factory):
    """A release that classifies single DICOM slices."""
    return write_release(
        tmp_path_factory.mktemp("release") / "slices",
        network=BrightAndDark(),
        reading=ReadingOptions(planar=True),
        **WHOLE,
    )


@pytest.fixture(scope="session")
def release_findings(tmp_path_factory):
    """A release that says whether an image is dark, bright, both or neither of them."""
    return write_release(
        tmp_path_factory.mktemp("release") / "findings",
        network=BrightAndStriped(),
        activation=Activation.SIGMOID,
        **WHOLE,
    )


@pytest.fixture
def changed(tmp_path):
    """Copy a release and change its manifest: ``changed(release, temperature=2)``."""

    def change(release, **values):
        copy = tmp_path / "changed"
        copy.mkdir()
        for path in release.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        manifest = json.loads((copy / MANIFEST).read_text()) | values
        (copy / MANIFEST).write_text(json.dumps(manifest))
        return copy

    return change


@pytest.fixture
def scan(blob):
    """Return a maker of a scan ``[*space]`` with a body and something bright in it."""

    def make(shape, *, seed=0):
        noise = np.random.default_rng(seed).normal(0, 2, shape)
        return (noise + 60 * blob(shape, seed=seed) + 60 * blob(shape, seed=seed + 9)).astype(
            np.float32
        )

    return make


def uid(*names):
    return generate_uid(entropy_srcs=["medkd tests", *map(str, names)])


def make_slice(series, number, pixels, *, spacing_mm=(1.2, 1.2, 2.5), study="study"):
    """Return one axial slice of an MR series."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.SOPInstanceUID = uid(study, series, number)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SeriesInstanceUID, image.StudyInstanceUID = uid(study, series), uid(study)
    image.FrameOfReferenceUID = uid(study, series, "frame")
    image.PatientName, image.PatientID = "DOE^JANE", "MRN0042"
    image.PatientBirthDate, image.PatientSex = "19560304", "F"
    image.StudyID, image.StudyDate, image.StudyTime = "1", "20240102", "101500"
    image.AccessionNumber, image.ReferringPhysicianName = "A1", "ROE^RICHARD"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 3, number + 1
    image.ImagePositionPatient = [-10.0, 20.0, number * spacing_mm[2]]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = list(spacing_mm[:2])
    image.SliceThickness = spacing_mm[2]
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = pixels.astype(np.uint16).tobytes()
    return image


@pytest.fixture
def mr_slice():
    """Return a maker of a DICOM slice."""
    return make_slice


@pytest.fixture
def write_series(scan):
    """Return a maker of a folder with one series, whose files are in no order."""

    def make(folder, *, series="one", shape=(9, 12, 14), seed=0):
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(scan(shape, seed=seed), 0, None)
        for number, plane in enumerate(pixels):
            image = make_slice(series, number, plane)
            image.save_as(folder / f"{(7 * number) % shape[0]:03d}.dcm", enforce_file_format=True)
        return folder

    return make
