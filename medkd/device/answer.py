"""Answer: a release answers for images and writes masks, class probabilities and what to know."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from medkd.data.reader import stem, suffix, write_mask, write_masks
from medkd.device.former import refuse_to_replace
from medkd.device.inputs import Input, answer_name, find_inputs
from medkd.device.manifest import Manifest
from medkd.device.pipeline import pipelined
from medkd.device.predictor import Clock, Prediction, Predictor, load
from medkd.device.record import record
from medkd.errors import DataError, MedkdError
from medkd.extras import require
from medkd.progress import console, progress
from medkd.study import write_atomic
from medkd.types import NO_FINDING, SEPARATOR, Activation, Runtime, Task, Volume

Row = Mapping[str, Any]
TABLE, SUMMARY = "probabilities.csv", "summary.json"
MASKS = {".nii", ".nii.gz", ".png", ".tif", ".tiff", ".dcm"}  # of an answer that is one file


@dataclass(frozen=True)
class How:
    """How a release is asked.

    Attributes:
        runtime: what computes the network; the fastest here if None.
        strict: refuse images unlike those that the release was validated on.
        nifti: give NIfTI masks for DICOM images too, instead of DICOM SEG.
        probabilities: write those of all classes as well, beside each mask.
    """

    runtime: Runtime | None = None
    strict: bool = False
    nifti: bool = False
    probabilities: bool = False


@dataclass(frozen=True)
class Summary:
    """What became of each input.

    Attributes:
        written: the file of its answer.
        failed: why there is none.
        unlike: how an image differs from those the release was validated on, if it was flagged.
    """

    written: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answered:
    """One image and what was said of it."""

    volume: Volume
    prediction: Prediction


def answer(
    release: Path, sources: Path | Sequence[Path], target: Path, *, how: How | None = None
) -> Summary:
    """Answer for files and folders.

    Segmentation writes one mask an image and its record, ``<mask>.json``, beside it: to ``target``
    itself if that is the name of a mask and there is one image, else into the folder ``target``.
    DICOM images get a DICOM SEG. Classification writes one table, ``target`` if it ends in .csv or
    .json (which holds the records), else ``target/probabilities.csv``, and into a folder a DICOM SR
    and its record for DICOM images.
    One bad file does not stop the others; a folder gets ``summary.json``, which names them. A
    former answer is replaced, but no other file. Who interrupts finds what was answered by then.

    Raises:
        ReleaseError: the release cannot be used.
        DataError: an input does not exist or holds no image, or there is no writing to ``target``.
        MissingExtraError: the extra dicom is not installed, and answers would be DICOM.
    """
    how = how or How()
    predictor = load(release, runtime=how.runtime)
    given = [sources] if isinstance(sources, Path) else sources
    options = predictor.manifest.preprocess
    images = find_inputs(given, options.reading, options.modalities)
    run = _Run(predictor, images, target, how)
    if run.gives_dicom:
        require("highdicom", extra="dicom")  # before the first image is read, not after the last
    run.open()
    read, predict, write = (run.noting(stage) for stage in (run.read, run.predict, run.write))
    try:
        with closing(pipelined(images, read=read, work=predict, write=write)) as outcomes:
            for image, outcome in progress(outcomes, "predict", total=len(images)):
                run.show(image, outcome)
    finally:
        run.conclude()
    return run.summary


def answer_file(predictor: Predictor, sources: Sequence[Path], target: Path) -> Prediction:
    """Read an image, answer, and write the mask (or the probabilities) and what to know of it.

    ``sources`` are its file, or those of its modalities in the order of the channels.

    The stages of what is returned are those from file to file.
    """
    clock = Clock()
    modalities = tuple(sources) if len(sources) > 1 else ()
    image = Input(sources[0].name, sources[0], modalities=modalities)
    volume = image.read(predictor.manifest.preprocess.reading)
    clock.lap("read")
    prediction = predictor.answer(volume)
    clock.restart()
    if prediction.mask is not None:
        _write_mask(target, image, _Answered(volume, prediction), predictor.manifest)
    else:
        answered = _Answered(volume, prediction)
        write_probabilities(target, [_entry(target, image, answered, predictor.manifest)])
    clock.lap("write")
    laps = {"read": clock.laps["read"], **prediction.stages_ms, "write": clock.laps["write"]}
    return replace(prediction, stages_ms=laps)


class _Run:
    """One call of ``answer``."""

    def __init__(
        self, predictor: Predictor, images: Sequence[Input], target: Path, how: How
    ) -> None:
        self.summary = Summary()
        self._predictor, self._target, self._how = predictor, target, how
        self._is_map = predictor.manifest.task is Task.SEGMENTATION
        self._taken = {
            path.resolve()
            for each in images
            for path in (each.path, *each.files, *each.modalities, *each.further)
        }
        self._taken -= {each.path.resolve() for each in images if each.path.is_dir()}
        self._images = images
        self._rows: list[Row] = []

    def open(self) -> None:
        """Refuse an output that cannot be written, before the first image is read."""
        shared = [self._target / SUMMARY] * self._has_summary + [self._table] * (not self._is_map)
        for path in shared:
            if path.resolve() in self._taken:
                raise DataError(f"{path}: is one of the images; choose another output")
            refuse_to_replace([path], record=path)
        folder = self._place(self._images[0]).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise _unwritable(folder, error) from None
        self._taken |= {path.resolve() for path in shared}

    def read(self, image: Input) -> tuple[Volume, Path]:
        """Read one image; an answer that would overwrite another file is refused before."""
        if image.lacks:  # takes no place that another's answer may need
            raise DataError(f"{image.path}: {image.lacks}")
        place = self._place(image)
        if not (place == self._target or place.resolve().is_relative_to(self._target.resolve())):
            raise DataError(f"its name would put its answer outside of {self._target}; rename it")
        written = {file.resolve() for file in self._files(place)}
        if written & self._taken:
            raise DataError(f"its answer would overwrite {place}; choose another output")
        refuse_to_replace(self._files(place), record=_record_of(place))
        self._taken |= written
        return image.read(self._predictor.manifest.preprocess.reading), place

    def predict(self, image: Input, given: tuple[Volume, Path]) -> tuple[_Answered, Path]:
        """Answer for one image."""
        volume, place = given
        wanted = self._how.probabilities and self._is_map
        prediction = self._predictor.answer(
            volume, with_probabilities=wanted, strict=self._how.strict
        )
        return _Answered(volume, prediction), place

    def write(self, image: Input, given: tuple[_Answered, Path]) -> Prediction:
        """Write one answer and note it; rows of classes are kept for their table."""
        answered, place = given
        manifest = self._predictor.manifest
        if self._is_map:
            _write_mask(place, image, answered, manifest)
        else:
            self._rows.append(_entry(self._table, image, answered, manifest))
            if place != self._table:
                _write_record(place, image, answered, manifest)
                _write_dicom(place, image, answered, manifest)
        self.summary.written[image.name] = place if self._is_map else self._table
        finding = answered.prediction.finding
        if finding and finding.is_unlike:
            self.summary.unlike[image.name] = finding.verdict
        return answered.prediction

    def noting(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        """Return a stage that keeps why an image failed, for whoever interrupts the next one."""

        def noted(image: Input, *given: object) -> object:
            try:
                return stage(image, *given)
            except Exception as error:
                self.summary.failed[image.name] = _reason(image, error)
                raise

        return noted

    def show(self, image: Input, outcome: "Future[Prediction]") -> None:
        """Say what became of an image, if it failed or is unlike the validated data."""
        error = outcome.exception()
        if error:  # of a stage, which has noted it, or of what runs them
            reason = self.summary.failed.setdefault(image.name, _reason(image, error))
            console.print(f"[red]failed[/] {escape(f'{image.name}: {reason}')}")
            return
        finding = outcome.result().finding
        if finding and finding.is_unlike:
            console.print(f"[yellow]{escape(f'{image.name}: {finding.verdict}')}[/]")

    def conclude(self) -> None:
        """Write the table of classes, and what became of each image of a folder."""
        try:
            if self._rows:
                write_probabilities(self._table, self._rows)
            if self._has_summary:
                write_atomic(self._target / SUMMARY, json.dumps(self._told, indent=1))
        except OSError as error:
            raise _unwritable(self._target, error) from None

    @property
    def _has_summary(self) -> bool:
        return len(self._images) > 1 and (self._is_map or self._table != self._target)

    @property
    def _told(self) -> dict[str, Any]:
        """What became of each image; of those that an interruption left out, their names."""
        summary = self.summary
        reached = summary.written.keys() | summary.failed.keys()
        return {
            "answered": {name: place.name for name, place in summary.written.items()},
            "unlike": summary.unlike,
            "failed": summary.failed,
            "not_reached": [each.name for each in self._images if each.name not in reached],
        }

    @property
    def gives_dicom(self) -> bool:
        """Whether an answer will be DICOM."""
        return any(suffix(self._place(image)) == ".dcm" for image in self._images)

    @property
    def _table(self) -> Path:
        """The table of class probabilities."""
        return self._target if suffix(self._target) in {".csv", ".json"} else self._target / TABLE

    def _files(self, place: Path) -> list[Path]:
        """Return what is written for one image alone: a mask or an SR, its record, its maps."""
        if place == self._table:
            return []
        files = [place, _record_of(place)]
        if self._how.probabilities and self._is_map:
            files.append(_maps_of(place, dims=len(self._predictor.manifest.preprocess.window)))
        return files

    def _place(self, image: Input) -> Path:
        """Return where the answer for an image goes."""
        as_dicom = bool(image.files) and not self._how.nifti
        if self._is_map:
            is_file = suffix(self._target) in MASKS and not self._target.is_dir()
            if is_file and len(self._images) == 1:
                return self._target
            kind = ".dcm" if as_dicom else mask_suffix(self._predictor.manifest)
            return self._target / answer_name(image, kind)
        if as_dicom and self._table != self._target:
            return self._target / answer_name(image, ".dcm")
        return self._table


def row(manifest: Manifest, name: str, prediction: Prediction) -> Row:
    """Return one row of the table of class probabilities.

    What was found is written as a datalist's label: ``effusion|nodule``, or ``none``.
    """
    assert prediction.probabilities is not None
    values = [float(p) for p in prediction.probabilities]
    said: dict[str, Any] = {"image": name, **dict(zip(manifest.classes, values, strict=True))}
    if manifest.has_findings:
        said["prediction"] = SEPARATOR.join(prediction.confidence) or NO_FINDING[0]
    else:
        ((likeliest, confidence),) = prediction.confidence.items()
        said |= {"prediction": likeliest, "confidence": confidence}
    if manifest.conformal:
        said["conformal_set"] = SEPARATOR.join(prediction.possible)
    if prediction.finding:
        said["guard"] = prediction.finding.verdict
    return said


def _entry(table: Path, image: Input, answered: _Answered, manifest: Manifest) -> Row:
    """Return what a table says of an image: in JSON its record, in CSV a row."""
    if suffix(table) == ".json":
        return record(image.name, answered.volume, answered.prediction, manifest)
    return row(manifest, image.name, answered.prediction)


def mask_suffix(manifest: Manifest) -> str:
    """Return the format of a release's masks: NIfTI in 3D, PNG in 2D.

    Structures that may overlap are channels of a 4D NIfTI, in 2D pages of a TIFF.
    """
    if len(manifest.preprocess.window) == 3:
        return ".nii.gz"
    return ".tif" if manifest.activation is Activation.SIGMOID else ".png"


def write_probabilities(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of class probabilities as CSV or JSON, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix(path) == ".json":
        write_atomic(path, json.dumps(rows, indent=1))
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, text.getvalue())


def _write_mask(place: Path, image: Input, answered: _Answered, manifest: Manifest) -> None:
    volume, prediction = answered.volume, answered.prediction
    assert prediction.mask is not None
    _write_record(place, image, answered, manifest)
    try:
        if suffix(place) == ".dcm":
            _write_dicom(place, image, answered, manifest)
        else:
            independent = manifest.activation is Activation.SIGMOID
            write = write_masks if independent else write_mask
            write(place, prediction.mask, affine=volume.affine)
    except Exception:
        if not place.exists():
            _record_of(place).unlink(missing_ok=True)
        raise
    if prediction.probabilities is not None:
        _write_maps(place, volume, prediction.probabilities)


def _write_record(place: Path, image: Input, answered: _Answered, manifest: Manifest) -> None:
    """Write what to know of an answer, before it: an answer without it is not to be replaced."""
    said = record(image.name, answered.volume, answered.prediction, manifest)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(_record_of(place), json.dumps(said, indent=1), durable=False)


def _record_of(place: Path) -> Path:
    """Return where what to know of an answer is written: beside it."""
    return place.with_name(stem(place) + ".json")


def _write_maps(place: Path, volume: Volume, probabilities: np.ndarray) -> None:
    """Write the probabilities of all classes, channels last: NIfTI in 3D, NumPy's format in 2D."""
    maps, path = np.moveaxis(probabilities, 0, -1), _maps_of(place, dims=volume.dims)
    if volume.dims == 3:
        from medkd.data import nifti

        nifti.write(path, maps, affine=volume.affine)
    else:
        np.save(path, maps, allow_pickle=False)


def _maps_of(place: Path, *, dims: int) -> Path:
    """Return where the probabilities of an answer are written: beside it."""
    return place.with_name(f"{stem(place)}.probabilities{'.nii.gz' if dims == 3 else '.npy'}")


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: cannot be written ({error.strerror}); choose another output")


def _write_dicom(place: Path, image: Input, answered: _Answered, manifest: Manifest) -> None:
    from medkd.device.dicom.answer import as_dicom
    from medkd.device.dicom.source import Source, save

    if not image.files:
        raise DataError(f"{place.name}: a DICOM answer refers to DICOM images; choose NIfTI or PNG")
    reading = manifest.preprocess.reading
    source = Source.read(image.files, answered.volume, reading, further=image.further)
    save(as_dicom(answered.prediction, answered.volume, source, manifest), place)


def _reason(image: Input, error: BaseException) -> str:
    """Say in one line why an image has no answer."""
    if isinstance(error, MedkdError):
        return str(error).removeprefix(f"{image.path}: ")
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
