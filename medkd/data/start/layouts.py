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

from medkd.data.modalities import modality_of
from medkd.data.nifti import pair_of
from medkd.data.reader import NIFTI, PICTURES, SUFFIXES, read_grid, stem, suffix
from medkd.data.start import dicom_tree, regions
from medkd.data.start.layout import Layout, Row
from medkd.data.start.naming import named, names_of
from medkd.data.turned import turned_onto
from medkd.errors import DataError
from medkd.types import GRID_TOLERANCE_MM, Task, grid_distance_mm

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
    modalities = _modalities(told.get("modality"))
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
        modalities=() if is_colour else _modalities(channels),
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


def _modalities(told: object) -> tuple[str, ...]:
    """Return a name for each of several channels, by number: ``{"0": "T1", "1": "FLAIR"}``."""
    if not isinstance(told, dict) or len(told) < 2:
        return ()
    order = sorted(told, key=lambda key: (len(str(key)), str(key)))
    names = [named(str(told[key])) for key in order]
    taken = {"case", "image", "label", "patient", "split"}
    return tuple(
        f"{name}_{number}" if names.count(name) > 1 or name in taken else name
        for number, name in enumerate(names)
    )


def _bids(folder: Path) -> Layout | None:
    """Match each ``sub-…_dseg`` or ``sub-…_mask`` with the image of its subject and session."""
    files = [path for path in sorted(folder.rglob("sub-*")) if suffix(path) in NIFTI]
    files = [path for path in files if _is_whole(path)]
    labels = _by_entities(path for path in files if re.search(r"_(?:dseg|mask)$", stem(path)))
    if not labels:
        return None
    images = _by_entities(p for p in files if not re.search(r"_(?:dseg|mask|probseg)$", stem(p)))
    label_of, images_of = {}, {}
    for entities, several in labels.items():
        name = "_".join(entities)
        label_of[entities] = label = _only(folder, name, "labels", _standing_for(several))
        if entities not in images:
            raise DataError(
                f"{label}: no image of {name} beside it or above; put the images under the same "
                f"folder"
            )
        images_of[entities] = _nearest(label, images[entities])
    kinds, remarks = _kinds(label_of, images_of)
    rows = []
    for entities, found in images_of.items():
        name, (subject, *session) = "_".join(entities), entities
        chosen = [[p for p in found if _kind(p) == kind] for kind in kinds] if kinds else [found]
        first, *further = [_only(folder, name, "images", each) for each in chosen]
        attributes = {"session": session[0]} if session else {}
        rows.append(Row(name, first, label_of[entities], subject, "", attributes, tuple(further)))
    structures, of_names = _dseg_names(folder)
    return Layout(
        name="BIDS derivative",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        labels=structures,
        modality=", ".join(kinds or sorted({_kind(row.image) for row in rows})),
        modalities=_modalities(dict(enumerate(kinds))),
        title=folder.name,
        remarks=(*of_names, *remarks),
    )


def _kind(path: Path) -> str:
    """Return what a BIDS file shows: ``T1w``."""
    return stem(path).rpartition("_")[2]


def _kinds(
    label_of: Mapping[tuple[str, ...], Path], images_of: Mapping[tuple[str, ...], Sequence[Path]]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the kinds of image to learn from; none where each case has one image, of any kind.

    Of several those are taken that all cases have, on the voxels of the label.
    """
    if all(len(found) == 1 for found in images_of.values()):
        return [], ()
    everywhere = set.intersection(*({_kind(path) for path in of} for of in images_of.values()))
    fitting = [
        kind
        for kind in sorted(everywhere)
        if all(
            _is_on(label_of[entities], path)
            for entities, found in images_of.items()
            for path in found
            if _kind(path) == kind
        )
    ]
    others = sorted({_kind(p) for of in images_of.values() for p in of} - {*fitting})
    if not fitting or not others:
        return fitting, ()
    return fitting, (
        f"images {', '.join(others)} are left out: not of every case, or not on the voxels of its "
        f"label",
    )


def _is_on(label: Path, image: Path) -> bool:
    """Whether an image lies on the voxels of a label; what cannot be read is the check's to say."""
    try:
        other = read_grid(image)
        grid = turned_onto(read_grid(label), other)
    except DataError:
        return True
    is_alike = grid.shape == other.shape
    return is_alike and grid_distance_mm(grid, other.affine) <= GRID_TOLERANCE_MM


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


def _dseg_names(folder: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return values by name of the first ``dseg.tsv``, and what is to be said of the names."""
    told: dict[int, str] = {}
    for path in [*sorted(folder.rglob("*dseg.tsv"))][:1]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path}: no text in UTF-8; save it as that") from None
        header, *lines = [line.split("\t") for line in text.splitlines() if line] or [[]]
        for line in (dict(zip(header, each, strict=False)) for each in lines):
            index, name = line.get("index", ""), line.get("name", "")
            if index.isascii() and index.isdigit() and int(index) > 0 and name:
                told[int(index)] = name
    names, remarks = names_of(list(told.values()))
    return dict(zip(names, told, strict=True)), remarks


def _files(folder: Path) -> list[Path]:
    """Return the image files of a folder: what medkd reads and is not hidden."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and suffix(path) in SUFFIXES and not path.name.startswith(".")
        if _is_whole(path)
    ]


def _is_whole(path: Path) -> bool:
    """Whether a file stands for an image: of a NIfTI pair the header does, for both."""
    pair = pair_of(path)
    return not pair or path == pair[0] or not pair[0].exists()


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
