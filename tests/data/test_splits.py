import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.data.findings import Level
from medkd.data.splits import (
    given_parts,
    labels_kept,
    problems_of_given,
    split_cases,
    split_folds,
    strata_of,
)
from medkd.errors import DataError
from medkd.options import SplitOptions
from medkd.types import Case

HALF = SplitOptions(validation=0.25, test=0.25)
GIVEN = SplitOptions(column="part")


def case(number, patient, *, label=None, **attributes):
    return Case(
        id=f"c{number}",
        image=Path(f"c{number}.nii"),
        label=Path("label.nii") if label is None else label,
        patient=str(patient),
        attributes=attributes,
    )


@st.composite
def patients_drawn(draw):
    """The patient of each case: between 8 and 30 with 1 to 5 cases each, in any order."""
    counts = draw(st.lists(st.integers(1, 5), min_size=8, max_size=30))
    patients = [patient for patient, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(patients))


def cases_of(patients):
    return [case(number, patient) for number, patient in enumerate(patients)]


def patients_of(cases, ids):
    return {case.patient for case in cases if case.id in set(ids)}


@given(patients_drawn(), st.integers(0, 99))
def test_no_patient_is_on_two_sides_and_no_case_is_lost(patients, seed):
    cases = cases_of(patients)
    split = split_cases(cases, HALF.model_copy(update={"seed": seed}))
    sides = [patients_of(cases, part) for part in vars(split).values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len({c.patient for c in cases})
    assert sorted([*split.train, *split.validation, *split.test]) == sorted(c.id for c in cases)


@given(patients_drawn(), st.randoms())
def test_the_order_of_the_cases_does_not_matter(patients, random):
    cases = cases_of(patients)
    shuffled = random.sample(cases, len(cases))
    one, other = vars(split_cases(cases, HALF)), vars(split_cases(shuffled, HALF))
    assert {part: set(ids) for part, ids in one.items()} == {p: set(i) for p, i in other.items()}


@given(patients_drawn())
def test_each_part_has_its_share_of_the_patients(patients):
    cases = cases_of(patients)
    split, patients = split_cases(cases, HALF), len({case.patient for case in cases})
    for part in (split.validation, split.test):
        assert abs(len(patients_of(cases, part)) - patients / 4) <= 0.5


UNLABELLED = Case("u", Path("u.nii"), None, patient="0")


def test_a_patient_with_an_unlabelled_case_is_for_training():
    cases = [case(n, n) for n in range(12)]
    for patient in range(12):
        unlabelled = replace(UNLABELLED, patient=str(patient))
        split = split_cases([*cases, unlabelled], HALF)
        assert {"u", f"c{patient}"} <= set(split.train)
        assert split.validation
        assert split.test


def test_an_unlabelled_case_in_a_given_test_split_is_named():
    held = replace(UNLABELLED, patient="9", attributes={"part": "test"})
    (problem,) = problems_of_given([case(1, 1, part="train"), held], GIVEN)
    assert problem.line == "case u: has no label and is in test; add the label or move it to train"


@pytest.mark.parametrize("rare", [3, 4])
def test_a_rare_class_has_a_patient_in_every_part(rare):
    cases = [case(n, n, label=int(n < rare)) for n in range(60)]
    split = split_cases(cases, SplitOptions(validation=0.1, test=0.2))
    for part in vars(split).values():
        assert any(c.label == 1 for c in cases if c.id in part)


@pytest.mark.parametrize(
    ("sizes", "test", "validation", "dealt"),
    [
        ([3], 0.5, 0.2, (1, 1, 1)),
        ([56, 4], 0.4, 0.4, (12, 24, 24)),
        ([3] * 20, 0.5, 0.1, (24, 6, 30)),
        ([3] * 20, 0.6, 0.2, (12, 12, 36)),
        ([4] * 20, 0.4, 0.4, (20, 28, 32)),  # training has one of each
        ([5] * 20, 0.5, 0.3, (20, 30, 50)),
        ([46, 39, 25], 0.05, 0.1, (93, 11, 6)),
    ],
)
def test_what_one_stratum_cannot_give_the_next_gives(sizes, test, validation, dealt):
    labels = [number for number, size in enumerate(sizes) for _ in range(size)]
    cases = [case(n, n, label=label) for n, label in enumerate(labels)]
    parts = vars(split_cases(cases, SplitOptions(test=test, validation=validation)))
    assert tuple(len(parts[part]) for part in ("train", "validation", "test")) == dealt


@pytest.mark.parametrize("size", [6, 8])
def test_what_is_left_for_training_is_the_same_of_like_strata(size):
    cases = [case(n, n, label=n // size) for n in range(20 * size)]
    labels = {case.id: case.label for case in cases}
    assert set(Counter(labels[i] for i in split_cases(cases, HALF).train).values()) == {size // 2}


@given(st.lists(st.integers(3, 60), min_size=1, max_size=20), st.sampled_from([0.1, 0.15, 0.25]))
def test_no_stratum_gives_two_more_or_less_than_its_due(sizes, share):
    labels = [number for number, size in enumerate(sizes) for _ in range(size)]
    cases = [case(n, n, label=label) for n, label in enumerate(labels)]
    parts = vars(split_cases(cases, SplitOptions(test=share, validation=share)))
    for part in ("test", "validation"):
        given = Counter(case.label for case in cases if case.id in set(parts[part]))
        for number, size in enumerate(sizes):
            assert -2 < given[number] - share * size < 2


@pytest.mark.parametrize("options", [HALF, SplitOptions(validation=0.1, test=0.2)])
@pytest.mark.parametrize("of_each", [3, 4, 7, 10])
def test_many_small_strata_leave_each_class_its_share(options, of_each):
    """Two classes at ten sites: what a stratum is too small to give, its neighbours give."""
    strata = [(label, site) for label in (0, 1) for site in range(10) for _ in range(of_each)]
    cases = [case(n, n, label=label, site=str(site)) for n, (label, site) in enumerate(strata)]
    split = split_cases(cases, options, strata=strata_of(cases, by=["site"]))
    shares = {"test": options.test, "validation": options.validation}
    for part, share in (shares | {"train": 1 - sum(shares.values())}).items():
        ids = set(vars(split)[part])
        of_class = Counter(case.label for case in cases if case.id in ids)
        assert abs(of_class[0] - of_class[1]) <= (2 if part == "train" else 1), part
        assert abs(of_class[0] / (share * 10 * of_each) - 1) <= 0.5, part


def test_another_seed_gives_another_split():
    cases = [case(number, number) for number in range(40)]
    tests = {split_cases(cases, HALF.model_copy(update={"seed": s})).test for s in range(5)}
    assert len(tests) == 5


def test_each_class_has_its_share_of_each_part():
    cases = [case(number, number // 2, label=int(number % 80 < 16)) for number in range(160)]
    split = split_cases(cases, HALF)
    ill = {case.id for case in cases if case.label}
    for part, share in ((split.train, 0.5), (split.validation, 0.25), (split.test, 0.25)):
        assert len(ill & set(part)) == share * len(ill)


@given(patients_drawn(), st.integers(1, 8), st.integers(0, 99))
def test_folds_are_disjoint_complete_and_even(patients, folds, seed):
    cases = cases_of(patients)
    parts = split_folds(cases, folds=folds, seed=seed)
    sides = [{case.patient for case in part} for part in parts]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert sorted(c.id for part in parts for c in part) == sorted(c.id for c in cases)
    assert max(map(len, sides)) - min(map(len, sides)) <= 1


def test_more_folds_than_patients_are_refused():
    with pytest.raises(DataError, match=r"teacher\.folds is 3, .* 2 patients"):
        split_folds([case(number, number % 2) for number in range(9)], folds=3, seed=0)


def test_an_empty_part_is_refused():
    cases = [case(number, 0) for number in range(9)]
    with pytest.raises(DataError, match=r"validation split is empty \(1 patients\); add cases"):
        split_cases(cases, HALF)


def test_a_split_of_your_own_is_kept():
    said = ["train", "val", "Validation", "TEST", "train"]
    cases = [case(number, number, part=part) for number, part in enumerate(said)]
    split = split_cases(cases, GIVEN)
    assert vars(split) == {"train": ("c0", "c4"), "validation": ("c1", "c2"), "test": ("c3",)}
    assert problems_of_given(cases, GIVEN) == []
    assert problems_of_given(cases, HALF) == []


def test_a_patient_on_two_sides_of_your_split_is_named_with_the_remedy():
    cases = [case(0, "ann", part="train"), case(1, "bob", part="val"), case(2, "ann", part="test")]
    (problem,) = problems_of_given(cases, GIVEN)
    assert problem.line == (
        "case c2: patient ann is in test, and with case c0 in train; "
        "move all cases of a patient to one side"
    )


def test_a_column_that_is_not_there_is_named_once_with_those_that_are():
    cases = [case(number, number, site="north", sex="f") for number in range(9)]
    (problem,) = problems_of_given(cases, GIVEN)
    assert problem.line.startswith(
        "data.split.column: no column 'part' (has site, sex beside case,"
    )


@pytest.mark.parametrize("attributes", [{"part": ""}, {"part": "holdout"}])
def test_a_part_that_is_none_is_named(attributes):
    (problem,) = problems_of_given([case(0, 0, **attributes)], GIVEN)
    assert problem.line.startswith("case c0: column 'part' says")
    assert problem.line.endswith("it may say train, validation or test")


class TestLabelsKept:
    CASES = tuple(
        Case(f"c{n}", Path(f"c{n}.png"), Path(f"c{n}-label.png"), f"p{n // 2}") for n in range(12)
    )

    def test_so_many_keep_theirs_patient_after_patient(self):
        kept = labels_kept(self.CASES, labelled=5, seed=0)
        assert len(kept) == 5
        assert len({case.patient for case in self.CASES if case.id in kept}) == 3

    def test_more_labels_hold_the_fewer_and_another_seed_draws_others(self):
        few, more = (labels_kept(self.CASES, labelled=n, seed=0) for n in (4, 8))
        assert few < more
        draws = {frozenset(labels_kept(self.CASES, labelled=4, seed=seed)) for seed in range(9)}
        assert len(draws) > 1

    def test_more_than_there_are_is_refused(self):
        with pytest.raises(DataError, match=r"labelled is 13, but 12 training cases have a label"):
            labels_kept(self.CASES, labelled=13, seed=0)


class TestStrata:
    def test_a_rare_structure_has_its_share_of_every_part_and_fold(self):
        cases = [case(n, n) for n in range(60)]
        volumes = {f"c{n}": {"organ": 2.0} | ({"lesion": 1.0} if n < 12 else {}) for n in range(60)}
        strata = strata_of(cases, volumes_ml=volumes)
        split = split_cases(cases, HALF, strata=strata)
        ill = {f"c{n}" for n in range(12)}
        assert [len(ill & set(part)) for part in vars(split).values()] == [6, 3, 3]
        folds = split_folds(cases, folds=4, seed=0, strata=strata)
        assert [len(ill & {c.id for c in fold}) for fold in folds] == [3] * 4

    def test_what_all_hold_makes_one_stratum(self):
        cases = [case(n, n) for n in range(9)]
        strata = strata_of(cases, volumes_ml={f"c{n}": {"organ": 2.0} for n in range(9)})
        assert set(strata.values()) == {""}
        assert split_cases(cases, HALF, strata=strata) == split_cases(cases, HALF)

    def test_attributes_and_thirds_of_numbers_are_balanced(self):
        cases = [case(n, n, site="n" if n % 4 else "s", age=str(n)) for n in range(80)]
        split = split_cases(cases, HALF, strata=strata_of(cases, by=("site", "age")))
        of = {c.id: c.attributes for c in cases}
        assert abs(sum(of[i]["site"] == "s" for i in split.test) - 5) <= 1
        assert abs(sum(float(of[i]["age"]) for i in split.test) / len(split.test) - 39.5) < 8

    @pytest.mark.parametrize("per_site", [3, 4, 5, 7])
    def test_strata_of_a_few_patients_keep_the_shares(self, per_site):
        cases = [case(n, n, site=f"s{n // per_site}") for n in range(20 * per_site)]
        options, strata = SplitOptions(validation=0.15, test=0.2), strata_of(cases, by=("site",))
        split = split_cases(cases, options, strata=strata)
        assert len(set(strata.values())) == 20
        for part, share in ((split.test, 0.2), (split.validation, 0.15)):
            due = share * len(cases)
            of_each = len(strata) / per_site  # one of each site, if that is not too many
            assert len(part) == pytest.approx(
                of_each if due < of_each <= 1.5 * due else due, abs=0.51
            )
            by_site = Counter(strata[i.removeprefix("c")] for i in part)
            assert max(by_site.values()) <= share * per_site + 1

    @pytest.mark.parametrize(
        "sizes",
        [(25, 3, 3), (100, *[3] * 6), (200, 8, 6, 5), (60, *[5] * 4), (3, 3), (10, 3, 3, 3)],
    )
    def test_each_of_several_rare_classes_is_in_every_part(self, sizes):
        numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
        cases = [case(n, n, label=number) for n, number in enumerate(numbers)]
        options = SplitOptions(validation=0.15, test=0.2)
        split = split_cases(cases, options, strata=strata_of(cases))
        of = {c.id: c.label for c in cases}
        for part in vars(split).values():
            assert {of[i] for i in part} == set(range(len(sizes)))

    @given(patients_drawn(), st.integers(0, 9))
    def test_strata_of_one_patient_lose_nobody_and_keep_the_shares(self, patients, seed):
        cases = cases_of(patients)
        strata = {c.patient: c.patient for c in cases}
        split = split_cases(cases, HALF.model_copy(update={"seed": seed}), strata=strata)
        assert sorted(i for part in vars(split).values() for i in part) == sorted(strata_ids(cases))
        patients = len(strata)
        for part in (split.validation, split.test):
            assert abs(len(patients_of(cases, part)) - patients / 4) <= 1.5


def strata_ids(cases):
    return [c.id for c in cases]


CONTENT = {"train": ["c0", "c1"], "validation": ["c2", "c3"], "test": ["c4", "c5"]}


class TestFile:
    CASES = tuple(case(n, n) for n in range(6))
    FROM_FILE = SplitOptions(file="split.json")

    def test_another_study_s_split_is_kept(self, tmp_path):
        (tmp_path / "split.json").write_text(json.dumps(CONTENT))
        given = given_parts(self.CASES, self.FROM_FILE, root=tmp_path)
        assert problems_of_given(self.CASES, self.FROM_FILE, given) == []
        split = split_cases(self.CASES, self.FROM_FILE, given=given)
        assert {part: list(ids) for part, ids in vars(split).items()} == CONTENT

    def test_cases_that_it_lacks_or_has_too_many_are_named(self, tmp_path):
        content = CONTENT | {"test": ["c4", "stranger"]}
        (tmp_path / "split.json").write_text(json.dumps(content))
        given = given_parts(self.CASES, self.FROM_FILE, root=tmp_path)
        lines = [f.line for f in problems_of_given(self.CASES, self.FROM_FILE, given)]
        assert lines[0].startswith("case c5: is in no part")
        assert "names 1 cases that the datalist lacks: stranger" in lines[1]

    def test_a_case_in_two_parts_is_named_with_both(self, tmp_path):
        content = CONTENT | {"test": ["c4", "c5", "c1"]}
        (tmp_path / "split.json").write_text(json.dumps(content))
        given = given_parts(self.CASES, self.FROM_FILE, root=tmp_path)
        (problem,) = problems_of_given(self.CASES, self.FROM_FILE, given)
        assert (problem.level, problem.case) == (Level.ERROR, "c1")
        assert problem.message == "is in train and test"

    @pytest.mark.parametrize(
        "text",
        ["", "[]", '{"train": []}', '{"train": 1}', json.dumps(CONTENT | {"digests": None})],
    )
    def test_what_is_no_split_is_refused(self, tmp_path, text):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match=r"split\.json"):
            given_parts(self.CASES, self.FROM_FILE, root=tmp_path)


def test_every_part_gets_its_share_of_labels_that_cover_the_same():
    cases = [
        replace(case(n, n), annotated=("organ",) if n < 12 else ("lesion",)) for n in range(24)
    ]
    strata = strata_of(cases)
    assert len(set(strata.values())) == 2
    split = split_cases(cases, HALF, strata=strata)
    for part, share in (("train", 6), ("validation", 3), ("test", 3)):
        ids = set(getattr(split, part))
        assert sum(c.annotated == ("organ",) for c in cases if c.id in ids) == share


def test_the_volume_of_what_a_label_does_not_cover_is_not_known():
    cases = [case(n, n) for n in range(30)]
    cases[0] = replace(cases[0], annotated=("organ",))
    volumes = {c.id: {"organ": 1.0, "lesion": float(n)} for n, c in enumerate(cases) if n}
    strata = strata_of(cases, by=("volume_ml/lesion",), volumes_ml=volumes | {"c0": {"organ": 1.0}})
    assert strata["0"].endswith("/")
    assert [strata[str(n)][-1] for n in (1, 15, 29)] == ["0", "1", "2"]


def test_a_rare_finding_has_its_share_of_every_part():
    def found(n):
        return tuple(f for f, rare in (("nodule", 3), ("effusion", 10)) if n % rare == 0)

    cases = [case(n, n, label=found(n)) for n in range(120)]
    split = split_cases(cases, HALF)
    ill = {c.id for c in cases if "effusion" in c.label}
    assert [len(ill & set(part)) for part in vars(split).values()] == [6, 3, 3]
    assert split == split_cases(cases, HALF, strata=strata_of(cases))


def test_a_patient_whose_later_visit_is_positive_is_a_positive_one():
    visits = [(n, visit) for n in range(60) for visit in (0, 1)]
    cases = [case(f"{n:03d}-{v}", n, label=int(v and n < 12)) for n, v in visits]
    assert {strata_of(cases)[str(n)] for n in range(12)} == {"0+1"}
    split = split_cases(cases, HALF)
    ill = {c.id for c in cases if c.label == 1}
    assert [len(ill & set(part)) for part in vars(split).values()] == [6, 3, 3]
