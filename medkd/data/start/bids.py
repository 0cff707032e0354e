"""BIDS: the subjects of a derivative, each label with the image that it was drawn on."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medkd.data.reader import NIFTI, read_grid, stem, suffix
from medkd.data.start.layout import Layout, Row, is_whole
from medkd.data.start.naming import modality_names, names_of
from medkd.data.tree import files_below
from medkd.data.turned import lies_on, turned_onto
from medkd.errors import DataError
from medkd.types import Task


def recognise(folder: Path) -> Layout | None:
    """Match each ``sub-…_dseg`` or ``sub-…_mask`` with the image of its subject and session."""
    everything = files_below(folder)
    named = [path for path in everything if path.name.startswith("sub-")]
    files = [path for path in named if suffix(path) in NIFTI and is_whole(path)]
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
    structures, of_names = _dseg_names(everything)
    return Layout(
        name="BIDS derivative",
        task=Task.SEGMENTATION,
        rows=tuple(rows),
        labels=structures,
        modality=", ".join(kinds or sorted({_kind(row.image) for row in rows})),
        modalities=modality_names(dict(enumerate(kinds))),
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
        grid = read_grid(image)
        return lies_on(turned_onto(read_grid(label), grid), grid)
    except DataError:
        return True


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


def _dseg_names(files: Iterable[Path]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return values by name of the first ``dseg.tsv``, and what is to be said of the names."""
    told: dict[int, str] = {}
    for path in [file for file in files if file.name.endswith("dseg.tsv")][:1]:
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
