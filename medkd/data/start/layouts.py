"""Layouts: how data sets lie on disk, and the table of cases that each of them holds.

A layout is recognised by what lies in the folder, never by its name. Each recogniser returns None
for a folder that is none of its own, and refuses one that is but cannot be used.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.data.modalities import modality_of
from medkd.data.reader import PICTURES, SUFFIXES, stem, suffix
from medkd.data.start import bids, dicom_tree, regions
from medkd.data.start.layout import Layout, Row, is_whole
from medkd.data.start.naming import modality_names, names_of
from medkd.errors import DataError
from medkd.types import Task

IMAGES = ("images", "image", "imgs", "img", "imagestr", "scans", "volumes", "data", "x")
MASKS = ("labels", "label", "masks", "mask", "labelstr", "segmentations", "gt", "y")
MASK_SUFFIX = re.compile(
    r"(?i)[_\-. ](?:mask|masks|seg|segmentation|label|labels|gt|dseg|annotation)$"
)
NUMBERED_MASK = re.compile(MASK_SUFFIX.pattern.removesuffix("$") + r"[_\-. ]?\d+$")
IMAGE_SUFFIX = re.compile(r"(?i)[_\-. ](?:image|img|scan|0000)$")
PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
LAYOUTS = (
    "Decathlon (dataset.json with a list `training`)",
    "nnU-Net raw (dataset.json with channel_names, imagesTr, labelsTr)",
    "a BIDS derivative (sub-*/…_dseg.nii.gz)",
    "MedMNIST (.npz)",
    "a folder of images beside one of masks",
    "one folder of images a class",
    "DICOM series with SEG or RTSTRUCT",
)


def recognise(folder: Path) -> Layout:
    """Return the cases of a folder, by the first layout that fits it.

    Raises:
        DataError: missing, of no layout that medkd knows, or of one that cannot be used.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    described = (_medmnist, _decathlon, _nnunet, bids.recognise, dicom_tree.recognise)
    for recognised in (*described, _pairs, _classes):
        found = recognised(folder)
        if found:
            return found
    raise DataError(
        f"{folder}: no data set that medkd knows; it looks for {'; '.join(LAYOUTS)}. Or write a "
        f"CSV with the columns image, label and patient yourself"
    )


def _medmnist(path: Path) -> Layout | None:
    inside = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    files = [file for file in inside if file.suffix == ".npz"]
    if len(files) != 1:
        return None
    return Layout(name="MedMNIST", task=Task.CLASSIFICATION, source=files[0])


