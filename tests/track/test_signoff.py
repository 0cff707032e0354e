import pytest

from medkd.errors import StudyError
from medkd.results import Verdict, read_report
from medkd.track.journal import read
from medkd.track.session import sign_off
from medkd.track.signoff import code_version, lineage


@pytest.fixture(scope="module")
def made(released):
    from medkd.evaluate.run import evaluate

    study, cohort = released
    evaluate(study, cohort)
    report = read_report(study.folder / "report.json")
    return study, report.model_copy(update={"verdict": Verdict.READY, "reasons": ()})


def told(study, kind):
    path = study.folder / "journal.jsonl"
    return [event for event, _ in read(path) if event["kind"] == kind]


@pytest.mark.parametrize("verdict", [Verdict.NOT_READY, Verdict.INCOMPLETE])
def test_what_is_not_ready_is_refused_by_its_reasons(made, verdict):
    study, report = made
    unready = report.model_copy(update={"verdict": verdict, "reasons": ("consent is blank",)})
    with pytest.raises(StudyError, match=f"{verdict}, so it cannot.*consent is blank"):
        sign_off(study, unready)
    assert told(study, "alias") == []


def test_another_release_than_the_one_that_was_evaluated_is_refused(made):
    study, report = made
    others = report.digests | {"release student": "0" * 64}
    with pytest.raises(StudyError, match="not the release that was evaluated"):
        sign_off(study, report.model_copy(update={"digests": others}))
    assert told(study, "alias") == []


def test_what_is_ready_is_journalled_without_any_store(made):
    study, report = made
    sign_off(study, report)
    (alias,) = told(study, "alias")
    digest = report.digests["release student"]
    assert alias["values"] == {"name": "tiny-student", "digest": digest, "alias": "reviewed"}
    releases = {event["run"]: event["values"] for event in told(study, "release")}
    assert set(releases) == {"teacher", "student", "baseline"}
    assert releases["student"]["digest"] == digest
    assert {event["values"]["status"] for event in told(study, "status")[-4:]} == {"FINISHED"}


def test_lineage_changes_with_what_a_release_was_made_from_and_not_with_the_load(made):
    _, report = made
    before = lineage(report)
    idle = report.model_copy(update={"environment": report.environment | {"load_average": 0.0}})
    other = report.model_copy(update={"environment": report.environment | {"python": "0"}})
    assert lineage(idle) == before
    assert lineage(other)["medkd.environment"] != before["medkd.environment"]
    assert before["medkd.data"] == report.digests["data set"]
    assert before["medkd.code"] == code_version()
