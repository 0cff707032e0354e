from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from medkd.data.findings import Finding, Level, worst_first

FILE = Path("/data/DOE^JANE.nii.gz")


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


def test_an_error_is_taken_apart_into_file_case_message_and_remedy():
    said = f"{FILE}: case MRN1: holds 'a; b: c'; name it as the file does"
    finding = Finding.of(said, case="MRN1", files=[FILE], private=("'a; b: c'",))
    assert (finding.case, finding.file) == ("MRN1", FILE)
    assert (finding.message, finding.remedy) == ("holds 'a; b: c'", "name it as the file does")
    assert finding.line == f"case MRN1: {FILE}: holds 'a; b: c'; name it as the file does"
    assert finding.anonymous(key)["message"] == "holds …"
    alone = Finding.of("no case has a label")
    assert (alone.case, alone.file, alone.line) == (None, None, "no case has a label")


def test_an_error_names_the_very_file_of_a_series():
    series, file = Path("/data/Doe; Jane"), Path("/data/Doe; Jane/Doe: Jane; 1.dcm")
    finding = Finding.of(f"{file}: is cut; copy it again", files=[series, file])
    assert (finding.file, finding.message) == (file, "is cut")
    assert Finding.of("is cut", files=[series, file]).file == series


@given(st.text(st.sampled_from("ab'\\ ;:/^{}é"), min_size=1), st.booleans())
def test_what_is_private_stays_wherever_it_stands(text, is_last):
    text = f"x{text}x"
    said = f"1 of {text!r}" + ("" if is_last else f", 2 of ({text}); 3 of {text}")
    shown = Finding.of(said, private=(text, repr(text))).anonymous(key)
    told = f"{shown['message']}; {shown['remedy']}" if shown["remedy"] else shown["message"]
    assert told == "1 of …" + ("" if is_last else ", 2 of (…); 3 of …")


def test_uids_stay_and_numbers_do_not():
    message = "2 series: 1.2.840.7 (CT, 3 files), 1.2.840.8 (PT) of 1.25 mm"
    shown = Finding("c", Level.ERROR, message).anonymous(key)["message"]
    assert shown == "2 series: a UID (CT, 3 files), a UID (PT) of 1.25 mm"


def test_braces_of_a_message_without_ids_are_left_alone():
    message = "data.labels declares {'organ': 1}"
    assert Finding("c1", Level.ERROR, message).text == message


def test_errors_come_first_and_the_order_is_kept():
    levels = [Level.NOTE, Level.ERROR, Level.WARNING, Level.ERROR]
    found = [Finding(str(n), level, "") for n, level in enumerate(levels)]
    assert [finding.case for finding in worst_first(found)] == ["1", "3", "2", "0"]
