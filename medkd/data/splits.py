"""Splits: patients are dealt to train, validation and test, never cases.

Each stratum of patients is dealt so that every part holds its share; what rounding leaves goes on
to the next. A stratum too small for that joins the others of its kind, in an order that keeps the
like together, and each part takes every n-th of them (systematic sampling with implicit
stratification; Kish 1965).
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.findings import Finding, Level
from medkd.errors import DataError
from medkd.options import SplitOptions
from medkd.seeding import derive_seed
from medkd.types import Case, Split

LEAST_IN_STRATUM = 3  # patients; of fewer not every part can have one
NEARLY = 1e-9  # what sums of shares may lack by rounding
LARGER, MORE = 0.5, 3  # by such a share, or so many patients, a part may grow to hold each stratum
MOST_GROUPS = 12  # distinct values of an attribute; numbers with more are cut into thirds
REMEDY_OF_FILE = "correct the file that data.split.file names, or leave it out"
PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def split_cases(
    cases: Sequence[Case],
    options: SplitOptions,
    *,
    given: Mapping[str, str] | None = None,
    strata: Mapping[str, str] | None = None,
) -> Split:
    """Deal patients by ``options``, or keep the split that somebody has ``given``.

    Patients with an unlabelled case are all for training: nothing can be validated or tested on
    them. The same cases and seed give the same split, whatever the cases' order.

    Args:
        cases: of all parts.
        options: shares and seed.
        given: the part of each case, as ``given_parts`` returns it.
        strata: of each patient, as ``strata_of`` returns it; None: by class.

    Raises:
        DataError: a part would be empty.
    """
    given = given_parts(cases, options) if given is None else given
    dealt = given or _dealt(cases, options, strata_of(cases) if strata is None else strata)
    parts = {
        name: tuple(case.id for case in cases if PARTS[dealt[case.id].lower()] == name)
        for name in ("train", "validation", "test")
    }
    for name, ids in parts.items():
        if not ids:
            patients = len({case.patient for case in cases})
            raise DataError(
                f"the {name} split is empty ({patients} patients); add cases or change data.split"
            )
    return Split(**parts)


def split_folds(
    cases: Sequence[Case], *, folds: int, seed: int, strata: Mapping[str, str] | None = None
) -> list[list[Case]]:
    """Deal cases into ``folds`` disjoint lists by patient, each stratum of patients in turn.

    Raises:
        DataError: fewer patients than folds.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < folds:
        raise DataError(
            f"teacher.folds is {folds}, but the train split has {len(patients)} patients"
        )
    np.random.default_rng(derive_seed(seed, "folds")).shuffle(patients)
    patients.sort(key=lambda patient: (strata or {}).get(patient, ""))
    fold_of = {patient: i % folds for i, patient in enumerate(patients)}
    return [[case for case in cases if fold_of[case.patient] == i] for i in range(folds)]


def strata_of(
    cases: Sequence[Case],
    *,
    by: Sequence[str] = (),
    volumes_ml: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, str]:
    """Return the stratum of each patient: what its labels cover and hold, and attributes asked for.

    Args:
        cases: labelled ones say what they hold by their class or findings.
        by: attributes, or ``volume_ml/STRUCTURE``; numbers of many values are cut into thirds.
        volumes_ml: of the structures that a case's label map holds, by case id.
    """
    volumes_ml = volumes_ml or {}
    first: dict[str, Case] = {}
    holds: dict[str, set[str]] = defaultdict(set)
    covers: dict[str, set[str]] = defaultdict(set)
    for case in sorted(cases, key=lambda case: case.id):
        first.setdefault(case.patient, case)
        holds[case.patient] |= volumes_ml.get(case.id, {}).keys()
        if isinstance(case.label, int | tuple):
            found = case.label if isinstance(case.label, tuple) else (str(case.label),)
            holds[case.patient] |= set(found)
        covers[case.patient] |= set(case.annotated or ())
    told = [
        *({patient: "+".join(sorted(of[patient])) for patient in first} for of in (holds, covers)),
        *(_grouped(first, name, volumes_ml) for name in by),
    ]
    telling = [column for column in told if len(set(column.values())) > 1]
    return {patient: "/".join(column[patient] for column in telling) for patient in first}


