import csv

import numpy as np
import pytest

from medkd.config import load
from medkd.data.quality.examine import Intensities
from medkd.data.quality.kinship import findings_of, kinships, proposed
from medkd.data.quality.survey import survey
from medkd.study import Study
from medkd.types import Split
from tests.test_configs import CONFIGS


def spread(median):
    middle = float(median)
    told = {"least": 0.0, "low": 0.1 * middle, "median": middle, "high": 2 * middle}
    return {"intensities": Intensities(**told, most=3 * middle, mean=middle, std=middle / 2)}


def scanned(medians):
    return {number: spread(median) for number, median in enumerate(medians)}


def of_patients(rng, counts):
    """Medians of cases in a row, ``counts`` of each patient, each patient on a scale of its own."""
    scales = np.exp(rng.normal(scale=1.5, size=len(counts)))
    noise = rng.uniform(0.97, 1.03, size=sum(counts))
    return np.repeat(scales, counts) * noise


def test_pairs_by_number_are_found_and_how_it_is_known_is_said(cohort):
    medians = of_patients(np.random.default_rng(0), [2] * 20)
    cases, examined = cohort(40, changes=scanned(medians), names="case_{:03d}")
    (kin,) = kinships(cases, examined)
    assert kin.groups == tuple((f"case_{n:03d}", f"case_{n + 1:03d}") for n in range(0, 40, 2))
    assert "cases 2k and 2k+1 differ by" in kin.evidence
    assert "999 random pairings" in kin.evidence
    (finding,) = findings_of([kin], None)
    assert "40 cases seem to be of 20 patients" in finding.text


@pytest.mark.parametrize("seed", range(5))
def test_numbers_without_kinship_are_left_alone(cohort, seed):
    medians = of_patients(np.random.default_rng(seed), [1] * 60)
    assert list(kinships(*cohort(60, changes=scanned(medians), names="case_{:03d}"))) == []


def test_a_drift_of_the_scanner_is_no_kinship(cohort):
    medians = np.exp(np.linspace(0, 3, 60))
    assert list(kinships(*cohort(60, changes=scanned(medians), names="case_{:03d}"))) == []


def test_what_the_datalist_tells_is_not_suspected(cohort):
    medians = of_patients(np.random.default_rng(0), [2] * 20)
    patients = [f"p{n // 2}" for n in range(40)]
    made = cohort(40, changes=scanned(medians), names="case_{:03d}", patients=patients)
    assert list(kinships(*made)) == []


NAMES = {
    "side": ["a1_left", "a1_right", "b2_left", "b2_right", "c3_left"],
    "visit": ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_ses-1_T1w", "sub-02_ses-2_T1w"],
    "slice or frame": ["pat7_slice01", "pat7_slice02", "pat8_slice01", "pat8_slice02"],
    "last number": ["101_1", "101_2", "102_1", "102_2"],
}


@pytest.mark.parametrize("kind", list(NAMES))
def test_names_that_differ_in_one_part_alone_are_of_one_patient(cohort, kind):
    cases, examined = cohort(len(NAMES[kind]))
    renamed = dict(zip(NAMES[kind], cases.values(), strict=True))
    (kin,) = kinships(renamed, dict(zip(NAMES[kind], examined.values(), strict=True)))
    assert kin.evidence == f"their names differ in the {kind} alone"
    assert [len(group) for group in kin.groups] == [2, 2]


def test_what_the_split_parts_is_counted(cohort):
    cases, examined = cohort(4)
    names = ["a1_left", "a1_right", "b2_left", "b2_right"]
    kin = list(kinships(dict(zip(names, cases.values(), strict=True)), examined))
    split = Split(train=("a1_left", "b2_left", "b2_right"), validation=("a1_right",), test=())
    assert "The split parts 1 of these patients" in next(findings_of(kin, split)).text


def test_kin_by_several_signs_become_one_patient(cohort):
    cases, examined = cohort(4)
    names = ["a1_left_t1", "a1_right_t1", "a1_left_t2", "b2_left_t1"]
    found = list(kinships(dict(zip(names, cases.values(), strict=True)), examined))
    patients = proposed([*names, "stranger"], found)
    assert patients["stranger"] == "stranger"


@pytest.mark.data
def test_the_hidden_pairs_of_hippocampus_are_those_that_its_source_tells(data_root, tmp_path):
    path = next(path for path in CONFIGS if path.stem == "hippocampus")
    hiding = ["data.table=null", "data.patient=case", f"study.root={tmp_path}"]
    (kin,) = survey(Study(load(path, overrides=hiding), config_path=path)).kinships
    with (data_root / "hippocampus/cases.csv").open() as file:
        told = {row["case"]: row["inferred_subject"] for row in csv.DictReader(file)}
    pairs = {frozenset(group) for group in kin.groups}
    true = {}
    for case, subject in told.items():
        true.setdefault(subject, set()).add(case)
    assert pairs == {frozenset(cases) for cases in true.values() if len(cases) == 2}
    assert len(pairs) == 73


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["hippocampus", "nuclei", pytest.param("pneumonia", marks=pytest.mark.slow)]
)
def test_data_whose_patients_are_told_raise_no_suspicion(name, tmp_path, data_root):
    path = next(path for path in CONFIGS if path.stem == name)
    found = survey(Study(load(path, overrides=[f"study.root={tmp_path}"]), config_path=path))
    assert found.kinships == ()
    assert not found.errors
