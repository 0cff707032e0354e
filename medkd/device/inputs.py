"""Inputs: which images are asked about: files, folders of files, a DICOM study tree, MedMNIST.

Where a release needs several modalities, files are told apart by their names, and the series of a
DICOM study by the rule of the release.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medkd.data.dicom.files import NAMED, dicom_of, files_in, linked, refusal
from medkd.data.modalities import modality_of, read_modalities
from medkd.data.npz import read_arrays
from medkd.data.reader import SUFFIXES, read_image, stem, suffix
from medkd.data.tree import walk
from medkd.errors import DataError, TooLargeError
from medkd.options import ReadingOptions
from medkd.study import digest
from medkd.types import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

PLAIN_NAME = re.compile(r"\w[\w.-]*")
OTHERS = {*SUFFIXES} - {".dcm"}  # suffixes of other formats


@dataclass(frozen=True)
class Input:
    """One image to answer for.

    Attributes:
        name: tells it apart from the others, and what its answer is called after.
        path: its file, or the folder of its series; of a link to nothing, the link's folder.
        files: of its DICOM series; empty for other formats.
        array: ``[height, width]`` or ``[height, width, 3]``, where it is one of many in a file.
        modalities: the files or folders of its modalities, in the order of the channels, where it
            has several.
        series: where they lie in the folders of a DICOM study, the files of each instead.
        further: the DICOM files of all modalities but the first, which has ``files``.
        lacks: why it cannot be read, where that is known beforehand.
        missing: names of those that are not there.
    """

    name: str
    path: Path
    files: tuple[Path, ...] = ()
    array: np.ndarray | None = None
    modalities: tuple[Path, ...] = ()
    series: tuple[tuple[Path, ...], ...] = ()
    further: tuple[Path, ...] = ()
    lacks: str = ""
    missing: tuple[str, ...] = ()

    def read(self, options: ReadingOptions) -> Volume:
        """Read the image.

        Raises:
            DataError: as ``read_modalities``; a modality is missing, or a file of the folder that
                may belong to it is unreadable.
        """
        if self.modalities or self.series or self.lacks:
            with self.apart() as paths:
                try:
                    return read_modalities(paths, options, case=self.name)
                except DataError as error:
                    raise DataError(self._told(str(error), paths)) from None
        if self.array is not None:
            array = self.array
            array = np.moveaxis(array, -1, 0) if array.shape[-1] == 3 else array[None]
            return Volume(array=array, affine=np.eye(array.ndim))
        if len(self.files) <= 1 or set(self.files) == set(files_in(self.path)):
            return read_image(self.files[0] if len(self.files) == 1 else self.path, options)
        with linked(self.files) as folder:  # a series that shares its folder
            try:
                return read_image(folder, options)
            except DataError as error:
                raise DataError(str(error).replace(str(folder), str(self.path))) from None

    @contextmanager
    def apart(self) -> Iterator[tuple[Path, ...]]:
        """Yield the file or folder of each modality; a series of a study lies in one of its own.

        Raises:
            DataError: as ``read``.
        """
        if self.lacks:
            raise DataError(f"{self.path}: {self.lacks}")
        with ExitStack() as stack:
            folders = [stack.enter_context(linked(files)) for files in self.series]
            yield tuple(folders) or self.modalities or (self.path,)

    def _told(self, message: str, paths: Sequence[Path]) -> str:
        """Name the study in place of the folders that its series were linked in."""
        for number, path in enumerate(paths[: len(self.series)], start=1):
            message = message.replace(str(path), f"{self.path} (series {number})")
        return message


def find_inputs(
    sources: Sequence[Path], options: ReadingOptions, modalities: Sequence[str] = ()
) -> list[Input]:
    """Return the images of files and folders, in order.

    A folder is searched for DICOM series all the way down, for files of other formats at its top
    alone: answers may lie in a folder inside it. Of the series of a folder those are meant that
    the rule of ``options`` fits. Files named after one case and its ``modalities`` are one image:
    ``CASE_t1.nii.gz`` and ``CASE_flair.nii.gz``, or ``CASE_0000.nii.gz`` and ``CASE_0001.nii.gz``;
    so are folders of a DICOM series. Where ``options`` say which series of a study is of which
    modality, the series of each study are one image.

    What cannot be read is an image that fails when it is read. Where that is a file of a folder,
    all series of the folder do: none of them is known to be whole.

    Raises:
        DataError: the only source does not exist or holds no image (one of several is an image that
            fails), or two images cannot be told apart.
    """
    by_study = len(modalities) > 1 and {*modalities} == options.series_of.keys()
    names, found = modalities if by_study else (), []
    for source in sources:
        try:
            found += _find(source, options, names)
        except DataError as error:
            if len(sources) == 1:
                raise
            why = str(error).removeprefix(f"{source}: ")
            found.append(Input(name=_name_of(source), path=source, lacks=why))
    return _told_apart(_together(found, modalities) if len(modalities) > 1 else found)


def _told_apart(found: Sequence[Input]) -> list[Input]:
    """Put the folder, or the file of arrays, before names that several images have."""
    count = Counter(image.name for image in found)
    told = [
        image if count[image.name] == 1 else replace(image, name=f"{_whence(image)}/{image.name}")
        for image in found
    ]
    twice = [name for name, times in Counter(image.name for image in told).items() if times > 1]
    if twice:
        raise DataError(f"{twice[0]}: several inputs are called so; ask about them one by one")
    return told


def _whence(image: Input) -> str:
    return _name_of(image.path.parent) if image.array is None else image.path.stem


def _name_of(folder: Path) -> str:
    """Return a folder's name, also where it is called ``.`` or ``..``."""
    return folder.name if folder.name not in {"", ".."} else folder.resolve().name


