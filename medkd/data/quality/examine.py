"""Examine: read one case, say what is wrong with it and keep what the cohort is judged by."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.orientations import aff2axcodes
from pydantic import BaseModel, ConfigDict

from medkd.config import Config
from medkd.data.findings import Finding, Level
from medkd.data.memory import PIECE, pieces
from medkd.data.modalities import read_modalities
from medkd.data.nifti import pair_of
from medkd.data.quality.perceptual import perceptual_hash
from medkd.data.quality.telling import telling
from medkd.data.reading import label_of, label_on_image, options_of
from medkd.data.shear import SKEWED_DEGREES, skew_degrees
from medkd.data.turned import canonical
from medkd.errors import DataError, TooLargeError
from medkd.options import ReadingOptions
from medkd.types import GRID_TOLERANCE_MM, Case, Volume, grid_distance_mm

Overlap = Literal["refuse", "last", "keep"]
SHOWN = 8  # undeclared values of a label map; an image in its place has hundreds
SATURATED = 0.05  # share of voxels at the largest value, background left out
NEARLY_EMPTY = 0.001  # share of voxels that differ from the most frequent value
SAMPLED = 1_000_000  # voxels that percentiles are taken of


class Intensities(BaseModel):
    """How values are spread."""

    model_config = ConfigDict(frozen=True)
    least: float
    low: float  # percentile 0.5
    median: float
    high: float  # percentile 99.5
    most: float
    mean: float
    std: float


class Examined(BaseModel):
    """What is known of a case once it has been read.

    Attributes:
        findings: what is wrong with it.
        image: SHA-256 of the image's files.
        files: SHA-256 of image and label together.
        pixels: SHA-256 of the values of the image, however they are stored, along canonical axes.
        answer: SHA-256 of the values of its label map, or its class.
        perceptual: 32 bytes in hexadecimal that similar images share; None where it has no say.
        remedies: what was mended while it was read.
        telling: what its files say of its patient, by the names of attributes.
        stored: the type of its values.
        channels: of the image.
        shape: spatial shape.
        spacing_mm: of the image's own axes.
        orientation: axis codes, e.g. RAS; empty in 2D.
        intensities: how its values are spread, all channels together; None where it could not be
            read.
        by_channel: the same of each channel, where they are judged one by one.
        voxels: of each value of its label map; of structures that overlap, of each by its value.
        covers: the structures that its label map covers, by the datalist; None for all.
    """

    model_config = ConfigDict(frozen=True)
    findings: tuple[Finding, ...] = ()
    image: str = ""
    files: str = ""
    pixels: str = ""
    answer: str = ""
    perceptual: str | None = None
    remedies: tuple[str, ...] = ()
    telling: tuple[str, ...] = ()
    stored: str = ""
    channels: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    intensities: Intensities | None = None
    by_channel: tuple[Intensities, ...] = ()
    voxels: dict[int, int] = {}
    covers: tuple[str, ...] | None = None

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Shape and spacing from left to right, back to front, foot to head; in 2D as stored."""
        pairs = ("LR", "PA", "IS") if self.orientation else ()
        order = [max(map(self.orientation.find, pair)) for pair in pairs] or range(len(self.shape))
        return tuple(self.shape[i] for i in order), tuple(self.spacing_mm[i] for i in order)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel; in 2D the area of a pixel in cm², one millimetre each way."""
        return float(np.prod(self.spacing_mm)) / (1000 if len(self.shape) == 3 else 100)


def examine(
    case: Case,
    config: Config | None = None,
    *,
    labels: Mapping[str, int] | None = None,
    overlap: Overlap = "refuse",
    at_once: int = 1,
) -> Examined:
    """Read a case and judge it by itself; what cannot be read is a finding, never an exception.

    Without a config, which says what to expect, it is read and not judged; ``labels`` are then the
    structures of a SEG or RTSTRUCT, and the values they get; ``overlap`` is as of the options, or
    keeps the channels of a label map, each a structure of the values 1, 2, ….

    Raises:
        TooLargeError: ``at_once`` cases are read, and this one takes more than its share of the
            memory that the config allows.
    """
    config = _sharing(config, at_once) if config and at_once > 1 else config
    findings: list[Finding] = []
    known: dict[str, Any] = {}
    file = case.image
    try:
        options = options_of(case, config)
        if overlap == "last":
            options = options.model_copy(update={"overlap": overlap})
        for file in case.images:
            _there(file)
        names = config.preprocess.modalities if config else ()
        image = read_modalities(case.images, options, case=case.id, names=names)
        file = case.image
        findings += _of_reading(case, image)
        findings += _of_image(case, image, config) if config else ()
        known = _known(image, names) | {"telling": _telling(case)} | {"answer": str(case.label)}
        if isinstance(case.label, Path):
            file = case.label
            _there(file)
            label = (
                label_of(case, config)
                if config
                else label_on_image(case, labels or {}, options, overlapping=overlap == "keep")
            )
            known["voxels"] = voxels = _counted(label.array, _apart(label.array, config))
            known["answer"] = _digest_of(label.array)
            findings += _of_grid(case, image, label)
            findings += _of_numbers(case, set(voxels), config) if config else ()
        known["image"], known["files"] = _digests(case, options)
    except DataError as error:
        if at_once > 1 and isinstance(error, TooLargeError):
            raise
        findings.append(_refused(case, file, error))
    except OSError as error:  # of a folder that may not be listed, or a disk that fails
        message = f"cannot be read ({error.strerror})"
        remedy = "see to its permissions and its disk, or remove the case"
        findings.append(Finding(case.id, Level.ERROR, message, remedy, file))
    return Examined(findings=tuple(findings), **known)


def _sharing(config: Config, at_once: int) -> Config:
    """Return a config that allows the share of one case."""
    preprocess, reading = config.preprocess, config.preprocess.reading
    share = reading.model_copy(update={"memory_gib": reading.memory_gib / at_once})
    preprocess = preprocess.model_copy(update={"reading": share})
    return config.model_copy(update={"preprocess": preprocess})


def _refused(case: Case, file: Path, error: DataError) -> Finding:
    """Take a reader's error apart, which may begin with any file of the case, and name others."""
    said = str(error)
    within = [path for folder in {file, *case.images} for path in folder.glob("*")]  # of a series
    named = [path.name for path in within if path.name in said]
    files = [file, *case.images, *within]
    return Finding.of(said, case=case.id, files=files, private=[*error.private, *named])


