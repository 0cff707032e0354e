from dataclasses import replace

import pytest

from medkd.data.findings import Level
from medkd.data.quality.fitness import unfit
from medkd.types import Split

SPLIT = Split(("c000", "c001"), ("c002",), ("c003",))


def found(cohort, config, **kind):
    cases, examined = cohort(4, **kind)
    return [(each.level, each.line) for each in unfit(config, cases, examined, SPLIT)]


def with_labels(config, labels):
    return config.model_copy(update={"data": config.data.model_copy(update={"labels": labels})})


def test_a_structure_may_be_absent_anywhere_but_in_training(cohort, config):
    config = with_labels(config, {"organ": 1})
    bare = {"voxels": {0: 1000}}
    assert found(cohort, config, changes={0: bare, 2: bare, 3: bare}) == []
    ((level, line),) = found(cohort, config, changes={0: bare, 1: bare})
    assert level is Level.ERROR
    assert "no case of the train split holds 'organ'" in line


def test_a_hole_in_the_numbering_is_remarked_and_stops_nothing(cohort, config):
    ((level, line),) = found(cohort, config)
    assert level is Level.NOTE
    assert "[1, 5] leave out 2, 3, 4" in line


@pytest.mark.parametrize(("folds", "errors"), [(1, 0), (2, 0), (3, 1)])
def test_every_fold_needs_a_patient(cohort, config, folds, errors):
    teacher = config.teacher.model_copy(update={"folds": folds})
    levels = [level for level, _ in found(cohort, config.model_copy(update={"teacher": teacher}))]
    assert levels.count(Level.ERROR) == errors


def with_annotated(cases, **annotated):
    return cases | {i: replace(cases[i], annotated=told) for i, told in annotated.items()}


def test_each_part_needs_a_label_that_covers_each_structure(cohort, config):
    cases, examined = cohort(4, changes={2: {"voxels": {0: 900, 1: 100}}})
    cases = with_annotated(cases, c002=("organ",))
    (error,) = (e for e in unfit(config, cases, examined, SPLIT) if e.level is Level.ERROR)
    assert "no label of the validation split covers 'lesion'" in error.line


def test_a_label_that_holds_what_it_does_not_cover_is_an_error(cohort, config):
    cases, examined = cohort(4)
    cases = with_annotated(cases, c001=("lesion",))
    (error,) = (e for e in unfit(config, cases, examined, SPLIT) if e.level is Level.ERROR)
    assert (error.case, error.file) == ("c001", cases["c001"].label)
    assert "holds organ, and the column" in error.message
    assert "says that it covers lesion" in error.message
