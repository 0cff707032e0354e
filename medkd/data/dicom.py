"""DICOM: read one series, strictly, into a Volume."""

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from medkd.errors import DataError
from medkd.types import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a folder of DICOM files or one such file, by content."""
    if path.is_dir():
        first = next((p for p in sorted(path.iterdir()) if p.is_file()), None)
        return first is not None and is_dicom(first)
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

    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    try:
        datasets = [dcmread(file) for file in files]
        if len(datasets) == 1 and "NumberOfFrames" in datasets[0]:
            volume = hd.Image.from_dataset(datasets[0]).get_volume()
        else:
            volume = hd.get_volume_from_series(datasets)
    except (InvalidDicomError, ValueError, RuntimeError, AttributeError, OSError) as error:
        raise DataError(f"{path}: not one regular DICOM series ({error})") from None
    array = np.asarray(volume.array)
    array = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    return Volume(array=array, affine=LPS_TO_RAS @ np.asarray(volume.affine, dtype=float))
