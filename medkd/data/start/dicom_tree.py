"""DICOM tree: series of images, and the SEG or RTSTRUCT objects that refer to them.

Cases and patients get running numbers: the ids in the headers stay in the headers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset

from medkd.data.dicom import is_dicom, rtstruct, segmentation
from medkd.data.dicom.header import read_dataset
from medkd.data.dicom.reference import plain
from medkd.data.dicom.series import NO_PICTURES
from medkd.data.reader import read_grid
from medkd.data.reading import SERIES, options_of
from medkd.data.start.layout import Layout, Row
from medkd.data.start.naming import tells
from medkd.data.tree import files_below
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Case, Task

SHOWN = 8  # series that an error lists
REFERENCES = {"SEG": segmentation.names_of, "RTSTRUCT": rtstruct.enclosing}


@dataclass(frozen=True)
class _Object:
    """What a DICOM file says of itself."""

    path: Path
    series: str
    modality: str
    patient: str
    study: str
    maker: str
    is_image: bool
    is_localiser: bool
    own: frozenset[str]  # the words of the patient's name and id
    refers_to: tuple[str, ...]  # series
    names: tuple[str, ...]  # of its segments or regions

    @property
    def person(self) -> str:
        """Whom it is of: the patient, or the study where an anonymiser has blanked who it is."""
        return self.patient or self.study


Series = dict[str, list[_Object]]  # by UID


def recognise(folder: Path) -> Layout | None:
    """Return the image series that a SEG or RTSTRUCT below the folder refers to, and others alike.

    Raises:
        DataError: such objects, but no image series of theirs; several of one series; or a series
            that is scattered over folders.
    """
    if not folder.is_dir():
        return None
    objects = list(_objects(folder))
    references = [found for found in objects if found.modality in REFERENCES]
    if not references:
        return None
    references, remarks = _impersonal(folder, references)
    series: Series = defaultdict(list)
    for found in objects:
        if found.is_image:
            series[found.series].append(found)
    labelled = {uid: series[uid] for of in references for uid in of.refers_to if uid in series}
    if not labelled:
        raise DataError(f"{folder}: SEG or RTSTRUCT, but not the image series they refer to")
    _refuse_several(folder, references, series)
    _refuse_scattered(folder, labelled)
    others, said = _unlabelled(series, labelled)
    names = _structures(references)
    return Layout(
        name="DICOM with SEG or RTSTRUCT",
        task=Task.SEGMENTATION,
        rows=tuple(_rows(references, series, others)),
        labels={name: number for number, name in enumerate(names, start=1)},
        modality=", ".join(sorted({of[0].modality for of in labelled.values()})),
        title=folder.name,
        remarks=(*remarks, *said),
    )


def _impersonal(folder: Path, references: list[_Object]) -> tuple[list[_Object], tuple[str, ...]]:
    """Leave out structures whose names seem to tell of a patient; reports would show them.

    They cannot go by other names, as it is by these that they are found in the file. A name that
    files of several patients hold tells of none of them.
    """
    whose: dict[str, set[str]] = defaultdict(set)
    telling = set()
    for found in references:
        for name in found.names:
            whose[plain(name)].add(found.person or str(found.path))
            if tells(name) or not found.own.isdisjoint(plain(name).split()):
                telling.add(plain(name))
    hidden = {name for name in telling if len(whose[name]) == 1}
    if not hidden:
        return references, ()
    said = f"the names of {len(hidden)} structures look as if they told of a patient"
    kept = [
        replace(found, names=tuple(name for name in found.names if plain(name) not in hidden))
        for found in references
    ]
    kept = [new for new, old in zip(kept, references, strict=True) if new.names or not old.names]
    if not any(found.names for found in kept):
        raise DataError(
            f"{folder}: {said}, and there are no others; rename them in the SEG or RTSTRUCT, as "
            f"reports and trackers would show them"
        )
    return kept, (
        f"TODO: {said}, so they are left out and count as background; rename them in the SEG or "
        f"RTSTRUCT and run medkd init again",
    )


def _refuse_several(folder: Path, references: list[_Object], series: Series) -> None:
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


def _refuse_scattered(folder: Path, labelled: Series) -> None:
    """Refuse a series whose files lie in several folders: one would be read for the whole."""
    scattered = [
        " and ".join(str(place.relative_to(folder)) for place in places)
        for places in map(_places, labelled.values())
        if len(places) > 1
    ]
    if scattered:
        listed = "\n".join(scattered[:SHOWN])
        raise DataError(
            f"{folder}: files of {len(scattered)} series lie in several folders each; move those "
            f"of a series into one, and remove copies:\n{listed}"
        )


def _unlabelled(series: Series, labelled: Series) -> tuple[list[str], tuple[str, ...]]:
    """Return the series that a student can learn from without a label, and what is to be said."""
    dims = _dims(series, next(iter(labelled)))
    firsts = [of[0] for of in labelled.values()]
    why_not = {
        uid: _unlike(series, uid, firsts, dims=dims) for uid in series.keys() - labelled.keys()
    }
    taken = sorted((u for u, why in why_not.items() if not why), key=lambda u: series[u][0].path)
    lost = Counter(why for why in why_not.values() if why)
    said = []
    if taken:
        said.append(f"{len(taken)} series have no label: the student learns them from its teacher")
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items()))
        said.append(f"series without a label that are left out: {reasons}")
    return taken, tuple(said)


def _unlike(series: Series, uid: str, labelled: list[_Object], *, dims: int | None) -> str:
    """Say why a series is no case without a label; nothing if it is one.

    A patient with a labelled series gives no other: it would draw all of them into training.
    """
    first = series[uid][0]
    if first.modality not in {found.modality for found in labelled}:
        return "of another modality"
    if first.is_localiser:
        return "that are localisers"
    if first.person and first.person in {found.person for found in labelled}:
        return "of patients who have a labelled one"
    if len(_places(series[uid])) > 1:
        return "in several folders"
    axes = _dims(series, uid)
    return "" if axes and dims in {None, axes} else "that cannot be read as the labelled ones are"


def _dims(series: Series, uid: str) -> int | None:
    """Return the number of axes of a series; None where it cannot be read."""
    image = Case("", _place(series[uid]), None, "", _attributes(series, uid))
    try:
        return read_grid(image.image, options_of(image, None)).dims
    except DataError:
        return None


def _rows(references: list[_Object], series: Series, others: list[str]) -> Iterator[Row]:
    pairs = [(uid, of) for of in references for uid in dict.fromkeys(of.refers_to) if uid in series]
    persons = sorted({of.patient for _, of in pairs})
    further = sorted({series[uid][0].patient for uid in others}.difference(persons))
    patients = [patient for patient in (*persons, *further) if patient]
    listed: list[tuple[str, str, Path | None]] = [(uid, of.patient, of.path) for uid, of in pairs]
    listed += [(uid, series[uid][0].patient, None) for uid in others]
    for number, (uid, patient, label) in enumerate(listed, start=1):
        yield Row(
            f"case_{number:03d}",
            _place(series[uid]),
            label,
            patient=_running(patient, patients),
            attributes=_attributes(series, uid),
        )


def _attributes(series: Series, uid: str) -> dict[str, str]:
    first = series[uid][0]
    told = {"modality": first.modality, "manufacturer": first.maker}
    return told | ({SERIES: uid} if _is_shared(series, uid) else {})


def _running(patient: str, patients: list[str]) -> str:
    """Return a patient's running number; nothing where an anonymiser has blanked who it is."""
    return f"patient_{patients.index(patient) + 1:03d}" if patient else ""


