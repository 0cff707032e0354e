from dataclasses import replace

import pytest

from medkd.data.quality.balance import balance, unbalanced
from medkd.types import Split, Task


@pytest.fixture
def made(cohort):
    """Sixty cases; the first twenty are tested."""
    cases, examined = cohort(60)
    ids = list(cases)
    return (
        cases,
        examined,
        Split(train=tuple(ids[30:]), validation=tuple(ids[20:30]), test=tuple(ids[:20])),
    )


def with_column(cases, name, value):
    return {
        case_id: replace(case, attributes={name: value(number)})
        for number, (case_id, case) in enumerate(cases.items())
    }


def found(made, config, **column):
    cases, examined, split = made
    for name, value in column.items():
        cases = with_column(cases, name, value)
    rows = balance(cases, examined, split, config)
    return rows, [finding.message for finding in unbalanced(rows)]


def test_structures_and_attributes_are_counted_by_part(made, config):
    rows, _ = found(made, config, site=lambda n: "north" if n % 2 else "south")
    assert [row.what for row in rows] == ["organ", "lesion", "site: north", "site: south"]
    assert rows[2].counts == {"train": 15, "validation": 5, "test": 10}
    assert rows[2].of == {"train": 30, "validation": 10, "test": 20}


def test_a_site_that_train_lacks_is_named(made, config):
    _, said = found(made, config, site=lambda n: "north" if n < 5 else "south")
    assert "site: north: in test, but in no training case" in said


def test_a_shift_beyond_chance_is_named_and_chance_is_not(made, config):
    _, said = found(made, config, sex=lambda n: "f" if n < 18 or n == 40 else "m")
    assert [text.split(":")[0] for text in said] == ["sex", "sex"]
    assert "90% of test" in said[0]
    assert found(made, config, sex=lambda n: "f" if n % 3 else "m")[1] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("column", lambda n: f"n{n}"),
        ("column", lambda n: "1956-03-04" if n % 2 else "1957-03-04"),
        ("column", lambda _: "x"),
        ("column", lambda n: "DOE^JANE" if n % 2 else "none"),
        ("surname", lambda n: "Doe" if n % 2 else "Roe"),
        ("patient_id", lambda n: f"A{n % 5}"),
        ("referring_physician", lambda n: "Roe" if n % 2 else "Poe"),
    ],
)
def test_constants_and_what_speaks_of_persons_are_no_groups(made, config, name, value):
    rows, said = found(made, config, **{name: value})
    assert [row.what for row in rows] == ["organ", "lesion"]
    assert said == []


def test_a_column_of_values_that_are_each_of_one_patient_is_no_group(made, config):
    cases, examined, split = made
    of_four = {i: replace(case, patient=f"p{n % 4}") for n, (i, case) in enumerate(cases.items())}
    for value, is_shown in ((lambda n: f"v{n % 4}", False), (lambda n: f"v{n % 2}", True)):
        rows = balance(with_column(of_four, "alias", value), examined, split, config)
        assert any("alias" in row.what for row in rows) is is_shown


def test_a_structure_is_counted_among_the_labels_that_cover_it(made, config):
    cases, examined, split = made
    cases = cases | {i: replace(cases[i], annotated=("organ",)) for i in split.test[:5]}
    organ, lesion = balance(cases, examined, split, config)
    assert organ.of == {"train": 30, "validation": 10, "test": 20}
    assert lesion.of == {"train": 30, "validation": 10, "test": 15}


def test_findings_are_counted_where_they_were_judged_and_images_without_any(made, config):
    cases, examined, split = made
    labels = [("organ",), (), ("organ", "lesion")]
    cases = {i: replace(case, label=labels[n % 3]) for n, (i, case) in enumerate(cases.items())}
    cases |= {i: replace(cases[i], annotated=("organ",)) for i in split.test[:5]}
    data = config.data.model_copy(update={"overlapping": True})
    config = config.model_copy(update={"task": Task.CLASSIFICATION, "data": data})
    organ, lesion, without = balance(cases, examined, split, config)
    assert (organ.what, lesion.what, without.what) == ("organ", "lesion", "no finding")
    assert organ.of == {"train": 30, "validation": 10, "test": 20}
    assert organ.counts["train"] == 20
    assert lesion.of["test"] == without.of["test"] == 15
    assert without.counts["train"] == 10
