from dataclasses import replace
from pathlib import Path

from medkd.data.start.layout import Row


def test_a_case_keeps_all_it_is_under_another_id():
    row = Row("a", Path("a.nii"), 1, "p", "train", {"age": "70"}, (Path("b.nii"),))
    assert row.called("b") == replace(row, case="b")
    assert (row.case, row.called("b").case) == ("a", "b")
