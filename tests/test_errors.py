import pytest

from medkd import errors
from medkd.errors import DataError, MedkdError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]
CODES = [line.split() for line in errors.__doc__.splitlines() if " exit " in line]


@pytest.mark.parametrize("line", CODES, ids=lambda line: line[1])
def test_each_ends_the_process_as_documented(line):
    assert getattr(errors, line[1]).exit_code == int(line[-1])


def test_all_are_known_errors_and_documented():
    raised = {kind.__name__ for kind in KINDS if issubclass(kind, MedkdError)} - {"MedkdError"}
    assert raised == {line[1] for line in CODES}


def test_all_problems_of_a_pass_come_in_one_message():
    assert str(DataError.of(["only"])) == "only"
    assert str(DataError.of(["one", "other"])) == "2 problems in the data:\none\nother"
