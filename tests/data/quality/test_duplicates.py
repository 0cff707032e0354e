from dataclasses import replace

import numpy as np
import pytest

from medkd.data.findings import Level
from medkd.data.quality.duplicates import duplicates
from medkd.types import Split

NOISE = np.random.default_rng(0).integers(0, 256, (9, 32), dtype=np.uint8)
SPLIT = Split(train=("c000", "c001", "c002", "c003"), validation=("c004",), test=("c005",))


def nearly(row):
    other = row.copy()
    other[:3] ^= 0b11
    return other.tobytes().hex()


def found(cases, examined, split=SPLIT):
    return [(finding.level, finding.text) for finding in duplicates(cases, examined, split)]


@pytest.mark.parametrize(
    ("pair", "patients", "level"),
    [
        ((1, 5), "abcdef", Level.ERROR),  # two sides
        ((1, 5), "abcdeb", Level.ERROR),  # two sides, though of one patient
        ((1, 2), "abcdef", Level.WARNING),
        ((1, 2), "abbdef", Level.NOTE),
    ],
)
def test_the_same_pixels_are_judged_by_side_and_patient(cohort, pair, patients, level):
    cases, examined = cohort(6, changes={key: {"pixels": "x"} for key in pair}, patients=patients)
    first, other = (f"c{number:03d}" for number in pair)
    ((found_level, text),) = found(cases, examined)
    assert found_level is level
    assert text.startswith(f"case {other} (")
    assert f"has the same image as case {first} (train)" in text


def test_nearly_the_same_image_is_a_warning_even_on_two_sides(cohort):
    changes = {1: {"perceptual": NOISE[0].tobytes().hex()}, 5: {"perceptual": nearly(NOISE[0])}}
    cases, examined = cohort(6, changes=changes)
    assert found(cases, examined) == [
        (Level.WARNING, "case c005 (test) has nearly the same image as case c001 (train)")
    ]
    assert found(*cohort(6, changes=changes, patients="abcdeb")) == []


def test_many_that_are_nearly_the_same_are_one_finding(cohort):
    changes = {n: {"perceptual": NOISE[0].tobytes().hex()} for n in range(20)}
    ids = tuple(f"c{n:03d}" for n in range(20))
    cases, examined = cohort(20, changes=changes)
    (finding,) = duplicates(cases, examined, Split(ids[:18], ids[18:19], ids[19:]))
    assert (finding.level, set(finding.cases)) == (Level.WARNING, set(ids))
    assert finding.text.startswith("case c001 (train), case c002 (train), ")
    assert finding.text.endswith(", 11 others have nearly the same image as case c000 (train)")


def test_the_same_image_with_another_class_is_said(cohort):
    cases, examined = cohort(6, changes={key: {"pixels": "x"} for key in (1, 2)})
    cases = {name: replace(case, label=int(name == "c002")) for name, case in cases.items()}
    assert "and another class" in found(cases, examined)[0][1]


def test_different_images_are_not_duplicates(cohort):
    changes = {n: {"perceptual": NOISE[n].tobytes().hex()} for n in range(6)}
    assert found(*cohort(6, changes=changes), None) == []


def test_the_same_image_with_other_findings_is_said(cohort):
    cases, examined = cohort(6, changes={key: {"pixels": "x"} for key in (1, 2)})
    labels = {"c002": ("nodule",)}
    cases = {name: replace(case, label=labels.get(name, ())) for name, case in cases.items()}
    assert "and other findings" in found(cases, examined)[0][1]
