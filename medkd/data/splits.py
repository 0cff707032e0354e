"""Splits: patients are dealt to train, validation and test, never cases."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from medkd.errors import DataError
from medkd.options import SplitOptions
from medkd.seeding import derive_seed
from medkd.types import Case, Split

PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def split_cases(cases: Sequence[Case], options: SplitOptions) -> Split:
    """Deal patients by ``options``, stratified by class where the label is one.

    Patients with an unlabelled case are all for training: nothing can be validated or tested on
    them. The same cases and seed give the same split, whatever the cases' order.

    Raises:
        DataError: a part would be empty.
    """
    parts = _given(cases, options.column) if options.column else _dealt(cases, options)
    split = Split(**{name: tuple(parts[name]) for name in ("train", "validation", "test")})
    for name in ("train", "validation", "test"):
        if not getattr(split, name):
            patients = len({case.patient for case in cases})
            raise DataError(
                f"the {name} split is empty ({patients} patients); add cases or change data.split"
            )
    return split


def split_folds(cases: Sequence[Case], *, folds: int, seed: int) -> list[list[Case]]:
    """Deal cases into ``folds`` disjoint lists by patient.

    Raises:
        DataError: fewer patients than folds.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < folds:
        raise DataError(
            f"teacher.folds is {folds}, but the train split has {len(patients)} patients"
        )
    np.random.default_rng(derive_seed(seed, "folds")).shuffle(patients)
    fold_of = {patient: i % folds for i, patient in enumerate(patients)}
    return [[case for case in cases if fold_of[case.patient] == i] for i in range(folds)]


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


def problems_of_given(cases: Sequence[Case], options: SplitOptions) -> list[str]:
    """Return what is wrong with a split that the datalist gives."""
    if not options.column:
        return []
    columns = dict.fromkeys(name for case in cases for name in case.attributes)
    if options.column not in columns:
        return [
            f"data.split.column: no column {options.column!r} (has {', '.join(columns) or 'none'} "
            f"beside case, image, label and patient); add it, or name another"
        ]
    problems: list[str] = []
    side_of: dict[str, tuple[str, str]] = {}
    for case in cases:
        said = case.attributes.get(options.column, "")
        if said.lower() not in PARTS:
            problems.append(
                f"case {case.id}: column {options.column!r} says {said!r}; "
                f"it may say train, validation or test"
            )
            continue
        if case.label is None and PARTS[said.lower()] != "train":
            problems.append(
                f"case {case.id}: has no label and is in {PARTS[said.lower()]}; add the label or "
                f"move it to train"
            )
        first, side = side_of.setdefault(case.patient, (case.id, PARTS[said.lower()]))
        if side != PARTS[said.lower()]:
            problems.append(
                f"case {case.id}: patient {case.patient} is in {PARTS[said.lower()]}, and with "
                f"case {first} in {side}; move all cases of a patient to one side"
            )
    return problems


def _given(cases: Sequence[Case], column: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        parts[PARTS[case.attributes[column].lower()]].append(case.id)
    return parts


def _dealt(cases: Sequence[Case], options: SplitOptions) -> dict[str, list[str]]:
    part_of: dict[str, str] = {}
    unlabelled = {case.patient for case in cases if case.label is None}
    cases_with = [case for case in cases if case.patient not in unlabelled]
    for stratum, patients in sorted(_strata(cases_with).items()):
        order = sorted(patients)
        np.random.default_rng(derive_seed(options.seed, "split", stratum)).shuffle(order)
        tests, validations = (
            _share(len(order), fraction) for fraction in (options.test, options.validation)
        )
        names = ["test"] * tests + ["validation"] * validations
        part_of |= dict(zip(order, names, strict=False))
    parts: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        parts[part_of.get(case.patient, "train")].append(case.id)
    return parts


def _share(patients: int, fraction: float) -> int:
    """Round, but leave no part of a stratum of 3 patients or more without one."""
    least = 1 if fraction and patients > 2 else 0
    return max(least, round(patients * fraction))


def _strata(cases: Sequence[Case]) -> dict[str, set[str]]:
    """Patients by the class of their first case; segmentation has one stratum."""
    stratum_of: dict[str, str] = {}
    for case in sorted(cases, key=lambda case: case.id):
        stratum_of.setdefault(case.patient, str(case.label) if isinstance(case.label, int) else "")
    strata: dict[str, set[str]] = defaultdict(set)
    for patient, stratum in stratum_of.items():
        strata[stratum].add(patient)
    return strata
