"""Fitness: whether the parts of a split can carry the study, asked hours before it would end."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered
from medkd.data.findings import Finding, Level
from medkd.data.groups import misgrouped
from medkd.data.labels import class_of
from medkd.data.quality.examine import Examined
from medkd.data.splits import split_folds
from medkd.errors import DataError
from medkd.types import UNLABELLED, Case, Split, Task


def unfit(
    config: Config, cases: Mapping[str, Case], examined: Mapping[str, Examined], split: Split
) -> Iterator[Finding]:
    """Yield what would end a study: too few patients, a class or structure unseen."""
    train = [cases[i] for i in split.train if cases[i].label is not None]
    if not train:
        message = "no case of the train split has a label; the teacher needs some"
        yield Finding(None, Level.ERROR, message)
        return
    try:
        split_folds(train, folds=config.teacher.folds, seed=config.study.seed)
    except DataError as error:
        yield Finding.of(str(error))
    test = [cases[case_id] for case_id in split.test]
    for named in config.evaluate.subgroups:
        yield from misgrouped(test, named)
    if config.questions:
        yield from _uncovered_questions(config, cases, split)
        yield from _beyond_annotation(config, cases, examined)
    if config.task is Task.SEGMENTATION:
        yield from _unseen_structures(config, examined, split)
    elif config.data.overlapping:
        yield from _one_sided_findings(config, cases, split)
    else:
        yield from _unseen_classes(config, cases, split)
    yield from _gaps(config)


def _unseen_classes(config: Config, cases: Mapping[str, Case], split: Split) -> Iterator[Finding]:
    for part, ids in vars(split).items():
        seen = {cases[case_id].label for case_id in ids}
        for name, value in config.data.labels.items():
            if value not in seen:
                message = f"no case of class {name!r} in the {part} split"
                yield Finding(None, Level.ERROR, message, "add cases or change data.split")


def _one_sided_findings(
    config: Config, cases: Mapping[str, Case], split: Split
) -> Iterator[Finding]:
    """Name a finding that all of a part's judged cases have, or none: nothing tells them apart."""
    for part, ids in vars(split).items():
        truth = np.array([class_of(cases[case_id], config) for case_id in ids])
        for name, column in zip(config.classes, truth.T, strict=True):
            judged = set(column[column != UNLABELLED].tolist())
            if len(judged) == 1:
                message = (
                    f"{'every' if 1 in judged else 'no'} case of the {part} split has {name!r}"
                )
                remedy = "add cases or change data.split, or leave the finding out"
                yield Finding(None, Level.ERROR, message, remedy)


def _unseen_structures(
    config: Config, examined: Mapping[str, Examined], split: Split
) -> Iterator[Finding]:
    """Name a structure that no training case holds: nobody could learn it."""
    present = set().union(*(examined[case_id].voxels for case_id in split.train))
    for name, value in config.data.labels.items():
        if value not in present:
            message = f"no case of the train split holds {name!r} (data.labels says value {value})"
            remedy = "correct data.labels or leave it out, add such cases, or change data.split"
            yield Finding(None, Level.ERROR, message, remedy)


def _uncovered_questions(
    config: Config, cases: Mapping[str, Case], split: Split
) -> Iterator[Finding]:
    """Name a structure that no label of a part covers: nobody could select, or judge, by it."""
    for part, ids in vars(split).items():
        told = [covered(cases[i], config) for i in ids if cases[i].label is not None]
        for index in np.flatnonzero(~np.any(told, axis=0)) if told else ():
            name = config.classes[index]
            by = f", by {config.data.annotated!r}" if config.data.annotated else ""
            message = f"no label of the {part} split covers {name!r}{by}"
            remedy = "add such cases, or deal them with data.split.column or data.split.seed"
            yield Finding(None, Level.ERROR, message, remedy)


def _beyond_annotation(
    config: Config, cases: Mapping[str, Case], examined: Mapping[str, Examined]
) -> Iterator[Finding]:
    """Name the labels that hold a structure, or finding, which they are said not to cover."""
    for case in cases.values():
        told, held = covered(case, config), _held(case, examined[case.id], config)
        beyond = [
            name
            for name, is_covered in zip(config.classes, told, strict=True)
            if name in held and not is_covered
        ]
        if beyond:
            message = (
                f"holds {', '.join(beyond)}, and the column {config.data.annotated!r} says that it "
                f"covers {', '.join(case.annotated or ())}"
            )
            file = case.label if isinstance(case.label, Path) else None
            is_done = "drawn" if file else "told"
            remedy = (
                f"name it there if it is {is_done} wherever it is, or else erase it from the label"
            )
            yield Finding(case.id, Level.ERROR, message, remedy, file)


def _held(case: Case, seen: Examined, config: Config) -> set[str]:
    """Return the names of what a case's label holds."""
    if isinstance(case.label, tuple):
        return set(case.label)
    return {name for name, value in config.data.labels.items() if value in seen.voxels}


def _gaps(config: Config) -> Iterator[Finding]:
    """Name the holes in the numbering of the structures; a forgotten one leaves such a hole."""
    values = [value for value in config.label_values if value]
    missed = sorted(set(range(1, max(values, default=0))) - set(values))
    if missed and config.task is Task.SEGMENTATION and len(values) > 1:
        shown = ", ".join(map(str, missed[:8])) + (", …" if len(missed) > 8 else "")
        message = f"the label values {values} leave out {shown}"
        remedy = "see that no structure was forgotten; medkd itself does not need them in a row"
        yield Finding(None, Level.NOTE, message, remedy)