def _telling(case: Case) -> tuple[str, ...]:
    label = [case.label] if isinstance(case.label, Path) else []
    files = [*case.images, *label]
    return tuple(dict.fromkeys(name for path in files for name in telling(path)))


def _there(path: Path) -> Path:
    """Return the path of a file that is there."""
    if not path.exists():
        raise DataError(f"{path}: no such file; correct its path in the datalist, or data.root")
    return path


def _of_reading(case: Case, image: Volume) -> Iterator[Finding]:
    """Name what was mended, and axes off right angles that were not."""
    for remedy in image.remedies:
        told = f"mended while it was read: {remedy}"
        yield Finding(
            case.id, Level.WARNING, told, "look whether it is right: it is an estimate", case.image
        )
    skew = skew_degrees(image.affine)
    if skew > SKEWED_DEGREES:
        yield Finding(
            case.id,
            Level.WARNING,
            f"its axes miss right angles by {skew:.1f} degrees, and distances are taken along them",
            "set preprocess.reading.shear_correct: true to resample it",
            case.image,
        )


def _known(image: Volume, names: Sequence[str]) -> dict[str, Any]:
    array, is_finite = image.array, not _not_finite(image.array)
    channels, upright = _channels(image, names), canonical(image).array
    return {
        "pixels": _digest_of(upright),
        "perceptual": _perceptual(upright),
        "remedies": image.remedies,
        "stored": array.dtype.name,
        "channels": len(array),
        "shape": image.shape,
        "spacing_mm": image.spacing_mm,
        "orientation": "".join(map(str, aff2axcodes(image.affine))) if image.dims == 3 else "",
        "intensities": _intensities(array) if is_finite else None,
        "by_channel": tuple(_intensities(each) for each in channels.values())
        if is_finite and len(channels) > 1
        else (),
    }


