"""Layouts: how data sets lie on disk, and the table of cases that each of them holds.

A layout is recognised by what lies in the folder, never by its name. Each recogniser returns None
for a folder that is none of its own, and refuses one that is but cannot be used.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.data.reader import NIFTI, SUFFIXES, stem, suffix
from medkd.data.start import dicom_tree, regions
from medkd.data.start.layout import Layout, Row
from medkd.errors import DataError
from medkd.types import Task

IMAGES = ("images", "image", "imgs", "img", "imagestr", "scans", "volumes", "data", "x")
MASKS = ("labels", "label", "masks", "mask", "labelstr", "segmentations", "gt", "y")
MASK_SUFFIX = re.compile(
    r"(?i)[_\-. ](?:mask|masks|seg|segmentation|label|labels|gt|dseg|annotation)$"
)
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
    for layout in (_medmnist, _decathlon, _nnunet, _bids, dicom_tree.recognise, _pairs, _classes):
        found = layout(folder)
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
    rows = []
    for entry in training:
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise DataError(f"{folder / 'dataset.json'}: an entry of `training` names no image")
        image, label = folder / entry["image"], entry.get("label")
        rows.append(Row(stem(image), image, folder / label if label else None))
    return Layout(
        name="Decathlon",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        **_structures(told),
        modality=", ".join(map(str, _values(told.get("modality")))),
        modalities=_modalities(told.get("modality")),
        licence=str(told.get("licence") or told.get("license") or ""),
        title=str(told.get("name") or folder.name),
        source=folder / "dataset.json",
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
    }


def _nnunet(folder: Path) -> Layout | None:
    told = _described(folder)
    channels, ending = told.get("channel_names"), told.get("file_ending", ".nii.gz")
    if not isinstance(channels, dict) or not (folder / "imagesTr").is_dir():
        return None
    rows = [
        Row(case, image, label if label.exists() else None, further=further)
        for image in sorted((folder / "imagesTr").glob(f"*_0000{ending}"))
        for case in [image.name.removesuffix(f"_0000{ending}")]
        for label in [folder / "labelsTr" / f"{case}{ending}"]
        for further in [_channels(image.parent, case, ending, len(channels))]
    ]
    return Layout(
        name="nnU-Net raw",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        **_structures(told),
        modality=", ".join(map(str, channels.values())),
        licence=str(told.get("licence") or told.get("license") or ""),
        title=str(told.get("name") or folder.name),
        modalities=_modalities(channels),
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


def _modalities(named: object) -> tuple[str, ...]:
    """Return a name for each of several channels, by number: ``{"0": "T1", "1": "FLAIR"}``."""
    if not isinstance(named, dict) or len(named) < 2:
        return ()
    order = sorted(named, key=lambda key: (len(str(key)), str(key)))
    names = [regions.named(str(named[key])) for key in order]
    taken = {"case", "image", "label", "patient", "split"}
    return tuple(
        f"{name}_{number}" if names.count(name) > 1 or name in taken else name
        for number, name in enumerate(names)
    )


def _bids(folder: Path) -> Layout | None:
    """Match each ``sub-…_dseg`` or ``sub-…_mask`` with the image of its subject and session."""
    files = [path for path in sorted(folder.rglob("sub-*")) if suffix(path) in NIFTI]
    labels = _by_entities(path for path in files if re.search(r"_(?:dseg|mask)$", stem(path)))
    if not labels:
        return None
    images = _by_entities(p for p in files if not re.search(r"_(?:dseg|mask|probseg)$", stem(p)))
    rows = []
    for entities, several in labels.items():
        name, (subject, *session) = "_".join(entities), entities
        label = _only(folder, name, "labels", _standing_for(several))
        if entities not in images:
            raise DataError(
                f"{label}: no image of {name} beside it or above; put the images under the same "
                f"folder"
            )
        image = _only(folder, name, "images", _nearest(label, images[entities]))
        attributes = {"session": session[0]} if session else {}
        rows.append(Row(name, image, label, patient=subject, attributes=attributes))
    return Layout(
        name="BIDS derivative",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        labels=_dseg_names(folder),
        modality=", ".join(sorted({stem(row.image).rpartition("_")[2] for row in rows})),
        title=folder.name,
    )


def _by_entities(paths: Iterable[Path]) -> dict[tuple[str, ...], list[Path]]:
    found: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in paths:
        found[_entities(path)].append(path)
    return found


def _standing_for(labels: Sequence[Path]) -> Sequence[Path]:
    """Return segmentations rather than brain masks, and those that no template has resampled."""
    labels = [path for path in labels if stem(path).endswith("_dseg")] or labels
    return [path for path in labels if not _space(path)] or labels


def _nearest(label: Path, images: Sequence[Path]) -> Sequence[Path]:
    """Return the images in the label's folder, else of its kind (``anat``); and of its space."""
    for alike in (lambda path: path.parent, lambda path: path.parent.name, _space):
        images = [path for path in images if alike(path) == alike(label)] or images
    return images


