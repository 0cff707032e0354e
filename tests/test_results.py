import math

import pytest

from medkd.errors import StudyError
from medkd.results import (
    EXIT_CODES,
    GateResult,
    Interval,
    Part,
    Report,
    Verdict,
    accuracy_class,
    read_report,
    verdict,
)
from medkd.types import Task


@pytest.fixture
def report():
    return Report(
        study="tiny",
        study_key="study-1",
        task=Task.CLASSIFICATION,
        classes=("well", "ill"),
        verdict=Verdict.INCOMPLETE,
        reasons=("the config names no gates",),
        roles={},
        comparisons=(),
        gates=(),
        split={"test": Part(cases=2, patients=1, digest="d")},
        leakage={"patients": 0},
        test_openings=1,
        overlays=(),
        config={"study": {"name": "tiny"}},
        card=None,
        environment={},
        digests={},
        notes=(),
    )


def test_a_report_comes_back_as_it_was_written(tmp_path, report):
    (tmp_path / "report.json").write_text(report.model_dump_json())
    assert read_report(tmp_path / "report.json") == report


def test_figures_that_are_undefined_come_back_as_such():
    figure = Interval(value=math.nan, cases=3, patients=2)
    back = Interval.model_validate_json(figure.model_dump_json())
    assert math.isnan(back.value)
    assert back.low is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"study": 3}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(StudyError, match="not a report of this version"):
        read_report(tmp_path / "report.json")


def test_a_key_of_another_version_is_refused(tmp_path, report):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json().replace('"notes"', '"remarks"'))
    with pytest.raises(StudyError, match="remarks"):
        read_report(path)


def test_a_report_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"report\.json: not written yet; run the study to its"):
        read_report(tmp_path / "report.json")


def test_every_verdict_has_an_exit_code_and_only_ready_is_0():
    assert set(EXIT_CODES) == set(Verdict)
    assert [verdict for verdict, code in EXIT_CODES.items() if code == 0] == [Verdict.READY]


def test_no_verdict_claims_safety():
    assert not any(word in v.lower() for v in Verdict for word in ("safe", "approved", "cleared"))


PASSED = GateResult(gate="a", judged=0.9, passed=True)
FAILED = GateResult(gate="b", judged=0.123456, passed=False)
UNJUDGED = GateResult(gate="c", judged=None, passed=None, reason="c was not measured")


@pytest.mark.parametrize(
    ("gates", "said", "reasons"),
    [
        ([PASSED], Verdict.READY, ("the one gate passed",)),
        ([PASSED, PASSED], Verdict.READY, ("all 2 gates passed",)),
        ([PASSED, FAILED], Verdict.NOT_READY, ("failed: b (judged by 0.1235)",)),
        ([PASSED, UNJUDGED], Verdict.INCOMPLETE, ("not judged: c (c was not measured)",)),
        ([], Verdict.INCOMPLETE, ("the config names no gates",)),
    ],
)
def test_the_verdict(gates, said, reasons):
    assert verdict(gates) == (said, reasons)


def test_a_failure_outweighs_what_was_not_judged_and_both_are_named():
    said, reasons = verdict([UNJUDGED, FAILED])
    assert said is Verdict.NOT_READY
    assert len(reasons) == 2


def test_what_people_have_not_said_is_incomplete_unless_a_gate_failed():
    said, reasons = verdict([PASSED], missing=["nobody has signed"])
    assert (said, reasons) == (Verdict.INCOMPLETE, ("nobody has signed",))
    said, reasons = verdict([FAILED], missing=["nobody has signed"])
    assert said is Verdict.NOT_READY
    assert reasons[-1] == "nobody has signed"


@pytest.mark.parametrize(
    ("value", "reference", "said"),
    [
        (0.9, 0.9, "99.9 %"),
        (0.892, 0.9, "99 %"),
        (0.89, 0.9, "below 99 %"),
        (float("nan"), 0.9, "not known"),
        (0.9, float("nan"), "not known"),
        (0.0, 0.0, "not known"),
    ],
)
def test_the_accuracy_class_is_a_share_of_the_reference(value, reference, said):
    assert accuracy_class(value, reference) == said