def _not_finite(array: np.ndarray) -> int:
    """Count voxels that are NaN or infinite."""
    return sum(int((~np.isfinite(part)).sum()) for part in pieces(array))


def _sample(array: np.ndarray) -> np.ndarray:
    """Return about ``SAMPLED`` of its values, evenly spread."""
    return array.flat[:: max(1, array.size // SAMPLED)]


def channel_names(count: int, names: Sequence[str]) -> list[str]:
    """Return what to call the channels of an image: its modalities, or numbers."""
    return list(names) if len(names) == count else [f"channel {i + 1}" for i in range(count)]


def _channels(image: Volume, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what is judged by itself: each channel by its name, but all colours of a picture."""
    count = len(image.array)
    if count == 1 or (image.dims == 2 and not names):
        return {"": image.array}
    return dict(zip(channel_names(count, names), image.array, strict=True))


def _digest_of(array: np.ndarray) -> str:
    """Identity of values on their grid, whatever type they are stored as."""
    sha = hashlib.sha256(repr(array.shape).encode())
    for part in pieces(array):
        values = np.ascontiguousarray(part, dtype=np.float32) + np.float32(0)  # -0 becomes 0
        sha.update(values.data)
    return sha.hexdigest()


def _perceptual(array: np.ndarray) -> str | None:
    hashed = None if _not_finite(array) else perceptual_hash(array)
    return hashed.hex() if hashed else None


def _intensities(array: np.ndarray) -> Intensities:
    sample = _sample(array).astype(np.float64)
    low, median, high = (float(v) for v in np.percentile(sample, [0.5, 50, 99.5]))
    return Intensities(
        least=float(array.min()),
        low=low,
        median=median,
        high=high,
        most=float(array.max()),
        mean=float(sample.mean()),
        std=float(sample.std()),
    )


def _apart(label: np.ndarray, config: Config | None) -> Sequence[int]:
    """Return the values of the structures that have a channel each; none in a label map."""
    if config:
        return config.label_values if config.data.overlapping else ()
    return range(1, len(label) + 1) if len(label) > 1 else ()


def _counted(label: np.ndarray, apart: Sequence[int]) -> dict[int, int]:
    if apart:
        return _counted_apart(label, apart)
    counts: Counter[int] = Counter()
    for part in pieces(label):
        values, found = np.unique(part, return_counts=True)
        counts.update(dict(zip(values.tolist(), found.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def _counted_apart(label: np.ndarray, values: Sequence[int]) -> dict[int, int]:
    """Count the voxels of structures that may overlap, by their values; 0 is of none of them."""
    of_none = int(np.count_nonzero(~label.any(axis=0)))
    counts = {0: of_none} | {
        value: int(np.count_nonzero(channel == 1))
        for value, channel in zip(values, label, strict=True)
    }
    return {value: count for value, count in counts.items() if count}


def _of_image(case: Case, image: Volume, config: Config) -> Iterator[Finding]:
    def found(level: Level, message: str, remedy: str, file: Path = case.image) -> Finding:
        return Finding(case.id, level, message, remedy, file)

    array, wanted, names = image.array, config.preprocess.channels, config.preprocess.modalities
    if image.dims != config.dims:
        axes = f"{image.dims} spatial axes, preprocess.window has {config.dims}"
        yield found(Level.ERROR, axes, "correct the window, or remove the case")
    channels, told = _channels(image, names), defaultdict(list)
    for name, channel in channels.items():
        for said in _of_values(channel):
            told[said].append(name)
    files = dict(zip(names, case.images, strict=False))  # one may hold all
    for (level, message, remedy), of in told.items():
        where = "" if len(of) == len(channels) else f"{', '.join(of)}: "
        yield found(level, where + message, remedy, files.get(of[0], case.image))
    fitting = {wanted} if names else {1, wanted}
    if len(array) not in fitting and not (wanted == 1 and len(array) == 3):
        message = f"{len(array)} channels, preprocess.channels is {wanted}"
        remedy = f"set preprocess.channels: {len(array)}, or correct the image"
        yield found(Level.ERROR, message, remedy)


def _of_values(array: np.ndarray) -> Iterator[tuple[Level, str, str]]:
    """Say whether values are none, are all one, or pile up where something has cut them off."""
    bad = _not_finite(array)
    if bad:
        yield Level.ERROR, f"{bad} voxels are NaN or infinite", "repair or remove the case"
        return
    if array.min() == array.max():
        yield Level.ERROR, f"every voxel is {array.flat[0]}", "remove the case"
        return
    values = _sample(array)
    lowest, highest = values.min(), values.max()
    above = values[values > lowest]
    if above.size < NEARLY_EMPTY * values.size:
        yield (
            Level.WARNING,
            f"nearly empty: {above.size / values.size:.2%} of its voxels differ from {lowest}",
            "look at it, and remove it if it shows nothing",
        )
        return
    at_top = float((above == highest).mean())
    if at_top > SATURATED and (above < highest).any():
        yield (
            Level.WARNING,
            f"saturated: {at_top:.0%} of its voxels above the background are {highest}",
            "export it again without cutting values off, or remove it",
        )


def _of_grid(case: Case, image: Volume, label: Volume) -> Iterator[Finding]:
    assert isinstance(case.label, Path)
    if label.shape != image.shape:
        message = f"label grid {label.shape}, image grid {image.shape}"
        yield Finding(case.id, Level.ERROR, message, "resample the label", case.label)
    elif label.affine.shape == image.affine.shape:
        apart = grid_distance_mm(label, image.affine)
        if apart > GRID_TOLERANCE_MM:
            message = (
                f"lies up to {apart:.2f} mm from its image (spacing {_mm(label)} and {_mm(image)} "
                f"mm)"
            )
            remedy = (
                "resample the label onto the image, or give it the image's affine if their voxels "
                "do lie on one another"
            )
            yield Finding(case.id, Level.ERROR, message, remedy, case.label)


def _of_numbers(case: Case, values: set[int], config: Config) -> Iterator[Finding]:
    assert isinstance(case.label, Path)
    unknown = sorted(values - {0, *config.label_values, config.data.ignore})
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        message = (
            f"holds the values {unknown[:SHOWN]}{more} that data.labels does not declare "
            f"({dict(config.data.labels)})"
        )
        yield Finding(case.id, Level.ERROR, message, "declare or correct them", case.label)


def _mm(volume: Volume) -> str:
    return "x".join(f"{v:.3g}" for v in volume.spacing_mm)


def _digests(case: Case, options: ReadingOptions) -> tuple[str, str]:
    rules = [options.series, *options.series_of.values()]  # of all that may lie in the folder
    sha = hashlib.sha256("".join(rule.uid or "" for rule in rules if rule).encode())
    _update(sha, case.images)
    image = sha.hexdigest()
    if not isinstance(case.label, Path):
        return image, f"{image}-{case.label}"
    _update(sha, [case.label])
    return image, sha.hexdigest()


def _update(sha: Any, paths: Sequence[Path]) -> None:  # noqa: ANN401
    for file in (file for path in paths for file in files_of(path)):
        with file.open("rb") as stream:
            while content := stream.read(PIECE):
                sha.update(content)


def files_of(path: Path) -> Sequence[Path]:
    """Return the files that an image consists of: a DICOM folder's, or both of a pair."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file())
    return pair_of(path) or [path]  # either name stands for both
