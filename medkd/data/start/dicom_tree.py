"""DICOM tree: series of images, and the SEG or RTSTRUCT objects that refer to them.

Cases and patients get running numbers: the ids in the headers stay in the headers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset

from medkd.data.dicom import is_dicom, rtstruct, segmentation
from medkd.data.dicom.header import read_dataset
from medkd.data.dicom.reference import plain
from medkd.data.reading import SERIES
from medkd.data.start.layout import Layout, Row
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Task

SHOWN = 8  # series that an error lists
REFERENCES = {"SEG": segmentation.names_of, "RTSTRUCT": rtstruct.enclosing}


@dataclass(frozen=True)
class _Object:
    """What a DICOM file says of itself."""

    path: Path
    series: str
    modality: str
    patient: str
    maker: str
    refers_to: tuple[str, ...]  # series
    names: tuple[str, ...]  # of its segments or regions


def recognise(folder: Path) -> Layout | None:
    """Return the image series that a SEG or RTSTRUCT below the folder refers to.

    Raises:
        DataError: such objects, but no image series of theirs; or several of one series.
    """
    if not folder.is_dir():
        return None
    objects = list(_objects(folder))
    references = [found for found in objects if found.modality in REFERENCES]
    if not references:
        return None
    series: dict[str, list[_Object]] = defaultdict(list)
    for found in objects:
        if found.modality not in REFERENCES:
            series[found.series].append(found)
    _refuse_several(folder, references, series)
    rows = list(_rows(references, series))
    if not rows:
        raise DataError(f"{folder}: SEG or RTSTRUCT, but not the image series they refer to")
    names = _structures(references)
    modalities = {of[0].modality for of in series.values()}
    return Layout(
        name="DICOM with SEG or RTSTRUCT",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        labels={name: number for number, name in enumerate(names, start=1)},
        modality=", ".join(sorted(modalities)),
        title=folder.name,
    )


def _refuse_several(
    folder: Path, references: list[_Object], series: dict[str, list[_Object]]
) -> None:
    """Refuse several references of one series: each would teach the others' as background."""
    paths: dict[str, list[Path]] = defaultdict(list)
    for reference in references:
        for uid in set(reference.refers_to) & series.keys():
            paths[uid].append(reference.path.relative_to(folder))
    several = [" and ".join(map(str, of)) for of in paths.values() if len(of) > 1]
    if several:
        listed = "\n".join(several[:SHOWN])
        raise DataError(
            f"{folder}: {len(several)} series have several SEG or RTSTRUCT each; keep one of each, "
            f"or, where they tell of different structures, write a CSV with a row for each and a "
            f"column of what it covers, which data.annotated names:\n{listed}"
        )


def _rows(references: list[_Object], series: dict[str, list[_Object]]) -> Iterator[Row]:
    patients = sorted({found.patient for found in references} - {""})
    number = 0
    for reference in references:
        for uid in dict.fromkeys(reference.refers_to):
            if uid in series:
                number += 1
                image = series[uid][0]
                attributes = {"modality": image.modality, "manufacturer": image.maker}
                if _is_shared(series, uid):
                    attributes[SERIES] = uid
                yield Row(
                    f"case_{number:03d}",
                    _place(series[uid]),
                    reference.path,
                    patient=_running(reference.patient, patients),
                    attributes=attributes,
                )


def _running(patient: str, patients: list[str]) -> str:
    """Return a patient's running number; nothing where an anonymiser has blanked who it is."""
    return f"patient_{patients.index(patient) + 1:03d}" if patient else ""


def _structures(references: list[_Object]) -> list[str]:
    """Return the names of all structures, each as it is written most often."""
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for name in (name for found in references for name in found.names):
        spelt[plain(name)][name] += 1
    return sorted(counts.most_common(1)[0][0] for key, counts in spelt.items() if key)


def _is_shared(series: dict[str, list[_Object]], uid: str) -> bool:
    """Whether files of another series lie in the folder of this one."""
    place = _place(series[uid])
    others = (found for other, files in series.items() if other != uid for found in files)
    return any(found.path.parent == place for found in others)


def _place(files: list[_Object]) -> Path:
    """Return a multi-frame file, or the folder of a series."""
    return files[0].path if len(files) == 1 else files[0].path.parent


def _objects(folder: Path) -> Iterator[_Object]:
    most = ReadingOptions().memory_bytes
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and is_dicom(path):
            try:
                yield _object(path, read_dataset(path, memory_bytes=most, all_attributes=True))
            except (DataError, AttributeError, TypeError, ValueError):
                continue  # named by the check, if a case needs it


def _object(path: Path, header: Dataset) -> _Object:
    names_of = REFERENCES.get(str(header.get("Modality", "")))
    return _Object(
        path=path,
        series=str(header.SeriesInstanceUID),
        modality=str(header.get("Modality", "")),
        patient=str(header.get("PatientID") or "").strip(),
        maker=str(header.get("Manufacturer", "")),
        refers_to=tuple(_referred(header)),
        names=tuple(names_of(header).values()) if names_of else (),
    )


def _referred(header: Any) -> Iterator[str]:  # noqa: ANN401
    for item in header.get("ReferencedSeriesSequence", ()):
        yield str(item.SeriesInstanceUID)
    for frame in header.get("ReferencedFrameOfReferenceSequence", ()):
        for study in frame.get("RTReferencedStudySequence", ()):
            for item in study.get("RTReferencedSeriesSequence", ()):
                yield str(item.SeriesInstanceUID)
