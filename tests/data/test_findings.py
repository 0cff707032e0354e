from pathlib import Path

import pytest

from medkd.data.findings import Finding, Level, worst_first

FILE = Path("/data/DOE^JANE.nii.gz")
SERIES = Path("/data/DOE^JANE")


def key(kind, name):
    return f"{kind}#{len(name)}"


def test_a_line_tells_case_file_message_and_remedy():
    finding = Finding("c1", Level.ERROR, "is empty", "remove it", FILE)
    assert finding.line == f"case c1: {FILE}: is empty; remove it"
    assert Finding(None, Level.NOTE, "all is well").line == "all is well"


def test_what_may_leave_the_study_names_nobody():
    message = "case {cases[0]} of patient {patients[0]} is also in DOE^JANE.nii.gz"
    finding = Finding("MRN1", Level.ERROR, message, "", FILE, cases=("MRN22",), patients=("ann",))
    assert "MRN22 of patient ann" in finding.line
    shown = finding.anonymous(key)
    assert shown["case"] == "case#4"
    assert shown["message"] == "case case#5 of patient patient#3 is also in its file"
    assert not any(name in str(shown) for name in ("MRN", "ann", "DOE"))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"{SERIES}/DOE^JANE 7.dcm: cannot be decoded", "its file: cannot be decoded"),
        (
            "2 series: 1.2.840.7 (CT, 3 files), 1.2.840.8 (PT)",
            "2 series: a UID (CT, 3 files), a UID",
        ),
        ("voxels of 1.25 mm", "voxels of 1.25 mm"),
    ],
)
def test_files_of_a_series_and_uids_stay_in_the_study(message, shown):
    finding = Finding("c", Level.ERROR, message, "", SERIES)
    assert finding.anonymous(key)["message"].startswith(shown)


def test_braces_of_a_message_without_ids_are_left_alone():
    message = "data.labels declares {'organ': 1}"
    assert Finding("c1", Level.ERROR, message).text == message


def test_errors_come_first_and_the_order_is_kept():
    levels = [Level.NOTE, Level.ERROR, Level.WARNING, Level.ERROR]
    found = [Finding(str(n), level, "") for n, level in enumerate(levels)]
    assert [finding.case for finding in worst_first(found)] == ["1", "3", "2", "0"]
