"""MedMNIST: unpack an ``.npz`` into image files and a datalist."""

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medkd.data import images, nifti
from medkd.data.npz import read_arrays
from medkd.errors import DataError
from medkd.types import NO_FINDING, SEPARATOR

PARTS = {"train": "train", "val": "validation", "test": "test"}  # key in the file: split
COLUMNS = ("case", "image", "label", "patient", "split")
Arrays = dict[str, np.ndarray]


def unpack(
    npz_path: Path, folder: Path, *, classes: Mapping[str, int], several: bool = False
) -> None:
    """Write ``images/<split>_<index>`` and ``cases.csv`` for a MedMNIST classification file.

    2D images become PNG, 3D images NIfTI with the identity as affine: MedMNIST tells no spacing.
    It tells no patients either. Identical images are given one patient, so that they never part
    company in a split, and every other image one of its own; two different images of one person
    can still end up on both sides of a split.

    Args:
        npz_path: as ``read`` takes it.
        folder: where the files go; made if need be.
        classes: as ``read`` takes them.
        several: likewise.

    Raises:
        DataError: as ``read`` does.
    """
    arrays = read(npz_path, classes=classes, several=several)
    names = sorted(classes, key=classes.__getitem__) if several else None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(_write_images(arrays, folder, names))


def read(npz_path: Path, *, classes: Mapping[str, int], several: bool = False) -> Arrays:
    """Return a file's arrays by name, all of them sound.

    Args:
        npz_path: uint8 ``train_images``, ``val_images``, ``test_images`` of ``[N, H, W]``,
            ``[N, H, W, 3]`` or ``[N, D, H, W]``, and ``*_labels`` of ``[N, 1]``, or of
            ``[N, findings]``, 0 or 1.
        classes: class name to the value it has in the labels; finding to its column, from 1.
        several: whether an image may have several findings.

    Raises:
        DataError: missing, truncated or no MedMNIST file, or a label that ``classes`` lacks; all
            problems of the content in one pass.
    """
    arrays = read_arrays(npz_path, wanted=lambda key: key in _known_keys())
    problems = [f"{npz_path}: {text}" for text in _problems(arrays, classes, several=several)]
    if problems:
        raise DataError.of(problems)
    return arrays


def _known_keys() -> list[str]:
    return [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")]


def _problems(arrays: Arrays, classes: Mapping[str, int], *, several: bool) -> Iterator[str]:
    for key in _known_keys():
        if key not in arrays:
            yield f"no key {key}; a MedMNIST file has {', '.join(_known_keys())}"
        elif key.endswith("_images"):
            yield from _problems_of_images(arrays[key], key)
        else:
            of_labels = _problems_of_findings if several else _problems_of_labels
            yield from of_labels(arrays[key], key, classes)
    for part in PARTS:
        counts = [len(arrays.get(f"{part}_{kind}", ())) for kind in ("images", "labels")]
        if counts[0] != counts[1] and {f"{part}_images", f"{part}_labels"} <= arrays.keys():
            yield f"{part}_images holds {counts[0]} images, {part}_labels {counts[1]} labels"


def _problems_of_images(array: np.ndarray, key: str) -> Iterator[str]:
    if array.dtype != np.uint8:
        yield f"{key} is {array.dtype}; images are uint8"
    if array.ndim not in {3, 4}:
        yield f"{key} has shape {array.shape}; images are [N, H, W], [N, H, W, 3] or [N, D, H, W]"


def _problems_of_labels(array: np.ndarray, key: str, classes: Mapping[str, int]) -> Iterator[str]:
    if array.ndim != 2 or array.shape[1] != 1:
        yield (
            f"{key} has shape {array.shape}; labels are [N, 1], one class per image (where images "
            f"have several findings at once, set data.overlapping: true)"
        )
        return
    strange = sorted(set(array.ravel().tolist()) - set(classes.values()))
    if strange:
        yield f"{key} holds {strange[:5]}; data.labels declares {dict(classes)}"


def _problems_of_findings(array: np.ndarray, key: str, classes: Mapping[str, int]) -> Iterator[str]:
    if array.ndim != 2 or array.shape[1] != len(classes):
        yield (
            f"{key} has shape {array.shape}; with data.overlapping labels are [N, findings], and "
            f"data.labels names {len(classes)} findings: give each column a name"
        )
    elif strange := sorted(set(array.ravel().tolist()) - {0, 1}):
        yield f"{key} holds {strange[:5]}; a finding is there, 1, or not, 0"


def _write_images(
    arrays: Arrays, folder: Path, findings: Sequence[str] | None
) -> Iterator[dict[str, object]]:
    first_with: dict[bytes, str] = {}
    for part, split in PARTS.items():
        for index, image in enumerate(arrays[f"{part}_images"]):
            case = f"{split}_{index:05d}"
            name = f"images/{case}{_write(folder / 'images' / case, image)}"
            pixels = hashlib.sha256(image.tobytes()).digest()
            patient = first_with.setdefault(pixels, case)
            label = _label(arrays[f"{part}_labels"][index], findings)
            yield dict(zip(COLUMNS, (case, name, label, patient, split), strict=True))


def _label(row: np.ndarray, findings: Sequence[str] | None) -> int | str:
    """Return a class, or findings as a datalist names them."""
    if findings is None:
        return int(row[0])
    return SEPARATOR.join(np.array(findings)[row == 1]) or NO_FINDING[0]


def _write(stem: Path, image: np.ndarray) -> str:
    """Write one image and return its suffix."""
    if image.ndim == 3 and image.shape[2] != 3:
        nifti.write(stem.with_name(stem.name + ".nii.gz"), image, affine=np.eye(4))
        return ".nii.gz"
    images.write(stem.with_name(stem.name + ".png"), image)
    return ".png"
