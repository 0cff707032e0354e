import pytest
import yaml

from medkd.config import load
from medkd.errors import ConfigError
from medkd.results import GateResult, Part, Report, Verdict, read_report
from medkd.statement import (
    PEOPLE,
    QUESTIONS,
    SHARED,
    complete,
    is_blank,
    read_statement,
    required,
    statement_path,
    write_report,
    write_template,
)
from medkd.study import Study
from medkd.types import Task
from tests.conftest import tiny_values


@pytest.fixture
def report():
    return Report(
        study="tiny",
        study_key="study-1",
        task=Task.SEGMENTATION,
        classes=("background", "ball"),
        verdict=Verdict.INCOMPLETE,
        reasons=(),
        roles={},
        comparisons=(),
        gates=(GateResult(gate="a", judged=0.9, passed=True),),
        split={"test": Part(cases=2, patients=1, digest="d")},
        leakage={},
        test_openings=1,
        overlays=(),
        config={},
        card=None,
        environment={},
        digests={},
        notes=(),
    )


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values(tmp_path, dims=3, task="segmentation")))
    return Study(load(path), config_path=path)


def answer(study, **others):
    said = dict.fromkeys(QUESTIONS, "said") | {"signed_on": "2026-01-31"} | others
    statement_path(study).write_text(yaml.safe_dump(said))


def test_without_a_statement_a_report_is_incomplete_and_says_how_to_begin(report, study):
    found = complete(report, study)
    assert found.verdict is Verdict.INCOMPLETE
    assert "there is no tiny.report.yaml" in found.reasons[0]
    assert "--template" in found.reasons[0]
    assert found.blank == required(report)


def test_every_question_answered_leaves_the_verdict_to_the_gates(report, study):
    answer(study)
    found = complete(report, study)
    assert (found.verdict, found.blank) == (Verdict.READY, ())
    assert found.statement["intended_use"] == "said"


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_each_blank_answer_is_named(name, report, study):
    answer(study, **{name: ""})
    found = complete(report, study)
    spared = {"test_openings", "operating_point"}
    assert found.verdict is (Verdict.READY if name in spared else Verdict.INCOMPLETE)
    if name not in spared:
        assert found.reasons == (f"tiny.report.yaml: not filled in: {name}",)


def test_a_failed_gate_outweighs_a_blank_and_both_are_named(report, study):
    answer(study, users="")
    failed = GateResult(gate="a", judged=0.1, passed=False)
    found = complete(report.model_copy(update={"gates": (failed,)}), study)
    assert found.verdict is Verdict.NOT_READY
    assert "users" in found.reasons[-1]


def test_opening_the_test_split_again_must_be_explained(report):
    assert "test_openings" not in required(report)
    again = report.model_copy(update={"test_openings": 2})
    assert "test_openings" in required(again)


def test_questions_follow_the_task(report):
    classifier = report.model_copy(update={"task": Task.CLASSIFICATION})
    assert set(required(classifier)) ^ set(required(report)) == {"operating_point", "tolerance"}


def test_the_template_holds_every_question_and_answers_none(study, report):
    write_template(statement_path(study))
    said = read_statement(statement_path(study))
    assert all(is_blank(text) for text in said.model_dump().values())
    text = " ".join(statement_path(study).read_text().replace("\n# ", " ").split())
    assert all(question in text for question in QUESTIONS.values())
    assert complete(report, study).verdict is Verdict.INCOMPLETE


def test_a_statement_is_never_overwritten(study):
    answer(study)
    before = statement_path(study).read_text()
    with pytest.raises(ConfigError, match="is there already"):
        write_template(statement_path(study))
    assert statement_path(study).read_text() == before


def test_a_config_may_name_its_statement(study, tmp_path):
    config = study.config.model_copy(update={"statement": "words/mine.yaml"})
    named = Study(config, config_path=study.config_path)
    assert statement_path(named) == tmp_path / "words" / "mine.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("intended_us: x", "did you mean 'intended_use'"),
        ("users: [1, 2]", "users: "),
        ("signed_on: yesterday", "write a date"),
        ("a: [", "not valid YAML"),
        ("- x", "statement: "),
    ],
)
def test_what_is_no_statement_is_refused(text, said, tmp_path):
    path = tmp_path / "x.report.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.report\.yaml") as error:
        read_statement(path)
    assert said in str(error.value)


def test_a_date_of_yaml_is_a_date_of_ours(tmp_path):
    path = tmp_path / "x.report.yaml"
    path.write_text("signed_on: 2026-01-31")
    assert read_statement(path).signed_on == "2026-01-31"


def test_names_of_people_stay_in_the_studys_folder(report, study, tmp_path):
    answer(study, **dict.fromkeys(PEOPLE, "Dr Jane Roe"))
    write_report(complete(report, study), tmp_path)
    assert "Jane Roe" in (tmp_path / "report.json").read_text()
    assert "Jane Roe" not in (tmp_path / SHARED).read_text()
    assert read_report(tmp_path / SHARED).verdict is Verdict.READY
