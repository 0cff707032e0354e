"""Datalist: the list of cases, from a Decathlon JSON, a CSV, a MedMNIST file or phantoms."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from medkd.config import Config, expand
from medkd.data import medmnist, phantoms
from medkd.data.modalities import modality_of
from medkd.data.reader import stem
from medkd.errors import DataError
from medkd.options import DataOptions
from medkd.study import Study, sha256
from medkd.types import NO_FINDING, SEPARATOR, Case, Task

Row = dict[str, str]
CELLS = {"1": True, "1.0": True, "0": False, "0.0": False, "": None, "-1": None, "-1.0": None}
GENERATED = "data"  # the stage that holds cases medkd has written itself


def read_datalist(study: Study) -> list[Case]:
    """Return the cases that ``data.source`` names, in its order.

    ``phantom`` and ``.npz`` sources are first written as files into the study's folder, so that
    everything after this reads images from disk.

    Raises:
        DataError: the source is missing or malformed, or two cases share an id.
        ConfigError: ``data.root`` names an environment variable that is not set.
        StudyError: another process is writing these files, or they were made from something else.
    """
    source = _source(study)
    data, modalities = study.config.data, study.config.preprocess.modalities
    rows = (
        _decathlon(source, modalities) if source.suffix == ".json" else _table(source, study.config)
    )
    patients_file = _patients_file(rows, data, source)
    if data.table:
        rows = _join(rows, data)
    _refuse_without_patients(rows, data, patients_file)
    if data.annotated and data.annotated not in rows[0]:
        raise DataError(
            f"{_table_path(data) if data.table else source}: no column {data.annotated!r} (has "
            f"{', '.join(rows[0])}), which data.annotated names; it lists the structures or "
            f"findings that a case's label covers, and is empty where that is all of them"
        )
    if data.annotated and _has_columns_of_findings(rows[0], study.config):
        raise DataError(
            f"{source}: each finding has a column, which says of which images it was judged; "
            f"remove data.annotated"
        )
    cases = [_case(row, study.config, source) for row in rows]
    _refuse_duplicates(cases, source)
    return cases


def tells_patients(data: DataOptions) -> bool:
    """Whether the data set names its patients; where not, each image is taken for one."""
    return not data.source.endswith(".npz") and data.patient not in {"case", data.case}


def _source(study: Study) -> Path:
    data, task = study.config.data, study.config.task
    if data.source == "phantom":
        inputs: dict[str, Any] = {"phantoms": data.phantoms.model_dump(), "task": task}
        seed = study.config.study.seed

        def write(folder: Path) -> None:
            phantoms.write_cohort(folder, **data.phantoms.model_dump(), seed=seed)

        return _generated(study, inputs | {"seed": seed}, write)
    path = expand(data.source, key="data.source", root=expand(data.root, key="data.root"))
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.root and data.source name it")
    if path.suffix == ".npz":
        if not study.is_complete(GENERATED):
            # what is unsound leaves nothing behind
            medmnist.read(path, classes=data.labels, several=data.overlapping)
        inputs = {"labels": data.labels, "content": sha256(path)}
        inputs |= {"overlapping": True} if data.overlapping else {}

        def unpack(folder: Path) -> None:
            medmnist.unpack(path, folder, classes=data.labels, several=data.overlapping)

        return _generated(study, inputs, unpack)
    return path


def _generated(study: Study, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Return the table of the cases that ``make`` writes; a second process does not race it."""
    with nullcontext() if study.is_complete(GENERATED) else study.lock():
        return study.stage(GENERATED, inputs=inputs, make=make) / "cases.csv"


def _decathlon(path: Path, modalities: Sequence[str]) -> list[Row]:
    try:
        entries = enumerate(_training(path), start=1)
        rows = [_entry(entry, number, modalities) for number, entry in entries]
    except _MalformedError as error:
        raise DataError(
            f"{path}: not a Decathlon datalist ({error}); it needs "
            f'"training": [{{"image": …, "label": …}}, …] (without "label": unlabelled)'
        ) from None
    if not rows:
        raise DataError(f"{path}: holds no cases")
    return rows


class _MalformedError(Exception):
    """What a JSON lacks to be a Decathlon datalist, in plain words."""