def _together(found: Sequence[Input], modalities: Sequence[str]) -> list[Input]:
    """Make one image of the files of a case; those of other names stand for themselves."""
    cases: dict[Path, list[list[Input]]] = {}
    images: list[Input | Path] = []
    for image in found:
        place = image.files[0] if len(image.files) == 1 else image.path
        is_apart = image.array is not None or image.series or image.lacks
        told = None if is_apart else modality_of(place, modalities)
        if told is None:
            images.append(image)
            continue
        case = place.with_name(told[0] + suffix(place))
        if case not in cases:
            cases[case] = [[] for _ in modalities]
            images.append(case)
        cases[case][told[1]].append(replace(image, path=place))
    return [
        each if isinstance(each, Input) else _of_modalities(each, cases[each], modalities)
        for each in images
    ]


def _of_modalities(case: Path, found: Sequence[list[Input]], modalities: Sequence[str]) -> Input:
    lacks = ""
    for name, of_name in zip(modalities, found, strict=True):
        if not of_name:
            lacks = f"no file of {name}; give {stem(case)}_{name}{suffix(case)} as well"
        elif len(of_name) > 1:
            names = ", ".join(each.path.name for each in of_name)
            lacks = f"two files of {name}: {names}; give one"
    flat = [each for of_name in found for each in of_name]
    return Input(
        case.name,
        case,
        files=flat[0].files,
        modalities=tuple(each.path for each in flat),
        further=tuple(file for each in flat[1:] for file in each.files),
        lacks=lacks,
    )


def _find(source: Path, options: ReadingOptions, modalities: Sequence[str]) -> list[Input]:
    try:
        source.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not source.is_symlink():
            raise DataError(f"{source}: no such file or folder") from None
        lacks = f"the file {source.name} cannot be read ({error.strerror}); mend or remove it"
        return [Input(source.name, source.parent, lacks=lacks)]
    if source.suffix == ".npz":
        return list(_npz_images(source, options))
    if source.is_file():
        return [Input(source.name, source, () if suffix(source) in OTHERS else (source,))]
    found = _of_folder(source, options, modalities)
    if not found:
        rule = " that the release's preprocess.reading.series asks for" if options.series else ""
        raise DataError(f"{source}: holds no image (NIfTI, PNG, JPEG, TIFF, DICOM){rule}")
    return sorted(found, key=lambda each: each.name)


def _of_folder(source: Path, options: ReadingOptions, modalities: Sequence[str]) -> list[Input]:
    try:
        files = files_in(source)
    except OSError:  # told by the walk through the tree
        files = []
    known = [file for file in files if suffix(file) in OTHERS - {".img"}]  # the .hdr of the pair
    found = [image for file in known for image in _find(file, options, ())]
    folders = _folders(source, options, apart_from={*known})
    if modalities:
        return found + list(_studies(source, folders, options, modalities))
    return found + [image for each in folders for image in _dicom_series(source, each, options)]


@dataclass(frozen=True)
class _Folder:
    """A folder of a tree with DICOM files: their headers, and why others cannot be read."""

    path: Path
    headers: "Sequence[tuple[Path, Dataset]]" = ()
    lacks: str = ""

    def name_in(self, source: Path) -> str:
        place = self.path.relative_to(source)
        return place.as_posix() if place.name else _name_of(source)


def _folders(source: Path, options: ReadingOptions, apart_from: set[Path]) -> Iterator[_Folder]:
    """Yield the folders of a tree that hold DICOM files, or cannot be listed."""
    unlisted: list[OSError] = []
    for folder, _ in walk(source, unlisted=unlisted.append):
        dicom, unreadable = dicom_of(each for each in files_in(folder) if each not in apart_from)
        unreadable = {file: why for file, why in unreadable.items() if suffix(file) not in OTHERS}
        if dicom or any(file.suffix.lower() in {*NAMED, ""} for file in unreadable):
            yield _read(folder, dicom, unreadable, options)
    for error in unlisted:
        why = f"the folder cannot be listed ({error.strerror}); mend or remove it"
        yield _Folder(Path(error.filename), lacks=why)


def _read(
    folder: Path, dicom: Sequence[Path], unreadable: dict[Path, str], options: ReadingOptions
) -> _Folder:
    from medkd.data.dicom.series import read_headers

    try:
        headers, damaged = read_headers(dicom, memory_bytes=options.memory_bytes)
    except TooLargeError as error:
        return _Folder(folder, lacks=str(error))
    return _Folder(folder, headers, refusal(unreadable | damaged))


