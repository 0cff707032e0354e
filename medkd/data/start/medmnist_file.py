"""MedMNIST file: its images for a moment as files, so that they are read as all others are."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from medkd.data import medmnist
from medkd.data.start.layout import Layout, Row
from medkd.errors import DataError


def unpacked(layout: Layout, folder: Path) -> Layout:
    """Return the layout with the cases of its file, unpacked into a folder.

    Raises:
        DataError: the file is damaged, or its labels are not one class an image.
    """
    assert layout.source is not None
    labels = _classes(layout.source)
    medmnist.unpack(layout.source, folder, classes=labels)
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            Row(
                line["case"],
                folder / line["image"],
                int(line["label"]),
                patient=line["patient"],
                part=line["split"],
            )
            for line in csv.DictReader(file)
        ]
    return replace(layout, rows=tuple(rows), labels=labels, title=layout.source.stem)


def _classes(path: Path) -> dict[str, int]:
    """Name the classes by their numbers: the file does not tell their names."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = np.unique(arrays["train_labels"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: truncated or not a MedMNIST npz ({error})") from None
    return {f"class_{value}": int(value) for value in values}
