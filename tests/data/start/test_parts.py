from pathlib import Path

import pytest

from medkd.data.start.layout import Layout, Row
from medkd.data.start.parts import dealt, judged
from medkd.types import Case, Task


def layout(*parts, labels=None):
    labels = labels or [n % 2 for n in range(len(parts))]
    rows = [
        Row(f"c{n}", Path("x"), label, part=part)
        for n, (part, label) in enumerate(zip(parts, labels, strict=True))
    ]
    return Layout("any", Task.CLASSIFICATION, tuple(rows))


def parts(found):
    return [row.part for row in found.rows]


def test_cases_to_judge_by_need_a_label_and_are_not_moved_to_training():
    found = judged(layout("train", "test", "test", "train", labels=[1, None, 0, None]))
    assert parts(found) == ["train", "test", "train"]
    assert found.remarks == ("1 cases of validation or test have no label, so they are left out",)


@pytest.mark.parametrize("named", [("train", "train"), ("test", "validation"), ("train", "")])
def test_parts_that_are_no_split_are_forgotten(named):
    assert parts(judged(layout(*named))) == ["", ""]


@pytest.mark.parametrize(
    ("there", "lacking", "count"), [("test", "validation", 2), ("validation", "test", 4)]
)
def test_a_part_that_is_lacking_is_dealt_from_training_by_class(there, lacking, count):
    given = layout(*["train"] * 20, there, there)
    cases = [Case(row.case, row.image, row.label, row.case) for row in given.rows]
    found = dealt(given, cases)
    assert found.dealt == (lacking,)
    chosen = [row.label for row in found.rows if row.part == lacking]
    assert (len(chosen), sum(chosen)) == (count, count // 2)
    assert parts(found)[20:] == [there, there]


def test_cases_of_one_patient_stay_together():
    given = layout(*["train"] * 20, "test", labels=[1] * 21)
    cases = [Case(f"c{n}", Path("x"), 1, f"p{n // 2}") for n in range(21)]
    sides = {}
    for case, row in zip(cases, dealt(given, cases).rows, strict=True):
        sides.setdefault(case.patient, set()).add(row.part)
    assert {"validation"} in sides.values()
    assert all(len(side) == 1 for side in sides.values())