def _described(folder: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json``; nothing where there is none."""
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _decathlon(folder: Path) -> Layout | None:
    told = _described(folder)
    training = told.get("training")
    if not isinstance(training, list) or not training:
        return None
    modalities = modality_names(told.get("modality"))
    return Layout(
        name="Decathlon",
        task=Task.SEGMENTATION,
        rows=tuple(
            _entry(folder, number, entry, modalities)
            for number, entry in enumerate(training, start=1)
        ),
        **_structures(told),
        modality=", ".join(map(str, _values(told.get("modality")))),
        modalities=modalities,
        licence=str(told.get("licence") or told.get("license") or ""),
        title=str(told.get("name") or folder.name),
        source=folder / "dataset.json",
    )


def _entry(folder: Path, number: int, entry: object, modalities: Sequence[str]) -> Row:
    """Read one case of a Decathlon: an image of all modalities, or a list of a file for each."""
    where = f"{folder / 'dataset.json'}: entry {number} of `training`"
    told = entry if isinstance(entry, dict) else {}
    image, label = told.get("image"), told.get("label")
    listed = image if isinstance(image, list) else [image]
    files = [file for file in listed if isinstance(file, str) and file]
    if not files or len(files) < len(listed):
        raise DataError(f"{where} names no image; give its file under `image`")
    if len(files) > 1 and len(files) != len(modalities):
        raise DataError(
            f"{where} names {len(files)} files under `image`, and `modality` {len(modalities)}; "
            f"name a modality for each file"
        )
    if label and not isinstance(label, str):
        raise DataError(
            f"{where} has the label {label!r}, which is no file; init takes label maps from a "
            f"Decathlon: list classes in a CSV with the columns image, label and patient"
        )
    first, *further = [folder / file for file in files]
    case = modality_of(first, modalities) if further else None
    return Row(
        case[0] if case else stem(first),
        first,
        folder / label if label else None,
        further=tuple(further),
    )


def _values(tree: object) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else []


def _structures(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``dataset.json`` says of the label maps, as attributes of a layout."""
    said = regions.read(told.get("labels", {}))
    return {
        "labels": said.labels,
        "overlap": "keep" if said.includes else "refuse",
        "includes": said.includes,
        "ignore": said.ignore,
        "remarks": said.remarks,
    }


def _nnunet(folder: Path) -> Layout | None:
    told = _described(folder)
    channels, ending = told.get("channel_names"), told.get("file_ending", ".nii.gz")
    if not isinstance(channels, dict) or not (folder / "imagesTr").is_dir():
        return None
    images, structures = folder / "imagesTr", _structures(told)
    is_colour = ending in PICTURES and not any(images.glob(f"*_0001{ending}"))
    count = 1 if is_colour else len(channels)  # one picture holds red, green and blue
    rows = [
        Row(case, image, label if label.exists() else None, further=further)
        for image in sorted(images.glob(f"*_0000{ending}"))
        for case in [image.name.removesuffix(f"_0000{ending}")]
        for label in [folder / "labelsTr" / f"{case}{ending}"]
        for further in [_channels(images, case, ending, count)]
    ]
    if not rows:
        raise DataError(
            f"{images}: no file *_0000{ending}, by which nnU-Net names first channels; correct "
            f"file_ending in dataset.json, or the names"
        )
    return Layout(
        name="nnU-Net raw",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        **structures,
        modality=", ".join(map(str, channels.values())),
        licence=str(told.get("licence") or told.get("license") or ""),
        title=str(told.get("name") or folder.name),
        modalities=() if is_colour else modality_names(channels),
    )


def _channels(images: Path, case: str, ending: str, count: int) -> tuple[Path, ...]:
    """Return the files of the second to last channel of a case."""
    files = tuple(images / f"{case}_{number:04d}{ending}" for number in range(1, count))
    if missing := [file for file in files if not file.exists()]:
        raise DataError(
            f"{missing[0]}: no such file, but dataset.json names {count} channels; add it, or take "
            f"the case out"
        )
    return files


def _files(folder: Path) -> list[Path]:
    """Return the image files of a folder: what medkd reads and is not hidden."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and suffix(path) in SUFFIXES and not path.name.startswith(".")
        if is_whole(path)
    ]


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir()]


def _pairs(folder: Path) -> Layout | None:
    """Match images with masks of the same name, in a folder beside theirs or among them."""
    if not folder.is_dir():
        return None
    rows: list[Row] = []
    for part, inside in [("", folder), *_parts(folder)]:
        images, masks = _of_kind(inside, IMAGES), _of_kind(inside, MASKS)
        of_core = _by_core([(_core(path, MASK_SUFFIX), path) for path in masks])
        if not masks or not images:
            images, among = _apart(images or _files(inside))
            of_core = _by_core(among)
        for image in images if of_core or part else ():
            label = of_core.get(_core(image, IMAGE_SUFFIX)) or of_core.get(stem(image))
            rows.append(Row(_core(image, IMAGE_SUFFIX), image, label, part=part))
    if not any(row.label for row in rows):
        return None
    return Layout("images and masks", Task.SEGMENTATION, tuple(_distinct(rows)), title=folder.name)


def _apart(files: Sequence[Path]) -> tuple[list[Path], list[tuple[str, Path]]]:
    """Tell images from the masks among them, by names: ``a_mask.png``, beside ``a.png``.

    Returns:
        The images, and each mask with the name of its image.
    """
    masks = [(_core(path, MASK_SUFFIX), path) for path in files if MASK_SUFFIX.search(stem(path))]
    marked = {path for _, path in masks}
    names = {n for p in files if p not in marked for n in (stem(p), _core(p, IMAGE_SUFFIX))}
    numbered = [(_core(path, NUMBERED_MASK), path) for path in files if path not in marked]
    masks += [(name, path) for name, path in numbered if name != stem(path) and name in names]
    marked = {path for _, path in masks}
    return [path for path in files if path not in marked], masks


def _by_core(masks: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Return masks by the names of their images; there has to be one of each."""
    found: dict[str, list[Path]] = defaultdict(list)
    for core, path in masks:
        found[core].append(path)
    several = [paths for paths in found.values() if len(paths) > 1]
    if several:
        listed = ", ".join(path.name for path in several[0])
        raise DataError(
            f"{several[0][0].parent}: {len(several)} images have several masks each, such as "
            f"{listed}; merge those of an image into one label map"
        )
    return {core: path for core, (path,) in found.items()}


def _core(path: Path, ending: re.Pattern[str]) -> str:
    return ending.sub("", stem(path))


def _of_kind(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the images in the first subfolder that goes by one of these names."""
    of_name = {path.name.lower(): path for path in _folders(folder)}
    return next((_files(of_name[name]) for name in names if name in of_name), [])


def _parts(folder: Path) -> list[tuple[str, Path]]:
    return [(PARTS[f.name.lower()], f) for f in _folders(folder) if f.name.lower() in PARTS]


def _distinct(rows: Sequence[Row]) -> Iterator[Row]:
    """Tell cases of one name in different folders apart by their folders."""
    count: dict[str, int] = defaultdict(int)
    for row in rows:
        count[row.case] += 1
    for row in rows:
        folders = [row.part, row.image.parent.name] if row.part else [row.image.parent.name]
        yield row.called("_".join([*folders, row.case]) if count[row.case] > 1 else row.case)


def _classes(folder: Path) -> Layout | None:
    """Take each folder of images for a class, below folders train, val and test if there are."""
    if not folder.is_dir():
        return None
    places = _parts(folder) or [("", folder)]
    found = [(part, inside) for part, place in places for inside in _folders(place)]
    of_class, lost = [], 0
    for part, inside in found:
        images, masks = _apart(_files(inside))
        names = {_core(path, IMAGE_SUFFIX) for path in images} | {stem(path) for path in images}
        alone = [path for name, path in masks if name not in names]
        of_class.append((part, inside.name, [*images, *alone]))
        lost += len(masks) - len(alone)
    folders = sorted({name for _, name, files in of_class if files})
    if len(folders) < 2:
        return None
    classes, remarks = names_of(folders, kind="class")
    number = {name: number for number, name in enumerate(folders)}
    rows = [
        Row(stem(image), image, number[name], part=part)
        for part, name, files in of_class
        for image in files
    ]
    layout = Layout(
        "class folders",
        Task.CLASSIFICATION,
        tuple(_distinct(rows)),
        labels={name: number for number, name in enumerate(classes)},
        title=folder.name,
        remarks=remarks,
    )
    if not lost:
        return layout
    return layout.noting(
        f"{lost} files are masks of the images beside them and are left out; to learn to segment, "
        f"list images and masks in a CSV with the class as a column"
    )