def _training(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _MalformedError(f"no JSON: {error.msg} in {where}") from None
    except UnicodeDecodeError:
        raise _MalformedError("no text in UTF-8") from None
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise _MalformedError('no list "training"')
    return content["training"]


def _entry(entry: Any, number: int, modalities: Sequence[str]) -> Row:  # noqa: ANN401
    """Read one entry of "training"; ``number`` counts from 1."""
    named = entry.get("image") if isinstance(entry, dict) else None
    files: list[Any] = named if isinstance(named, list) else [named]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise _MalformedError(f'entry {number} names no file under "image"')
    row = {"image": files[0], "label": _listed(entry.get("label"))}
    if not isinstance(named, list):
        return {"case": stem(Path(files[0])), **row}
    if len(files) != len(modalities):
        raise _MalformedError(
            f'entry {number} names {len(files)} files under "image", preprocess.modalities names '
            f"{len(modalities)}"
        )
    told = modality_of(Path(files[0]), modalities)
    case = told[0] if told else stem(Path(files[0]))
    return {"case": case, **row, **dict(zip(modalities, files, strict=True))}


def _listed(label: Any) -> str:  # noqa: ANN401
    """Write a label as a table holds it: a file, a class, or the findings of a list."""
    if isinstance(label, list):
        return SEPARATOR.join(map(str, label)) or NO_FINDING[0]
    return "" if label is None else str(label)


def _table(path: Path, config: Config) -> list[Row]:
    data, modalities = config.data, config.preprocess.modalities
    rows = _with_first_modality(_read_csv(path), path, data, modalities)
    for column in ("image",) if _has_columns_of_findings(rows[0], config) else ("image", "label"):
        pattern = getattr(data, column)
        if column not in rows[0] and (not pattern or data.case not in rows[0]):
            raise DataError(
                f"{path}: no column {column!r} (has {', '.join(rows[0])}); a datalist has the "
                f"columns image, label (or one for each finding) and patient, or data.{column} "
                f"gives a pattern such as {column}s/{{case}}.png"
            )
        if pattern and data.case in rows[0]:
            rows = [{**row, column: pattern.replace("{case}", row[data.case])} for row in rows]
    for number, row in enumerate(rows, start=1):
        if not row["image"]:
            name = row.get(data.case) or f"in row {number} below the header"
            raise DataError(
                f"{path}: case {name}: the column 'image' is empty; fill it, or remove the row"
            )
    return [{**row, "case": row.get(data.case) or stem(Path(row["image"]))} for row in rows]


def _with_first_modality(
    rows: list[Row], path: Path, data: DataOptions, modalities: Sequence[str]
) -> list[Row]:
    """Return rows whose image is their first modality, if the modalities are columns."""
    missing = [name for name in modalities if name not in rows[0]]
    if not modalities or (len(missing) == len(modalities)):
        return rows  # one file holds all channels
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r} (has {', '.join(rows[0])}); preprocess.modalities "
            f"asks for {', '.join(modalities)}"
        )
    for number, row in enumerate(rows, start=1):
        if empty := [name for name in modalities if not row[name]]:
            case = row.get(data.case) or f"in row {number} below the header"
            raise DataError(
                f"{path}: case {case}: the column {empty[0]!r} is empty; fill it, or remove the row"
            )
    return [{**row, "image": row[modalities[0]]} for row in rows]


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [dict(row) for row in csv.DictReader(file, restval="", restkey="")]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.root and data.table name it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise DataError(f"{path}: holds no cases")
    return [{k: v.strip() for k, v in row.items() if k} for row in rows]


def _join(rows: list[Row], data: DataOptions) -> list[Row]:
    path = _table_path(data)
    table = _read_csv(path)
    if data.case not in table[0]:
        raise DataError(
            f"{path}: no column {data.case!r} (has {', '.join(table[0])}); the table needs one of "
            f"case ids, which for a Decathlon case is its image's name without .nii.gz; data.case "
            f"names it"
        )
    extra = {row[data.case]: row for row in table}
    if len(extra) < len(table):
        twice = next(row[data.case] for row in table if extra[row[data.case]] is not row)
        raise DataError(f"{path}: two rows for case {twice}; keep one")
    lost = [row["case"] for row in rows if row["case"] not in extra]
    if lost:
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        raise DataError(f"{path}: no row for case {lost[0]}{others}; add what is missing")
    return [extra[row["case"]] | row for row in rows]


def _table_path(data: DataOptions) -> Path:
    return expand(str(data.table), key="data.table", root=expand(data.root, key="data.root"))


def _patients_file(rows: Sequence[Row], data: DataOptions, source: Path) -> Path:
    """Return the file that has to name the patients; ``rows`` are the source's own."""
    return source if data.patient in rows[0] or not data.table else _table_path(data)


def _refuse_without_patients(rows: Sequence[Row], data: DataOptions, path: Path) -> None:
    if data.patient in rows[0]:
        empty = [row["case"] for row in rows if not row[data.patient]]
        if empty:
            raise DataError(
                f"{path}: case {empty[0]}: the column {data.patient!r} is empty; fill it with the "
                f"patient's id"
            )
        return
    if path.suffix == ".json":
        lack = (
            f"a Decathlon datalist names no patients; name a CSV with the columns {data.case} and "
            f"{data.patient} as data.table"
        )
    else:
        lack = (
            f"no column {data.patient!r} (has {', '.join(_read_csv(path)[0])}); give each case its "
            f"patient there, or name the column with data.patient"
        )
    raise DataError(
        f"{path}: {lack}. Without patients a split leaks; if each image really is another person, "
        f"write data.patient: case"
    )


