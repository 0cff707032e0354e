"""MedMNIST file: its images for a moment as files, so that they are read as all others are."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from medkd.data import medmnist
from medkd.data.npz import read_arrays
from medkd.data.quality.examine import Overlap
from medkd.data.start.layout import Layout, Row
from medkd.data.start.patients import Patients
from medkd.errors import DataError
from medkd.types import NO_FINDING, SEPARATOR

NOBODY_TELLS = Patients(
    "TODO: a MedMNIST file names none, each image is taken for one; look it up in its publication",
    are_told=False,
)


def unpacked(layout: Layout, folder: Path) -> Layout:
    """Return the layout with the cases of its file, unpacked into a folder.

    Raises:
        DataError: the file is damaged, or its labels are neither classes nor findings.
    """
    assert layout.source is not None
    labels, several = _named(layout.source)
    medmnist.unpack(layout.source, folder, classes=labels, several=several)
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            Row(
                line["case"],
                folder / line["image"],
                _findings(line["label"]) if several else int(line["label"]),
                patient=line["patient"],
                part=line["split"],
            )
            for line in csv.DictReader(file)
        ]
    overlap: Overlap = "keep" if several else "refuse"
    title = layout.source.stem
    found = replace(layout, rows=tuple(rows), labels=labels, title=title, overlap=overlap)
    return found.noting(f"TODO: give the {'findings' if several else 'classes'} their names")


def _findings(text: str) -> tuple[str, ...]:
    return () if text == NO_FINDING[0] else tuple(text.split(SEPARATOR))


def _named(path: Path) -> tuple[dict[str, int], bool]:
    """Name classes, or findings, by their numbers, as the file does not tell their names.

    Returns:
        Values by name, and whether they are findings: then the file has a column of each.
    """
    labels = read_arrays(path, wanted=lambda key: key == "train_labels").get("train_labels")
    if labels is None or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: no key train_labels of whole numbers, so not a MedMNIST file; give another, "
            f"or write a CSV with the columns image, label and patient"
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        return {f"finding_{number + 1}": number + 1 for number in range(labels.shape[1])}, True
    return {f"class_{value}": int(value) for value in np.unique(labels)}, False
