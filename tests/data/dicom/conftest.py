"""Series as scanners write them, and as they should not."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SPACING_MM = (0.8, 1.3, 2.5)  # between columns, rows, slices
TURN = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]])  # directions of columns, rows, slices
FIRST_MM = np.array([10.0, -20, 30])
VOXELS = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.uint16)


def picture(pixels, **changes):
    """Return a data set of ``[rows, columns]`` or ``[rows, columns, 3]`` without a place."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    bits = 8 * pixels.dtype.itemsize
    values = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.4",
        "FrameOfReferenceUID": "1.2.5",
        "Modality": "MR",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "PixelData": pixels.tobytes(),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    dataset = Dataset()
    dataset.file_meta = meta
    for key, value in (values | changes).items():
        setattr(dataset, key, value)
    return dataset


def slice_of(number, **changes):
    """Return slice ``number`` of VOXELS."""
    place = {
        "PixelSpacing": [SPACING_MM[1], SPACING_MM[0]],
        "SliceThickness": SPACING_MM[2],
        "ImageOrientationPatient": [*TURN[0], *TURN[1]],
        "ImagePositionPatient": list(FIRST_MM + SPACING_MM[2] * number * TURN[2]),
        "InstanceNumber": number + 1,
    }
    return picture(changes.pop("pixels", VOXELS[number % len(VOXELS)]), **(place | changes))


def save(path: Path, dataset):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


class Series:
    """A folder with the slices of VOXELS under names whose order is not theirs."""

    def __init__(self, folder, count=5):
        self.folder, self.count = folder, count
        for number in range(count):
            self.change(number)

    def path(self, number):
        return self.folder / f"{(3 * number) % self.count}.dcm"

    def change(self, number, **changes):
        save(self.path(number), slice_of(number, **changes))

    def change_all(self, change):
        for path in self.folder.iterdir():
            dataset = dcmread(path)
            change(dataset)
            dataset.save_as(path)


@pytest.fixture
def series(tmp_path):
    return Series(tmp_path / "series")


@pytest.fixture
def kit():
    """What tests of DICOM share."""

    class Kit:
        spacing_mm, turn, first_mm, voxels = SPACING_MM, TURN, FIRST_MM, VOXELS
        picture, slice_of, save, Series = map(staticmethod, (picture, slice_of, save, Series))

        @staticmethod
        def assert_same_in_the_world(volume, other, *, atol):
            """Every voxel of ``volume`` is a voxel of ``other`` with the same value."""
            indices = np.indices(volume.shape).reshape(3, -1)
            world = volume.affine @ np.vstack([indices, np.ones(indices.shape[1])])
            places = (np.linalg.inv(other.affine) @ world)[:3]
            np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
            channels = other.array[(slice(None), *np.rint(places).astype(int))]
            np.testing.assert_allclose(volume.array.reshape(channels.shape), channels, atol=atol)
            assert volume.array.size == other.array.size

    return Kit