def _space(path: Path) -> str:
    return next((part for part in stem(path).split("_") if part.startswith("space-")), "")


def _only(folder: Path, case: str, what: str, found: Sequence[Path]) -> Path:
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(
            f"{folder}: {case} has {len(found)} {what}: {listed}; keep one of each case there, or "
            f"write a CSV with the columns case, image (or one a modality), label and patient"
        )
    return found[0]


def _entities(path: Path) -> tuple[str, ...]:
    """Return subject and, if there are several, session: ``("sub-01", "ses-2")``."""
    return tuple(part for part in stem(path).split("_") if re.match(r"(?:sub|ses|run)-", part))


def _dseg_names(folder: Path) -> dict[str, int]:
    names = {}
    for path in [*sorted(folder.rglob("*dseg.tsv"))][:1]:
        header, *lines = [line.split("\t") for line in path.read_text().splitlines() if line]
        for line in lines:
            told = dict(zip(header, line, strict=False))
            if told.get("index", "").isdigit() and int(told["index"]) > 0 and told.get("name"):
                names[regions.named(told["name"])] = int(told["index"])
    return names


def _files(folder: Path) -> list[Path]:
    """Return the image files of a folder: what medkd reads and is not hidden."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and suffix(path) in SUFFIXES and not path.name.startswith(".")
    ]


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir()]


def _pairs(folder: Path) -> Layout | None:
    """Match images with masks of the same name, in a folder beside theirs or among them."""
    if not folder.is_dir():
        return None
    rows: list[Row] = []
    for part, inside in [("", folder), *_parts(folder)]:
        masks = {_core(path, MASK_SUFFIX): path for path in _of_kind(inside, MASKS)}
        images = _of_kind(inside, IMAGES)
        if not masks or not images:
            flat = _files(inside)
            marked = [path for path in flat if MASK_SUFFIX.search(stem(path))]
            masks = {_core(path, MASK_SUFFIX): path for path in marked}
            images = [path for path in flat if path not in marked]
        for image in images if masks else ():
            label = masks.get(_core(image, IMAGE_SUFFIX)) or masks.get(stem(image))
            rows.append(Row(_core(image, IMAGE_SUFFIX), image, label, part=part))
    if not any(row.label for row in rows):
        return None
    return Layout("images and masks", Task.SEGMENTATION, tuple(_distinct(rows)), title=folder.name)


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
    of_class = [(part, inside, _files(inside)) for part, inside in found]
    names = sorted({inside.name for _, inside, files in of_class if files})
    if len(names) < 2:
        return None
    labels = {regions.named(name): number for number, name in enumerate(names)}
    rows = [
        Row(stem(image), image, labels[regions.named(inside.name)], part=part)
        for part, inside, files in of_class
        for image in files
    ]
    return Layout(
        "class folders",
        Task.CLASSIFICATION,
        tuple(_distinct(rows)),
        labels=labels,
        title=folder.name,
    )
