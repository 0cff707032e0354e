from dataclasses import replace

import pytest

from medkd.data.findings import Level
from medkd.data.quality.fitness import unfit
from medkd.types import Split, Task

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


@pytest.fixture
def findings(cohort, config):
    """Return a maker of the errors of four cases with these findings, in the parts of SPLIT."""
    config = with_labels(config, {"organ": 1, "lesion": 2})
    data = config.data.model_copy(update={"overlapping": True})
    config = config.model_copy(update={"task": Task.CLASSIFICATION, "data": data})

    def make(*labels, annotated=None):
        cases, examined = cohort(8, changes={n: {"voxels": {}} for n in range(8)})
        named = zip(cases.items(), labels, strict=True)
        cases = {i: replace(case, label=label) for (i, case), label in named}
        cases = with_annotated(cases, **(annotated or {}))
        ids = list(cases)
        split = Split(tuple(ids[:4]), tuple(ids[4:6]), tuple(ids[6:]))
        return [each.line for each in unfit(config, cases, examined, split)]

    return make


BOTH = ("organ", "lesion")


def test_each_part_needs_images_with_and_without_each_finding(findings):
    assert findings(BOTH, (), (), None, BOTH, (), BOTH, ()) == []
    (line,) = findings(BOTH, (), (), (), BOTH, (), BOTH, ("organ",))
    assert "every case of the test split has 'organ'" in line
    (line,) = findings(BOTH, (), (), (), ("organ",), (), BOTH, ())
    assert "no case of the validation split has 'lesion'" in line


def test_a_finding_that_was_not_judged_tells_nothing(findings):
    alone = {"c005": ("organ",)}
    (line,) = findings(BOTH, (), (), (), BOTH, (), BOTH, (), annotated=alone)
    assert "every case of the validation split has 'lesion'" in line
    first, second = findings(BOTH, (), (), (), BOTH, BOTH, BOTH, (), annotated=alone)[:2]
    assert "holds lesion, and the column" in first + second
