import json

import pytest

from medkd.device.former import is_answer, refuse_to_replace
from medkd.errors import DataError

RECORD = {"image": "a", "release": {}, "guard": None}
ANSWERS = {
    "r.json": json.dumps(RECORD),
    "t.json": json.dumps([RECORD]),
    "summary.json": json.dumps({"answered": {}, "unlike": {}, "failed": {}}),
    "t.csv": "image,dark,bright,prediction\n",
}
OTHERS = {
    "bids.json": '{"RepetitionTime": 2}',
    "list.json": "[]",
    "number.json": "7",
    "deep.json": "[" * 100_000,
    "cases.csv": "case,label\n",
    "scan.json": "\0\udcff",
    "gone.json": None,
}


@pytest.mark.parametrize("name", [*ANSWERS, *OTHERS])
def test_answers_are_told_from_other_files(tmp_path, name):
    text = (ANSWERS | OTHERS)[name]
    if text is not None:
        (tmp_path / name).write_text(text, errors="surrogateescape")
    assert is_answer(tmp_path / name) is (name in ANSWERS)


def test_only_an_answer_is_replaced(tmp_path):
    mask, record = tmp_path / "m.nii.gz", tmp_path / "m.json"
    refuse_to_replace([mask, record], record=record)
    mask.touch()
    with pytest.raises(DataError, match=r"m\.nii\.gz exists, .* remove it, or choose another"):
        refuse_to_replace([mask, record], record=record)
    record.write_text(json.dumps(RECORD))
    refuse_to_replace([mask, record], record=record)
    mask.unlink()
    record.write_text("{}")
    with pytest.raises(DataError, match=r"m\.json exists"):
        refuse_to_replace([mask, record], record=record)
