"""Answer: a release answers for a file or a folder and writes masks or class probabilities."""

import csv
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from rich.markup import escape

from medkd.data.dicom import is_dicom
from medkd.data.reader import SUFFIXES, read_image, stem, suffix, write_mask
from medkd.device.guard import Finding
from medkd.device.manifest import Manifest
from medkd.device.predictor import Clock, Prediction, Predictor, load
from medkd.errors import DataError, MedkdError
from medkd.options import ReadingOptions
from medkd.progress import console, progress
from medkd.study import write_atomic
from medkd.types import Runtime, Task, Volume

Row = dict[str, str | float]


@dataclass(frozen=True)
class Summary:
    """What became of each input.

    Attributes:
        written: the file of its answer.
        failed: why there is none.
        unlike: how an image differs from those the release was validated on, if it was flagged.
    """

    written: dict[str, Path]
    failed: dict[str, str]
    unlike: dict[str, str]


def answer(release: Path, source: Path, target: Path, *, runtime: Runtime | None = None) -> Summary:
    """Answer for a file or a folder.

    Segmentation writes one mask an image: to ``target`` itself, or into it if it is a folder or
    ``source`` is one. Classification writes one table: ``target`` if it ends in .csv or .json,
    else ``target/probabilities.csv``. One bad file does not stop the others.

    Raises:
        ReleaseError: the release cannot be used.
        DataError: the input does not exist or holds no image.
    """
    predictor = load(release, runtime=runtime)
    if predictor.manifest.task is Task.CLASSIFICATION:
        return _classify(predictor, source, target)
    inputs = _inputs(source)
    taken = {path.resolve() for path in inputs}
    written: dict[str, Path] = {}
    failed: dict[str, str] = {}
    unlike: dict[str, str] = {}
    for path in progress(inputs, "predict", total=len(inputs)):
        try:
            output = _mask_path(path, source, target, predictor.manifest)
            if output.resolve() in taken:
                raise DataError(f"{path}: its mask would overwrite {output}; choose another output")
            taken.add(output.resolve())
            finding = answer_file(predictor, path, output).finding
            written[path.name] = output
            if finding and finding.is_unlike:
                unlike[path.name] = _unusual(path.name, finding)
        except MedkdError as error:
            failed[path.name] = _reason(path, error)
    return Summary(written=written, failed=failed, unlike=unlike)


def answer_file(predictor: Predictor, source: Path, target: Path) -> Prediction:
    """Read an image, answer, and write the mask (or the probabilities).

    The stages of what is returned are those from file to file.
    """
    clock = Clock()
    volume = read_image(source, predictor.manifest.preprocess.reading)
    clock.lap("read")
    prediction = predictor.predict(volume)
    clock.restart()
    if prediction.mask is not None:
        write_mask(target, prediction.mask, affine=volume.affine)
    else:
        write_probabilities(target, [row(predictor, source.name, prediction)])
    clock.lap("write")
    laps = {"read": clock.laps["read"], **prediction.stages_ms, "write": clock.laps["write"]}
    return replace(prediction, stages_ms=laps)


def row(predictor: Predictor, name: str, prediction: Prediction) -> Row:
    """Return one row of the table of class probabilities."""
    assert prediction.probabilities is not None
    values = [float(p) for p in prediction.probabilities]
    classes = predictor.manifest.classes
    likeliest = classes[int(np.argmax(values))]
    said: Row = {"image": name, **dict(zip(classes, values, strict=True)), "prediction": likeliest}
    if prediction.finding:
        said["unlike"] = _reasons(prediction.finding) if prediction.finding.is_unlike else ""
    return said


def mask_name(path: Path, manifest: Manifest) -> str:
    """Return the name of an image's mask: NIfTI in 3D, PNG in 2D."""
    return stem(path) + (".nii.gz" if len(manifest.preprocess.window) == 3 else ".png")


def write_probabilities(path: Path, rows: list[Row]) -> None:
    """Write rows of class probabilities as CSV or JSON, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_atomic(path, json.dumps(rows, indent=1))
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, text.getvalue())


def _classify(predictor: Predictor, source: Path, target: Path) -> Summary:
    table = target if target.suffix in {".csv", ".json"} else target / "probabilities.csv"
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name, volume in _volumes(source, predictor.manifest.preprocess.reading, failed):
        try:
            prediction = predictor.predict(volume)
            rows.append(row(predictor, name, prediction))
            if prediction.finding and prediction.finding.is_unlike:
                _unusual(name, prediction.finding)
        except MedkdError as error:
            failed[name] = _reason(Path(name), error)
    if rows:
        write_probabilities(table, rows)
    unlike = {str(row["image"]): str(row["unlike"]) for row in rows if row.get("unlike")}
    return Summary({str(row["image"]): table for row in rows}, failed, unlike)


def _volumes(
    source: Path, options: ReadingOptions, failed: dict[str, str]
) -> Iterator[tuple[str, Volume]]:
    if source.suffix == ".npz":
        yield from _npz_images(source)
        return
    inputs = _inputs(source)
    for path in progress(inputs, "predict", total=len(inputs)):
        try:
            yield path.name, read_image(path, options)
        except MedkdError as error:
            failed[path.name] = _reason(path, error)


def _npz_images(source: Path) -> Iterator[tuple[str, Volume]]:
    """Yield every image of the arrays called ``*images`` in a MedMNIST file."""
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    try:
        with source.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            stacks = {name: arrays[name] for name in arrays if name.endswith("images")}
    except (OSError, ValueError, AttributeError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{source}: truncated or not an npz file ({error})") from None
    if not stacks:
        raise DataError(f"{source}: holds no array whose name ends in 'images'")
    for name, stack in stacks.items():
        for index in progress(range(len(stack)), f"predict {name}", total=len(stack)):
            image = stack[index]
            array = np.moveaxis(image, -1, 0) if image.shape[-1] == 3 else image[None]
            yield f"{name}/{index:05d}", Volume(array=array, affine=np.eye(array.ndim))


def _inputs(source: Path) -> list[Path]:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_file() or is_dicom(source):
        return [source]
    known = {*SUFFIXES} - {".img"}  # the .hdr stands for its pair
    found = sorted(p for p in source.iterdir() if is_dicom(p) or suffix(p) in known)
    if not found:
        raise DataError(f"{source}: holds no image (NIfTI, PNG, JPEG, TIFF, DICOM)")
    return found


def _mask_path(path: Path, source: Path, target: Path, manifest: Manifest) -> Path:
    many = source.is_dir() and not is_dicom(source)
    if many or target.is_dir() or not suffix(target):
        return target / mask_name(path, manifest)
    return target


def _unusual(name: str, finding: Finding) -> str:
    reasons = _reasons(finding)
    console.print(f"[yellow]unlike what it was validated on[/] {escape(f'{name}: {reasons}')}")
    return reasons


def _reasons(finding: Finding) -> str:
    far = f"distance {finding.distance:.1f}, at most {finding.limit:.1f} is usual"
    return "; ".join((far, *finding.reasons[:3]))


def _reason(path: Path, error: MedkdError) -> str:
    reason = str(error).removeprefix(f"{path}: ")
    console.print(f"[red]failed[/] {escape(f'{path.name}: {reason}')}")
    return reason