def _grouped(
    first: Mapping[str, Case], name: str, volumes_ml: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """Return a group for each patient by one attribute of its first case."""
    kind, _, structure = name.partition("/")
    values = {
        patient: _volume(case, structure, volumes_ml)
        if kind == "volume_ml"
        else case.attributes.get(name, "")
        for patient, case in first.items()
    }
    if len(set(values.values())) <= MOST_GROUPS:
        return values
    try:
        numbers = np.array([float(value or "nan") for value in values.values()])
    except ValueError:
        return values
    edges = np.nanquantile(numbers, [1 / 3, 2 / 3])
    thirds = np.where(np.isnan(numbers), "", np.digitize(numbers, edges).astype(str))
    return dict(zip(values, map(str, thirds), strict=True))


def _volume(case: Case, structure: str, volumes_ml: Mapping[str, Mapping[str, float]]) -> str:
    """Return the volume of a structure, nothing where the label does not cover it."""
    if case.annotated is not None and structure not in case.annotated:
        return ""
    return str(volumes_ml.get(case.id, {}).get(structure, 0.0))


def labels_kept(cases: Sequence[Case], *, labelled: int, seed: int) -> set[str]:
    """Draw the training cases that keep their labels, patient after patient; return their ids.

    Raises:
        DataError: there are fewer.
    """
    having = sorted((case for case in cases if case.label is not None), key=lambda case: case.id)
    if len(having) < labelled:
        raise DataError(
            f"data.split.labelled is {labelled}, but {len(having)} training cases have a label"
        )
    patients = sorted({case.patient for case in having})
    np.random.default_rng(derive_seed(seed, "labelled")).shuffle(patients)
    rank = {patient: number for number, patient in enumerate(patients)}
    kept = sorted(having, key=lambda case: rank[case.patient])[:labelled]
    return {case.id for case in kept}


def given_parts(
    cases: Sequence[Case], options: SplitOptions, *, root: Path = Path()
) -> dict[str, str]:
    """Return the part of each case by the user's own split; empty where there is none.

    A file may name a case in several parts: they are all said, and none of them is taken.

    Args:
        cases: whose attributes may tell.
        options: name a column, or a file as ``split.json`` of another study.
        root: where a relative file lies.

    Raises:
        DataError: the file is missing or does not name the three parts.
    """
    if options.column:
        return {case.id: case.attributes.get(options.column, "") for case in cases}
    if options.file:
        content = read_split(root / options.file)
        parts: dict[str, list[str]] = defaultdict(list)
        for part in ("train", "validation", "test"):
            for case_id in dict.fromkeys(content[part]):
                parts[case_id].append(part)
        return {case_id: " and ".join(named) for case_id, named in parts.items()}
    return {}


def read_split(path: Path) -> dict[str, Any]:
    """Read a ``split.json``: lists of case ids by part, and perhaps their digests.

    Raises:
        DataError: missing, no JSON, a part is not a list of ids, or digests are not told by part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = [content[part] for part in ("train", "validation", "test")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a split ({error}); data.split.file names a JSON with the lists train, "
            f"validation and test of case ids",
            private=(str(error),),
        ) from None
    if not all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in lists):
        raise DataError(f"{path}: train, validation and test are lists of case ids")
    if not isinstance(content.get("digests", {}), dict):
        raise DataError(f"{path}: digests is no mapping of parts to digests; correct or remove it")
    return content


def problems_of_given(
    cases: Sequence[Case], options: SplitOptions, given: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return what is wrong with a split that the datalist or a file gives."""
    given = given_parts(cases, options) if given is None else given
    if not given:
        return []
    columns = dict.fromkeys(name for case in cases for name in case.attributes)
    if options.column and options.column not in columns:
        message = (
            f"data.split.column: no column {options.column!r} (has {', '.join(columns) or 'none'} "
            f"beside case, image, label and patient)"
        )
        return [Finding(None, Level.ERROR, message, "add it, or name another")]
    problems = [finding for case in cases for finding in _of_one(case, given, options)]
    problems += _strangers(cases, given)
    side_of: dict[str, tuple[str, str]] = {}
    for case in cases:
        part = PARTS.get(given.get(case.id, "").lower())
        first, side = side_of.setdefault(case.patient, (case.id, part or ""))
        if part and side and side != part:
            message = f"patient {{patients[0]}} is in {part}, and with case {{cases[0]}} in {side}"
            remedy = "move all cases of a patient to one side"
            problems.append(
                Finding(
                    case.id, Level.ERROR, message, remedy, cases=(first,), patients=(case.patient,)
                )
            )
    return problems


def _of_one(case: Case, given: Mapping[str, str], options: SplitOptions) -> Iterator[Finding]:
    said = given.get(case.id, "")
    in_file = f"is in {said or 'no part'}"
    where = f"column {options.column!r} says {said!r}" if options.column else in_file
    if said.lower() not in PARTS:
        remedy = "it may say train, validation or test" if options.column else REMEDY_OF_FILE
        yield Finding(case.id, Level.ERROR, where, remedy, private=(repr(said),))
    elif case.label is None and PARTS[said.lower()] != "train":
        message = f"has no label and is in {PARTS[said.lower()]}"
        yield Finding(case.id, Level.ERROR, message, "add the label or move it to train")


def _strangers(cases: Sequence[Case], given: Mapping[str, str]) -> Iterator[Finding]:
    """Name the ids of a split that are no case."""
    known = {case.id for case in cases}
    strange = tuple(case_id for case_id in given if case_id not in known)
    if strange:
        message = (
            f"data.split.file names {len(strange)} cases that the datalist lacks: {{cases[0]}}"
        )
        yield Finding(None, Level.ERROR, message, REMEDY_OF_FILE, cases=strange)


def _dealt(
    cases: Sequence[Case], options: SplitOptions, stratum_of: Mapping[str, str]
) -> dict[str, str]:
    """Return the part of each case."""
    unlabelled = {case.patient for case in cases if case.label is None}
    strata: dict[str, list[str]] = defaultdict(list)
    for patient in sorted({case.patient for case in cases} - unlabelled):
        strata[stratum_of[patient]].append(patient)
    part_of: dict[str, str] = {}
    whole: list[list[str]] = []
    rest: list[str] = []
    for stratum, order in sorted(strata.items()):
        np.random.default_rng(derive_seed(options.seed, "split", stratum)).shuffle(order)
        if len(order) < LEAST_IN_STRATUM and len(strata) > 1:
            rest += order
        else:
            whole.append(order)
    for order, (tests, validations) in zip(whole, _counts(whole, options), strict=True):
        names = ["test"] * tests + ["validation"] * validations
        part_of |= dict(zip(order, names, strict=False))
    part_of |= _systematic(rest, options)
    return {case.id: part_of.get(case.patient, "train") for case in cases}


def _counts(strata: Sequence[Sequence[str]], options: SplitOptions) -> Iterator[tuple[int, int]]:
    """Yield how many patients of each stratum are for test and how many for validation.

    What one owes by rounding, or would leave nothing to another part, the next one pays, so that
    neighbours, which are of one class, have their share together.
    """
    sizes = np.array([len(order) for order in strata], int)
    training = round(1 - options.test - options.validation, 9)
    dues = [_due(sizes, part) for part in (options.test, options.validation, training)]
    owed_test, owed_validation = 0.75 + NEARLY, 0.25 + NEARLY  # not both from the same strata
    for size, test, validation, rest in zip(sizes, *dues, strict=True):
        owed_test, owed_validation = owed_test + test, owed_validation + validation
        free = size - (rest >= 1)
        tests = int(max(0, min(owed_test, free - (validation >= 1))))
        validations = int(max(0, min(owed_validation, free - tests)))
        owed_test, owed_validation = owed_test - tests, owed_validation - validations
        yield tests, validations


def _due(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Return a part's due of each stratum, whose sum is its share of all in whole patients.

    Of strata of 3 patients or more it is 1 at least, so that a rare class is in every part; unless
    they are so many that the part would be larger by half, and by more than 3 patients.
    """
    due = fraction * sizes
    least = ((sizes >= LEAST_IN_STRATUM) & (fraction > 0)).astype(int)
    if least.sum() - due.sum() > max(MORE, LARGER * due.sum()):
        least[:] = 0
    beyond = (due - least).clip(min=0)
    left = max(0, round(due.sum()) - least.sum())
    return least + beyond * (left / beyond.sum() if left else 0)


def _systematic(order: Sequence[str], options: SplitOptions) -> dict[str, str]:
    """Give each part every n-th patient of an order that keeps the like together."""
    owed = {"test": 0.5, "validation": 0.5}
    part_of = {}
    for patient in order:
        owed = {part: due + getattr(options, part) for part, due in owed.items()}
        part = max(owed, key=owed.__getitem__)
        if owed[part] >= 1:
            part_of[patient] = part
            owed[part] -= 1
    return part_of
