"""DICOM: read one series, strictly, into a Volume."""

from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from medkd.errors import DataError
from medkd.types import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a folder of DICOM files or one such file, by content."""
    if path.is_dir():
        files = _files(path)
        return bool(files) and is_dicom(files[0])
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read(path: Path) -> Volume:
    """Read a folder with one series, or one multi-frame file.

    The geometry must be regular: a missing or duplicate slice, a tilted gantry or a second series
    is refused, never interpolated over.

    Raises:
        DataError: not DICOM, not decodable, or the geometry is irregular.
    """
    import highdicom as hd

    try:
        datasets = [_dataset(file) for file in _files(path)]
        if len(datasets) == 1 and "NumberOfFrames" in datasets[0]:
            volume = hd.Image.from_dataset(datasets[0]).get_volume()
        else:
            volume = hd.get_volume_from_series(datasets)
    except Exception as error:  # noqa: BLE001  pydicom and highdicom meet odd files in many ways
        reason = " ".join(str(error).split())  # pydicom's span lines
        raise DataError(f"{path}: not one regular DICOM series ({reason})") from None
    array = np.asarray(volume.array)
    array = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    return Volume(array=array, affine=LPS_TO_RAS @ np.asarray(volume.affine, dtype=float))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))


def _dataset(file: Path) -> Dataset:
    dataset = dcmread(file)
    if "FrameOfReferenceUID" not in dataset:  # anonymisers remove it; a series has one frame
        dataset.FrameOfReferenceUID = dataset.SeriesInstanceUID
    return dataset
