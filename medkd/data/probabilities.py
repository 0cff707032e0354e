"""Probabilities: what another system said of a case, saved in a file.

nnU-Net writes ``CASE.npz`` (its option ``--save_probabilities``): ``[classes, z, y, x]`` on the
image's own grid. Other systems write one 4D NIfTI a case, ``CASE.nii.gz``, with the classes last,
or one 3D NIfTI a class, ``CASE_0.nii.gz``, ``CASE_1.nii.gz``, …. For classification it is one CSV:
a column ``case``, then one column a class.
"""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medkd.data import nifti
from medkd.data.preprocess import Grid
from medkd.errors import DataError
from medkd.types import GRID_TOLERANCE_MM, Volume, grid_distance_mm

SUM_TOLERANCE = 0.02  # of one voxel's probabilities from 1: float16 and resampling leave as much


def read_probabilities(
    folder: Path, case_id: str, grid: Grid, *, channels: int, exclusive: bool = True
) -> np.ndarray:
    """Return the probabilities ``[channels, *space]`` float32 of a case on its image's own grid.

    Args:
        folder: holds the files of all cases.
        case_id: what the files are called by.
        grid: of the image, as preprocessing found it.
        channels: classes of the teacher.
        exclusive: whether they sum to 1; structures that may overlap do not.

    Raises:
        DataError: there is no file, it lies on another grid, has another number of channels, or
            does not hold probabilities.
    """
    path, volume = _read(folder, case_id, grid)
    if volume.array.shape[0] != channels:
        raise DataError(
            f"{path}: {volume.array.shape[0]} channels, but the teacher has {channels} classes; "
            f"list them, in the order of the channels, as classes of this teacher"
        )
    if volume.shape != grid.image_shape:
        raise DataError(
            f"{path}: grid {volume.shape}, image grid {grid.image_shape}; save the probabilities "
            f"on the image's own grid"
        )
    apart = grid_distance_mm(volume, grid.affine)
    if apart > GRID_TOLERANCE_MM:
        raise DataError(
            f"{path}: lies up to {apart:.2f} mm from its image; save the probabilities on the "
            f"image's own grid"
        )
    return _proven(volume.array.astype(np.float32), path, exclusive=exclusive)


def read_class_probabilities(
    path: Path, *, classes: Sequence[str], exclusive: bool = True
) -> dict[str, np.ndarray]:
    """Return the probabilities ``[classes]`` of each case of a CSV, by case id.

    Args:
        path: of the CSV.
        classes: its columns that are read, in order.
        exclusive: whether they sum to 1; findings that may come together do not.

    Raises:
        DataError: a column is missing, or a row does not hold probabilities.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no CSV of probabilities ({error})") from None
    lacking = [name for name in ("case", *classes) if not rows or name not in rows[0]]
    if lacking:
        raise DataError(f"{path}: no column {', '.join(lacking)}; it needs case and each class")
    try:
        values = np.array([[float(row[name]) for name in classes] for row in rows], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; each class needs a number in every row") from None
    proven = _proven(values.T, path, exclusive=exclusive).T
    return dict(zip([row["case"] for row in rows], proven, strict=True))


def saved_files(folder: Path, case_id: str) -> list[Path]:
    """Return the files that hold a case's probabilities, in the order of classes.

    Raises:
        DataError: there is none.
    """
    for suffix in (".npz", ".nii.gz", ".nii"):
        if (folder / f"{case_id}{suffix}").exists():
            return [folder / f"{case_id}{suffix}"]
    for suffix in (".nii.gz", ".nii"):
        named = {
            p: p.name[len(case_id) + 1 : -len(suffix)]
            for p in folder.glob(f"{_literal(case_id)}_*{suffix}")
        }
        numbered = {p: int(number) for p, number in named.items() if number.isdecimal()}
        if numbered:
            return sorted(numbered, key=numbered.__getitem__)
    raise DataError(
        f"{folder}: no probabilities of case {case_id}; expected {case_id}.npz (nnU-Net), "
        f"{case_id}.nii.gz (4D) or {case_id}_0.nii.gz, {case_id}_1.nii.gz, …"
    )


def _read(folder: Path, case_id: str, grid: Grid) -> tuple[Path, Volume]:
    """Find a case's file and bring it to ``[channels, *space]``."""
    first, *others = saved_files(folder, case_id)
    if first.suffix == ".npz":
        array = _unpacked(first)
        # nnU-Net's axes are those of SimpleITK, z y x; a 2D image is one slice
        flat = len(grid.shape) == 2 and array.shape[1] == 1
        array = array[:, 0] if flat else array.transpose(0, 3, 2, 1)
        return first, Volume(array=array, affine=grid.affine)
    volumes = [nifti.read(path) for path in (first, *others)]
    if len({volume.shape for volume in volumes}) > 1:
        shapes = [volume.shape for volume in volumes]
        raise DataError(f"{first}: the files of this case's classes have different grids {shapes}")
    arrays = np.concatenate([volume.array for volume in volumes])
    return first, Volume(array=arrays, affine=volumes[0].affine)


def _literal(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _unpacked(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [n for n in ("probabilities", "softmax") if n in archive.files]
            array = archive[(names or archive.files)[0]]
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz of probabilities ({error}); save it again") from None
    if array.ndim != 4:
        raise DataError(f"{path}: shape {array.shape}; nnU-Net's has 4 axes, [classes, z, y, x]")
    return array


def _proven(probabilities: np.ndarray, path: Path, *, exclusive: bool = True) -> np.ndarray:
    if not exclusive:
        return _proven_apart(probabilities, path)
    low, high = float(probabilities.min()), float(probabilities.max())
    apart = float(np.abs(probabilities.sum(axis=0) - 1).max())
    if not (low >= -SUM_TOLERANCE and high <= 1 + SUM_TOLERANCE and apart <= SUM_TOLERANCE):
        raise DataError(
            f"{path}: values from {low:.3g} to {high:.3g} whose sum over classes is up to "
            f"{apart:.3g} from 1; save softmax probabilities, not logits or masks"
        )
    positive = probabilities.clip(0)
    return positive / positive.sum(axis=0, keepdims=True)


def _proven_apart(probabilities: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -SUM_TOLERANCE and high <= 1 + SUM_TOLERANCE):
        raise DataError(
            f"{path}: values from {low:.3g} to {high:.3g}; save the probability of each class, "
            f"not its logit"
        )
    return probabilities.clip(0, 1)
