"""Inputs: which images are asked about: files, folders of files, a DICOM study tree, MedMNIST.

Where a release needs several modalities, files are told apart by their names, and the series of a
DICOM study by the rule of the release.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medkd.data.dicom import is_dicom
from medkd.data.dicom.files import files_in, linked
from medkd.data.modalities import modality_of, read_modalities
from medkd.data.npz import read_arrays
from medkd.data.reader import SUFFIXES, read_image, stem, suffix
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.study import digest
from medkd.types import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

PLAIN_NAME = re.compile(r"\w[\w.-]*")
NO_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC"}  # modalities


@dataclass(frozen=True)
class Input:
    """One image to answer for.

    Attributes:
        name: tells it apart from the others, and what its answer is called after.
        path: its file, or the folder of its series.
        files: of its DICOM series; empty for other formats.
        array: ``[height, width]`` or ``[height, width, 3]``, where it is one of many in a file.
        modalities: the files or folders of its modalities, in the order of the channels, where it
            has several.
        series: where they lie in the folders of a DICOM study, the files of each instead.
        further: the DICOM files of all modalities but the first, which has ``files``.
        lacks: why its modalities cannot be read, where they cannot.
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
            DataError: as ``read_modalities``; or a modality is missing.
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
            DataError: a modality is missing.
        """
        if self.lacks:
            raise DataError(self.lacks)
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

    Raises:
        DataError: a source does not exist or holds no image, or two images cannot be told apart.
    """
    by_study = len(modalities) > 1 and {*modalities} == options.series_of.keys()
    names = modalities if by_study else ()
    found = [image for source in sources for image in _find(source, options, names)]
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
    return image.path.parent.name if image.array is None else image.path.stem


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
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.suffix == ".npz":
        return list(_npz_images(source, options))
    if source.is_file():
        is_plain = suffix(source) in SUFFIXES and suffix(source) != ".dcm"
        return [Input(source.name, source, () if is_plain else (source,))]
    known = {*SUFFIXES} - {".img", ".dcm"}  # the .hdr stands for its pair
    found = [Input(p.name, p) for p in files_in(source) if suffix(p) in known]
    known_files = {each.path for each in found}
    if modalities:
        found += _studies(source, options, modalities, apart_from=known_files)
    else:
        found += _dicom_series(source, options, apart_from=known_files)
    if not found:
        rule = " that the release's preprocess.reading.series asks for" if options.series else ""
        raise DataError(f"{source}: holds no image (NIfTI, PNG, JPEG, TIFF, DICOM){rule}")
    return sorted(found, key=lambda each: each.name)


def _dicom_series(source: Path, options: ReadingOptions, apart_from: set[Path]) -> Iterator[Input]:
    """Yield the series of a tree, one or several a folder."""
    for folder, dicom in _dicom_files(source, apart_from):
        series = _series(dicom, options)
        place = folder.relative_to(source)
        for uid, members in sorted(series.items()):
            # a folder's own name says more than a UID, where it holds one series
            name = place.as_posix() if len(series) == 1 else (place / _safe(uid)).as_posix()
            yield Input(source.name if name == "." else name, folder, tuple(members))


def _dicom_files(source: Path, apart_from: set[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the folders of a tree that hold DICOM files, with these."""
    for folder, inner, _ in os.walk(source):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files = [file for file in files_in(Path(folder)) if file not in apart_from]
        if dicom := [file for file in files if is_dicom(file)]:
            yield Path(folder), dicom


def _studies(
    source: Path, options: ReadingOptions, modalities: Sequence[str], apart_from: set[Path]
) -> Iterator[Input]:
    """Yield the studies of a tree, each an image of several modalities."""
    files = [file for _, dicom in _dicom_files(source, apart_from) for file in dicom]
    headers, damaged = _headers(files, options)
    studies: dict[str, list[tuple[Path, Dataset]]] = {}
    for file, header in headers:
        studies.setdefault(str(header.get("StudyInstanceUID", "")), []).append((file, header))
    for uid, members in sorted(studies.items()):
        parents = [str(file.parent) for file, _ in members]
        place = Path(os.path.commonpath(parents)).relative_to(source)
        name = place.as_posix() if place.name else source.name if len(studies) == 1 else _safe(uid)
        yield _study(name, source / place, members, options, modalities)
    for file in damaged:
        yield Input(file.relative_to(source).as_posix(), file, (file,))


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


def _headers(
    files: Sequence[Path], options: ReadingOptions
) -> "tuple[list[tuple[Path, Dataset]], list[Path]]":
    """Return the headers of files, and those that have none that can be read."""
    from medkd.data.dicom.header import read_dataset

    headers, damaged = [], []
    for file in files:
        try:
            headers.append((file, read_dataset(file, memory_bytes=options.memory_bytes)))
        except DataError:
            damaged.append(file)
    return headers, damaged


def _series(files: Sequence[Path], options: ReadingOptions) -> dict[str, tuple[Path, ...]]:
    """Return the files of each series of images that is meant; damaged ones for reading to tell."""
    from medkd.data.dicom.series import grouped, meant

    headers, damaged = _headers(files, options)
    images, others = grouped(headers)
    damaged += [file for file, modality in others.items() if modality not in NO_IMAGES]
    found = {each.uid: each.files for each in meant(images, options.series)}
    return found | ({"damaged": tuple(damaged)} if damaged else {})


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