def _dicom_series(source: Path, folder: _Folder, options: ReadingOptions) -> Iterator[Input]:
    """Yield the series of a folder that are meant; where any file is unreadable, all fail."""
    from medkd.data.dicom.series import grouped, meant

    series = meant(grouped(folder.headers)[0], options.series)
    name, place = folder.name_in(source), folder.path.relative_to(source)
    if folder.lacks and not series:
        yield Input(name, folder.path, lacks=folder.lacks)
    for each in series:
        # a folder's own name says more than a UID, where it holds one series
        own = name if len(series) == 1 else (place / _safe(each.uid)).as_posix()
        yield Input(own, folder.path, each.files, lacks=folder.lacks)


def _studies(
    source: Path, folders: Iterable[_Folder], options: ReadingOptions, modalities: Sequence[str]
) -> Iterator[Input]:
    """Yield the studies of a tree, each an image of several modalities."""
    found = list(folders)
    studies: dict[str, list[tuple[Path, Dataset]]] = {}
    for file, header in (member for folder in found for member in folder.headers):
        studies.setdefault(str(header.get("StudyInstanceUID", "")), []).append((file, header))
    told: set[Path] = set()
    for uid, members in sorted(studies.items()):
        places = {file.parent for file, _ in members}
        root = Path(os.path.commonpath(places))
        place = root.relative_to(source)
        alone = _name_of(source) if len(studies) == 1 else _safe(uid)
        name = place.as_posix() if place.name else alone
        study = _study(name, root, members, options, modalities)
        of_it = [each for each in found if each.lacks and each.path in {*places, root}]
        lacks = "; ".join(
            f"{each.path.relative_to(root)}: {each.lacks}".removeprefix(".: ") for each in of_it
        )
        told |= {each.path for each in of_it}
        # nothing is waited for: what is missing may be what is unreadable
        yield replace(study, lacks=lacks, missing=()) if lacks else study
    for folder in found:
        if folder.lacks and folder.path not in told:
            yield Input(folder.name_in(source), folder.path, lacks=folder.lacks)


def _study(
    name: str,
    path: Path,
    headers: "Sequence[tuple[Path, Dataset]]",
    options: ReadingOptions,
    modalities: Sequence[str],
) -> Input:
    """Return a study as one image; what it lacks is told when it is read."""
    from medkd.data.dicom.series import grouped, meant

    found, _ = grouped(headers)
    listed = ", ".join(series.summary for series in found) or "none"
    rule = "preprocess.reading.series_of"
    lacks, missing, chosen = "", [], []
    for modality in modalities:
        fitting = meant(found, options.series_of[modality])
        if len(fitting) > 1:
            several = ", ".join(series.summary for series in fitting)
            lacks = f"{len(fitting)} series of {modality}: {several}; {rule} has to leave one"
        elif not fitting:
            missing.append(modality)
        chosen += [series.files for series in fitting[:1]]
    if missing:
        lacks = (
            f"no series of {', '.join(missing)}, as {rule} tells them, among: {listed}; give the "
            f"folder that holds all of the study"
        )
    return Input(
        name,
        path,
        files=chosen[0] if chosen else (),
        series=tuple(chosen),
        further=tuple(file for files in chosen[1:] for file in files),
        lacks=lacks or _shared(modalities, chosen),
        missing=tuple(missing),
    )


def _shared(modalities: Sequence[str], chosen: Sequence[tuple[Path, ...]]) -> str:
    """Say which modalities have the same series; nothing where none do."""
    first: dict[tuple[Path, ...], str] = {}
    for name, files in zip(modalities, chosen, strict=True):
        if (other := first.setdefault(files, name)) != name:
            return (
                f"one series is taken for {other} and for {name}; tell them apart in "
                f"preprocess.reading.series_of"
            )
    return ""


def _safe(name: str) -> str:
    """Return a name that a file gives as one that is no path; an odd one becomes its digest.

    Example:
        >>> _safe("1.2.840"), _safe("../../x")
        ('1.2.840', 'b2ecd05322dbaaf5')
    """
    return name if PLAIN_NAME.fullmatch(name) else digest(name)


def _npz_images(source: Path, options: ReadingOptions) -> Iterator[Input]:
    """Yield every image of the arrays called ``*images`` in a MedMNIST file."""
    stacks = read_arrays(
        source, wanted=lambda name: name.endswith("images"), memory_bytes=options.memory_bytes
    )
    if not stacks:
        raise DataError(f"{source}: holds no array whose name ends in 'images'")
    for name, stack in stacks.items():
        for index, array in enumerate(stack):
            yield Input(f"{_safe(name)}/{index:05d}", source, array=array)


def answer_name(image: Input, suffix: str) -> str:
    """Return what the answer for an image is called.

    Example:
        >>> answer_name(Input("scan.v2.nii.gz", Path("scan.v2.nii.gz")), ".dcm")
        'scan.v2.dcm'
    """
    own = Path(image.name)
    return (own.parent / (stem(own) + suffix)).as_posix()
