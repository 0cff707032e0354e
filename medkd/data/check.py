"""Check: read every case once and name all that is wrong, before anything is trained."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medkd.config import Config
from medkd.data import splits
from medkd.data.cards import card_of
from medkd.data.datalist import read_datalist
from medkd.data.groups import misgrouped
from medkd.data.reader import read_image, read_label
from medkd.errors import DataError
from medkd.progress import progress
from medkd.study import Study, digest
from medkd.types import GRID_TOLERANCE_MM, Case, Split, Task, Volume, grid_distance_mm

SHOWN = 8  # undeclared values of a label map; an image in its place has hundreds


@dataclass(frozen=True)
class Cohort:
    """The checked cases of a study, and how their patients are dealt.

    Attributes:
        cases: by id, in the datalist's order.
        split: the case ids of train, validation and test.
        digests: SHA-256 of each case's image and label files, by id.
        images: SHA-256 of each case's image files alone, by id.
        name: of the data set, by its card; without a card, of its source.
    """

    cases: dict[str, Case]
    split: Split
    digests: dict[str, str]
    images: dict[str, str]
    name: str

    def of(self, part: Iterable[str]) -> list[Case]:
        """Return the cases with these ids."""
        return [self.cases[case_id] for case_id in part]

    def digest_of(self, part: Iterable[str]) -> str:
        """Identity of the content of these cases."""
        return digest([self.digests[case_id] for case_id in part])


def labelled(cases: Iterable[Case]) -> list[Case]:
    """Return the cases that have a label."""
    return [case for case in cases if case.label is not None]


def check(study: Study) -> Cohort:
    """Read and judge every case; a cohort comes back only if nothing is wrong.

    Raises:
        DataError: every problem of the pass, one line each, with file, case and remedy.
    """
    cases = read_datalist(study)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda case: _check_case(case, study.config), cases)
        findings = list(progress(found, "check", total=len(cases)))
    problems = [problem for finding in findings for problem in finding.problems]
    problems += splits.problems_of_given(cases, study.config.data.split)
    if problems:
        raise DataError.of(problems)
    split = splits.split_cases(cases, study.config.data.split)
    found_of = {case.id: finding for case, finding in zip(cases, findings, strict=True)}
    hidden = _hidden(study.config, cases, split)
    cases = [replace(case, label=None) if case.id in hidden else case for case in cases]
    for case_id in hidden:
        found_of[case_id] = found_of[case_id]._replace(files=found_of[case_id].image)
    card = card_of(study)
    _refuse_unfit(study.config, {case.id: case for case in cases}, split)
    if study.config.task is Task.SEGMENTATION:
        _refuse_absent(study.config, [found_of[case_id].values for case_id in split.train])
    cohort = Cohort(
        cases={case.id: case for case in cases},
        split=split,
        digests={case_id: finding.files for case_id, finding in found_of.items()},
        images={case_id: finding.image for case_id, finding in found_of.items()},
        name=card.name if card else Path(study.config.data.source).stem,
    )
    _refuse_duplicates(split, cohort.images)
    return cohort


def _hidden(config: Config, cases: Sequence[Case], split: Split) -> set[str]:
    """Return the training cases whose labels are not to be seen."""
    labelled = config.data.split.labelled
    if labelled is None:
        return set()
    train = [case for case in cases if case.id in set(split.train)]
    kept = splits.labels_kept(train, labelled=labelled, seed=config.study.seed)
    return {case.id for case in train} - kept


class _Finding(NamedTuple):
    """What is wrong with a case, and what else is known once it has been read.

    Attributes:
        problems: one line each.
        image: SHA-256 of the image's files.
        files: SHA-256 of image and label together.
        values: that occur in its label map.
    """

    problems: list[str]
    image: str = ""
    files: str = ""
    values: frozenset[int] = frozenset()


def _refuse_unfit(config: Config, cases: Mapping[str, Case], split: Split) -> None:
    """Refuse what would end a study hours later: too few patients, a class unseen."""
    train = labelled([cases[case_id] for case_id in split.train])
    if not train:
        raise DataError("no case of the train split has a label; the teacher needs some")
    splits.split_folds(train, folds=config.teacher.folds, seed=config.study.seed)
    test = [cases[case_id] for case_id in split.test]
    if lines := [line for named in config.evaluate.subgroups for line in misgrouped(test, named)]:
        raise DataError.of(lines)
    if config.task is Task.CLASSIFICATION:
        missing = [
            f"no case of class {name!r} in the {part} split; add cases or change data.split"
            for part, ids in vars(split).items()
            for name, value in config.data.labels.items()
            if value not in {cases[case_id].label for case_id in ids}
        ]
        if missing:
            raise DataError.of(missing)


def _refuse_absent(config: Config, train: Iterable[frozenset[int]]) -> None:
    """Refuse a structure that no training case holds: nobody could learn it."""
    present = frozenset[int]().union(*train)
    missing = [
        f"no case of the train split holds {name!r} (data.labels says value {value}); correct "
        f"data.labels or leave it out, add such cases, or change data.split"
        for name, value in config.data.labels.items()
        if value not in present
    ]
    if missing:
        raise DataError.of(missing)


def _refuse_duplicates(split: Split, images: Mapping[str, str]) -> None:
    """Refuse a case whose image lies, under another name, on another side of the split."""
    problems: list[str] = []
    side_of: dict[str, tuple[str, str]] = {}
    for part, ids in vars(split).items():
        for case_id in ids:
            first, side = side_of.setdefault(images[case_id], (case_id, part))
            if side != part:
                problems.append(
                    f"case {case_id} ({part}) has the same image as case {first} ({side}); give "
                    f"both one patient, or remove one"
                )
    if problems:
        raise DataError.of(problems)


def _check_case(case: Case, config: Config) -> _Finding:
    problems: list[str] = []
    values: frozenset[int] = frozenset()
    try:
        image = read_image(_there(case.image))
        problems += _image_problems(case, image, config)
        if isinstance(case.label, Path):
            label = read_label(_there(case.label))
            values = frozenset(np.unique(label.array).tolist())
            problems += _label_problems(case, image, label, config)
            problems += _value_problems(case, values, config)
        return _Finding(problems, *_digests(case), values)
    except DataError as error:
        return _Finding([*problems, f"case {case.id}: {error}"])


def _there(path: Path) -> Path:
    """Return the path of a file that is there."""
    if not path.exists():
        raise DataError(f"{path}: no such file; correct its path in the datalist, or data.root")
    return path


def _image_problems(case: Case, image: Volume, config: Config) -> list[str]:
    where = f"case {case.id}: {case.image}:"
    problems = []
    if image.dims != config.dims:
        problems.append(f"{where} {image.dims} spatial axes, preprocess.window has {config.dims}")
    if not np.isfinite(image.array).all():
        bad = int((~np.isfinite(image.array)).sum())
        problems.append(f"{where} {bad} voxels are NaN or infinite; repair or remove the case")
    elif image.array.min() == image.array.max():
        problems.append(f"{where} every voxel is {image.array.flat[0]}; remove the case")
    if image.array.shape[0] not in {1, config.preprocess.channels}:
        wanted = config.preprocess.channels
        if not (wanted == 1 and image.array.shape[0] == 3):
            problems.append(
                f"{where} {image.array.shape[0]} channels, preprocess.channels is {wanted}; set "
                f"preprocess.channels: {image.array.shape[0]}, or correct the image"
            )
    return problems


def _label_problems(case: Case, image: Volume, label: Volume, config: Config) -> list[str]:
    where = f"case {case.id}: {case.label}:"
    if label.shape != image.shape:
        return [f"{where} label grid {label.shape}, image grid {image.shape}; resample the label"]
    problems = []
    if label.affine.shape == image.affine.shape:
        apart = grid_distance_mm(label, image.affine)
        if apart > GRID_TOLERANCE_MM:
            problems.append(
                f"{where} lies up to {apart:.2f} mm from its image {case.image} (spacing "
                f"{_mm(label)} and {_mm(image)} mm); resample the label onto the image"
            )
    return problems


def _value_problems(case: Case, values: frozenset[int], config: Config) -> list[str]:
    unknown = sorted(values - set(config.label_values))
    if not unknown:
        return []
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return [
        f"case {case.id}: {case.label}: holds the values {unknown[:SHOWN]}{more} that data.labels "
        f"does not declare ({dict(config.data.labels)}); declare or correct them"
    ]


def _mm(volume: Volume) -> str:
    return "x".join(f"{v:.3g}" for v in volume.spacing_mm)


def _digests(case: Case) -> tuple[str, str]:
    sha = hashlib.sha256()
    for path in _files(case.image):
        sha.update(path.read_bytes())
    image = sha.hexdigest()
    if not isinstance(case.label, Path):
        return image, f"{image}-{case.label}"
    for path in _files(case.label):
        sha.update(path.read_bytes())
    return image, sha.hexdigest()


def _files(path: Path) -> Sequence[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file())
    pair = [path.with_suffix(s) for s in (".hdr", ".img")]  # either name stands for both
    return pair if path.suffix in {".hdr", ".img"} else [path]