def _case(row: Mapping[str, str], config: Config, source: Path) -> Case:
    modalities = config.preprocess.modalities
    reserved = {"case", "image", "label", config.data.patient, config.data.case, *modalities}
    reserved.add(config.data.annotated or "label")
    label: Path | int | tuple[str, ...] | None
    if _has_columns_of_findings(row, config):
        reserved |= config.data.labels.keys()
        label, annotated = _by_columns(row, config.data, source)
    else:
        label, annotated = _label(row, config, source), _annotated(row, config, source)
    return Case(
        id=row["case"],
        image=source.parent / row["image"],
        label=label,
        patient=row[config.data.patient],
        attributes={k: v for k, v in row.items() if k not in reserved},
        further=tuple(source.parent / row[name] for name in modalities[1:] if name in row),
        annotated=annotated,
    )


def _annotated(row: Mapping[str, str], config: Config, source: Path) -> tuple[str, ...] | None:
    """Return the structures or findings that a label covers, in order; None for all."""
    data = config.data
    text = row[data.annotated] if data.annotated else ""
    if not text or not row["label"]:
        return None
    if config.task is Task.CLASSIFICATION:
        text = text.replace(SEPARATOR, ";")
    parts = text.split(";") if ";" in text or text in data.labels else text.split()
    named = {part.strip() for part in parts} - {""}
    if unknown := sorted(named - data.labels.keys()):
        raise DataError(
            f"{source}: case {row['case']}: the column {data.annotated!r} names {unknown}; "
            f"data.labels declares {', '.join(data.labels)} (separate names by `;`)"
        )
    return (
        None
        if not named or named == data.labels.keys()
        else tuple(n for n in data.labels if n in named)
    )


def _label(
    row: Mapping[str, str], config: Config, source: Path
) -> Path | int | tuple[str, ...] | None:
    text = row["label"]
    if not text:
        return None
    if config.task is Task.SEGMENTATION:
        return source.parent / text
    if config.data.overlapping:
        return _findings(row, config.data, source)
    if text in config.data.labels:
        return config.data.labels[text]
    if text.lstrip("-").isdigit() and int(text) in config.data.labels.values():
        return int(text)
    raise DataError(
        f"{source}: case {row['case']} has label {text!r}; data.labels declares "
        f"{dict(config.data.labels)}"
    )


def _findings(row: Mapping[str, str], data: DataOptions, source: Path) -> tuple[str, ...]:
    """Return the findings that a label names, in the order of ``data.labels``."""
    if row["label"].lower() in NO_FINDING:
        return ()
    named = {part.strip() for part in row["label"].split(SEPARATOR)}
    if unknown := sorted(named - data.labels.keys()):
        raise DataError(
            f"{source}: case {row['case']}: its label {row['label']!r} names {unknown}; "
            f"data.labels declares {', '.join(data.labels)} (`{SEPARATOR}` separates findings; "
            f"write {NO_FINDING[0]} where there is none, nothing where nobody has looked)"
        )
    return tuple(name for name in data.labels if name in named)


def _has_columns_of_findings(row: Mapping[str, str], config: Config) -> bool:
    """Whether a table has no label but a column for each finding."""
    asked = config.task is Task.CLASSIFICATION and config.data.overlapping
    return asked and "label" not in row and config.data.labels.keys() <= row.keys()


def _by_columns(
    row: Mapping[str, str], data: DataOptions, source: Path
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the findings that a row's columns tell of, and which were judged; None for all.

    CheXpert's way (Irvin et al., AAAI 2019): 1 and 0, and -1 where the reader could not tell, which
    is nothing to learn from, as an empty cell is.
    """
    judged = {}
    for name in data.labels:
        if row[name] not in CELLS:
            raise DataError(
                f"{source}: case {row['case']}: the column {name!r} holds {row[name]!r}; write 1 "
                f"where it was found, 0 where it was not, -1 or nothing where nobody can tell"
            )
        found = CELLS[row[name]]
        if found is not None:
            judged[name] = found
    if not judged:
        return None, None
    label = tuple(name for name, found in judged.items() if found)
    return label, None if len(judged) == len(data.labels) else tuple(judged)


def _refuse_duplicates(cases: list[Case], source: Path) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise DataError(f"{source}: two cases are called {case.id}; add a column `case`")
        seen.add(case.id)
