"""Init: a study from a folder of data; the datalist, a config with reasons, and a card.

What a machine can know comes from reading every case once. What only people know is marked TODO.
"""

import csv
import io
import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medkd.data.quality.examine import Examined, examine
from medkd.data.start.card import draft_card
from medkd.data.start.fingerprint import Fingerprint, fingerprint
from medkd.data.start.layout import Layout, Row
from medkd.data.start.layouts import recognise
from medkd.data.start.medmnist_file import NOBODY_TELLS, unpacked
from medkd.data.start.parts import dealt, judged
from medkd.data.start.patients import Patients, with_patients
from medkd.data.start.plan import plan
from medkd.data.start.structures import held
from medkd.data.start.write_config import draft_config
from medkd.errors import DataError, StudyError
from medkd.progress import progress
from medkd.study import write_atomic
from medkd.types import Case

OVERLAP = "preprocess.reading.overlap"  # is the remedy of structures that share voxels
CHANNELS = "data.overlapping"  # is that of labels with a channel each
COVERED = 0.9  # of the cases have to be in a table that is taken for theirs


@dataclass(frozen=True)
class Started:
    """What ``init`` has written.

    Attributes:
        config: the study's YAML file.
        layout: how the data lay.
        data: what they are like.
        patients: how the patients are known.
    """

    config: Path
    layout: Layout
    data: Fingerprint
    patients: Patients

    @property
    def summary(self) -> str:
        """What was found, in a few lines."""
        found = self.data
        sizes = "x".join(f"{edge:g}" for edge in np.median(found.shapes, axis=0))
        whose = f" of {found.patients} patients" if self.patients.are_told else ""
        lines = [
            f"{self.layout.name}: {found.cases} cases{whose}, {found.task}, median {sizes} voxels",
            f"patients: {self.patients.how}",
            *self.layout.remarks,
        ]
        return "\n".join(lines)