def _structures(references: list[_Object]) -> list[str]:
    """Return the names of all structures, each as it is written most often."""
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for name in (name for found in references for name in found.names):
        spelt[plain(name)][name] += 1
    return sorted(counts.most_common(1)[0][0] for key, counts in spelt.items() if key)


def _is_shared(series: Series, uid: str) -> bool:
    """Whether files of another series lie in the folder of this one."""
    place = _place(series[uid])
    others = (found for other, files in series.items() if other != uid for found in files)
    return any(found.path.parent == place for found in others)


def _place(files: list[_Object]) -> Path:
    """Return a multi-frame file, or the folder of a series."""
    return files[0].path if len(files) == 1 else files[0].path.parent


def _places(files: list[_Object]) -> list[Path]:
    """Return the folders in which the files of a series lie."""
    return sorted({found.path.parent for found in files})


def _objects(folder: Path) -> Iterator[_Object]:
    most = ReadingOptions().memory_bytes
    for path in files_below(folder):
        if path.is_file() and is_dicom(path):
            try:
                yield _object(path, read_dataset(path, memory_bytes=most, all_attributes=True))
            except (DataError, AttributeError, TypeError, ValueError):
                continue  # named by the check, if a case needs it


def _object(path: Path, header: Dataset) -> _Object:
    modality = str(header.get("Modality", ""))
    names_of = REFERENCES.get(modality)
    told = f"{header.get('PatientName') or ''} {header.get('PatientID') or ''}"
    return _Object(
        path=path,
        series=str(header.SeriesInstanceUID),
        modality=modality,
        patient=str(header.get("PatientID") or "").strip(),
        study=str(header.get("StudyInstanceUID") or ""),
        maker=str(header.get("Manufacturer", "")),
        is_image="Rows" in header and modality not in NO_PICTURES,
        is_localiser="LOCALIZER" in map(str, header.get("ImageType") or ()),
        own=frozenset(word for word in plain(told).split() if len(word) > 1),
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
