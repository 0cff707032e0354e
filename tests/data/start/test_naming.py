import pytest

from medkd.data.start.naming import names_of, tells


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("DOE^JANE", "a name"),
        ("GTV 2019-03-04", "a date"),
        ("GTV 3.4.19", "a date"),
        ("boost_2019-03", "a date"),
        ("tumour 1234567", "a number of six digits or more"),
        ("Left Lung", None),
        ("vertebra_1-2", None),
        ("T1_2_3", None),
    ],
)
def test_a_name_that_tells_of_a_patient_is_known_by_what_it_holds(text, held):
    assert tells(text) == held


def test_names_are_distinct_and_what_tells_of_a_patient_is_repeated_nowhere():
    names, remarks = names_of(["Class A", "class_a", "DOE^JANE", "b"], kind="class")
    assert names == ["class_a", "class_a_2", "class_3", "b"]
    assert remarks == (
        "class_a_2 is what the data set calls 'class_a'; class_a is another",
        "TODO: name class_3: what the data set calls it looks as if it held a name",
    )