def init(data: Path, folder: Path) -> Started:
    """Write ``cases.csv``, ``NAME.yaml`` and ``card.md`` for a folder of data.

    Args:
        data: a data set in one of the layouts of ``medkd.data.start.layouts``.
        folder: where the study is to lie; its name is the study's.

    Raises:
        DataError: of no layout that is known, or nothing that can be read.
        StudyError: the folder holds a study already, or is none.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.resolve().name).strip("_.-") or "study"
    config = folder / f"{name}.yaml"
    if config.exists():
        raise StudyError(f"{config}: there is a study already; choose another folder")
    if in_the_way := [path for path in (folder, *folder.parents) if path.is_file()]:
        raise StudyError(f"{in_the_way[0]}: a file, and a study is a folder; choose another name")
    with tempfile.TemporaryDirectory() as unpacking:
        layout = recognise(data)
        if not layout.rows:
            layout = unpacked(layout, Path(unpacking))
        return _started(layout, data, config)


def _started(layout: Layout, data: Path, config: Path) -> Started:
    """Read every case and write what follows from them."""
    layout = judged(replace(layout, rows=tuple(_with_tables(layout.rows, data))))
    cases = {row.case: _case(row) for row in layout.rows}
    if len(cases) < len(layout.rows):
        raise DataError(f"{data}: two cases go by one name; rename their files")
    examined = _examined(cases, layout)
    lines = [finding.line for seen in examined.values() for finding in seen.findings]
    if any(OVERLAP in line for line in lines):
        layout = _nested(layout, cases)
        examined = _examined(cases, layout)
    elif any(CHANNELS in line for line in lines):
        layout = replace(layout, overlap="keep")
        examined = _examined(cases, layout)
        layout = replace(layout, labels=_of_channels(layout.labels, examined))
    layout, known = _with_patients(held(layout, examined), cases, examined)
    cases = {row.case: _case(row) for row in layout.rows}
    found = fingerprint(cases, examined, layout.labels, overlapping=layout.overlapping)
    layout = dealt(layout, list(cases.values()))
    folder = config.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not layout.is_npz:
        write_atomic(folder / "cases.csv", _table(layout))
    write_atomic(folder / "card.md", draft_card(layout, found, data=data, patients=known))
    write_atomic(config, draft_config(config, layout, plan(found), patients=known))
    return Started(config, layout, found, known)


def _case(row: Row) -> Case:
    patient = row.patient or row.case
    return Case(row.case, row.image, row.label, patient, row.attributes, row.further)


def _nested(layout: Layout, cases: Mapping[str, Case]) -> Layout:
    """Order structures that share voxels by size: the later, and smaller, are to keep them."""
    sizes: dict[str, int] = {}
    for name, case in itertools.product(layout.labels, cases.values()):
        if name not in sizes and (voxels := examine(case, labels={name: 1}).voxels.get(1)):
            sizes[name] = voxels
    ordered = sorted(layout.labels, key=lambda name: -sizes.get(name, 0))
    labels = {name: number for number, name in enumerate(ordered, start=1)}
    return replace(layout, labels=labels, overlap="last")


def _examined(cases: Mapping[str, Case], layout: Layout) -> dict[str, Examined]:
    read = partial(examine, labels=layout.labels, overlap=layout.overlap)
    with ThreadPoolExecutor() as pool:
        seen = pool.map(read, cases.values())
        return dict(zip(cases, progress(seen, "read", total=len(cases)), strict=True))


def _of_channels(named: Mapping[str, int], examined: Mapping[str, Examined]) -> dict[str, int]:
    """Number the channels of labels by the values that name them, if that is what they are."""
    values = {value for found in examined.values() for value in found.voxels if value}
    rising = sorted(named, key=named.__getitem__)
    if len(rising) < max(values, default=0):
        rising = [f"structure_{value}" for value in range(1, max(values) + 1)]
    return {name: number for number, name in enumerate(rising, start=1)}


def _with_tables(rows: Sequence[Row], data: Path) -> list[Row]:
    """Add the columns of a CSV or TSV in the folder that has a row for the cases."""
    found = list(rows)
    for path in sorted([*data.glob("*.csv"), *data.glob("*.tsv")]) if data.is_dir() else ():
        found = _joined(found, path)
    return found


def _joined(rows: list[Row], path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            table = [{k: v or "" for k, v in line.items() if k} for line in _lines(file, delimiter)]
    except (UnicodeDecodeError, csv.Error):
        return rows
    for column in table[0] if table else ():
        told = {Path(line[column]).name.partition(".")[0]: line for line in table}
        keys = [next((key for key in _keys(row) if key in told), None) for row in rows]
        if sum(key is not None for key in keys) >= COVERED * len(rows):
            return [
                replace(row, attributes={**_others(told[key], column), **row.attributes})
                if key is not None
                else row
                for row, key in zip(rows, keys, strict=True)
            ]
    return rows


def _lines(file: io.TextIOBase, delimiter: str) -> list[dict[str, str]]:
    return [dict(line) for line in csv.DictReader(file, delimiter=delimiter, restval="")]


def _keys(row: Row) -> tuple[str, ...]:
    """Names by which a table may know a case: its own, its file's, its patient's."""
    return row.case, row.image.name.partition(".")[0], *([row.patient] if row.patient else [])


def _others(line: Mapping[str, str], column: str) -> dict[str, str]:
    taken = {column, "case", "image", "label", "file"}
    return {key: value for key, value in line.items() if key not in taken}


def _with_patients(
    layout: Layout, cases: Mapping[str, Case], examined: Mapping[str, Examined]
) -> tuple[Layout, Patients]:
    if layout.is_npz:
        return layout, NOBODY_TELLS
    rows, known = with_patients(layout.rows, cases, examined)
    return replace(layout, rows=tuple(rows)), known


def _table(layout: Layout) -> str:
    """Return the datalist as CSV; files by their whole paths, a column a modality."""
    rows, modalities, has_parts = layout.rows, layout.modalities, layout.has_parts
    attributes = list(dict.fromkeys(name for row in rows for name in row.attributes))
    attributes = [name for name in attributes if name not in {"patient", "split", *modalities}]
    images = list(modalities) if any(row.further for row in rows) else ["image"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["case", *images, "label", "patient", *(["split"] if has_parts else []), *attributes]
    )
    for row in rows:
        label = row.label.resolve() if isinstance(row.label, Path) else row.label
        files = [path.resolve() for path in (row.image, *row.further)]
        line = [row.case, *files, "" if label is None else label, row.patient]
        line += [row.part] if has_parts else []
        table.writerow([*line, *(row.attributes.get(name, "") for name in attributes)])
    return text.getvalue()
