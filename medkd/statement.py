"""Statement: what a report needs and only people know, as YAML beside the study's config.

A machine can measure accuracy; it cannot know what a model is for, who consented, or who answers
for it. Each field below is a question of the report's checklist. A question that does not apply is
answered ``not applicable: <reason>``; a blank one makes the report INCOMPLETE.
"""

import textwrap
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from medkd.config import expand
from medkd.errors import ConfigError
from medkd.options import Options
from medkd.registry import did_you_mean
from medkd.results import Report, verdict
from medkd.study import Study, write_atomic
from medkd.types import Task

SUFFIX = ".report.yaml"
PLACEHOLDERS = frozenset({"", "todo", "tbd", "?", "-", "n/a", "not applicable", "unknown"})
REPORT = "report.json"
SHARED = Path("shared") / REPORT  # what may leave the study's folder
PEOPLE = ("contact", "deidentification_by", "signed_by")  # who, and therefore the report's alone


def _written(value: object) -> object:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, date) else value


Text = Annotated[str, BeforeValidator(_written), StringConstraints(strip_whitespace=True)]


def _ask(question: str) -> Any:  # noqa: ANN401
    return Field(default="", description=question)


class Statement(Options):
    """The questions, in the order of the report's checklist; blank is not answered."""

    release_stage: Text = _ask("Stage of this release: research, internal test, clinical trial…")
    contact: Text = _ask("Whom to ask: a role or a mailbox that will outlive a person")
    licence: Text = _ask("Licence of the released weights, an SPDX identifier where there is one")
    intended_use: Text = _ask("The task, the patients and the place in the workflow that it is for")
    users: Text = _ask("Who uses its answers, and what they know")
    out_of_scope: Text = _ask("What it must not be used for")
    rationale: Text = _ask("Why the margins of the gates are clinically acceptable")
    consent: Text = _ask("Consent of the patients and approval of the ethics committee")
    provenance: Text = _ask("How the data were obtained, from whom and under what agreement")
    eligibility: Text = _ask("Which patients and images were included, and which were not")
    deidentification: Text = _ask("How the images were de-identified")
    deidentification_by: Text = _ask("Who answers for the de-identification")
    reference_standard: Text = _ask(
        "Who made the reference standard, with what experience, by which protocol"
    )
    site_independence: Text = _ask("Whether any test patient comes from a site of the training")
    test_openings: Text = _ask("Why the test split was opened more than once, if it was")
    sample_size: Text = _ask("Why this many test patients are enough")
    representativeness: Text = _ask("Whom the data represent, and whom they do not")
    tolerance: Text = _ask("Why this tolerance of surfaces is the right one")
    worst_cases: Text = _ask("What the worst cases would have meant for the patient")
    operating_point: Text = _ask("Prevalence where it will be used, and why this threshold")
    uncertainty_use: Text = _ask("What its users do with calibration and uncertainty")
    subgroups: Text = _ask(
        "Which groups matter here, how they are defined, what is done about gaps"
    )
    stress_relevance: Text = _ask("Which of the stresses happen at the sites of use")
    external_test: Text = _ask("Test on patients of another institution: result, or why none")
    target_device: Text = _ask("The device of use, and whether latency was measured on it")
    on_rejection: Text = _ask("What a user does with an image that the guard flags")
    known_limits: Text = _ask("Known limits: where it fails or has not been tried")
    hazards: Text = _ask("Clinical hazards and what lowers their risk (ISO 14971)")
    human_factors: Text = _ask("How users are trained, and how they were seen to use it")
    change_plan: Text = _ask("Which changes are foreseen, and which of them need a new review")
    monitoring: Text = _ask("Who watches it in use, how often, and what stops it")
    security: Text = _ask("The threats that were considered: tampering, hostile files, access")
    access: Text = _ask("Who can get code, weights and data, on what terms")
    funding: Text = _ask("Who paid for it")
    interests: Text = _ask("Competing interests of those who built and judged it")
    signed_by: Text = _ask("Who answers for this report: name")
    signed_role: Text = _ask("Role of the person who signs")
    signed_on: Text = _ask("Date of the signature, as 2026-01-31")
    decision: Text = _ask("What was decided: submitted for review, accepted for…, refused because…")


QUESTIONS: dict[str, str] = {
    name: field.description or "" for name, field in Statement.model_fields.items()
}


def statement_path(study: Study) -> Path:
    """Return where a study's statement lies: as the config says, or ``CONFIG.report.yaml``."""
    named, beside = study.config.statement, study.config_path
    if named:
        return expand(named, key="statement", root=beside.parent)
    return beside.with_name(beside.stem + SUFFIX)


def statement_of(study: Study) -> Statement | None:
    """Read a study's statement; None where nobody has written one.

    Raises:
        ConfigError: not YAML, or keys that no statement has.
    """
    path = statement_path(study)
    return read_statement(path) if path.is_file() else None


def read_statement(path: Path) -> Statement:
    """Read a statement and check it.

    Raises:
        ConfigError: not YAML, or fields that are unknown or no text; all of them in one pass.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    try:
        statement = Statement.model_validate(tree or {})
    except ValidationError as error:
        lines = [f"{path}: {_explain(p['loc'], p['type'], p['msg'])}" for p in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    if not is_blank(statement.signed_on):
        _refuse_no_date(path, statement.signed_on)
    return statement


def write_template(path: Path) -> None:
    """Write every question, unanswered.

    Raises:
        ConfigError: there is a statement already, which is never overwritten.
    """
    if path.exists():
        raise ConfigError(f"{path}: is there already; answer what is blank in it")
    lines = [
        "# What only people know about this model; the questions are those of the report.",
        "# A question that does not apply: `not applicable: <reason>`. A blank one leaves the",
        "# report INCOMPLETE. Names stay in the report's folder; nothing here goes to MLflow.",
    ]
    for name, question in QUESTIONS.items():
        lines += ["", *textwrap.wrap(question, 96, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"{name}:")
    write_atomic(path, "\n".join(lines) + "\n")


def is_blank(text: str) -> bool:
    """Whether an answer says nothing.

    Example:
        >>> is_blank(" TODO "), is_blank("<who?>"), is_blank("not applicable: one site")
        (True, True, False)
    """
    said = text.strip().lower().rstrip(".:")
    return said in PLACEHOLDERS or (said.startswith("<") and said.endswith(">"))


def required(report: Report) -> tuple[str, ...]:
    """Return the questions that a report must have answered, by its task and its test split."""
    spared = {"test_openings"} if report.test_openings <= 1 else set()
    spared.add("operating_point" if report.task is Task.SEGMENTATION else "tolerance")
    return tuple(name for name in QUESTIONS if name not in spared)


def complete(report: Report, study: Study) -> Report:
    """Return a report with what people have stated, and the verdict that follows from both."""
    found = statement_of(study)
    answers = {
        name: text for name, text in (found.model_dump() if found else {}).items() if text.strip()
    }
    blank = tuple(name for name in required(report) if is_blank(answers.get(name, "")))
    where = statement_path(study).name
    missing = () if not blank else (_said(where, blank, is_there=found is not None),)
    said, reasons = verdict(report.gates, missing=missing)
    return report.model_copy(
        update={"statement": answers, "blank": blank, "verdict": said, "reasons": reasons}
    )


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json``, and ``shared/report.json`` without the names of those who answered.

    MLflow is given the second: names of people stay in the study's folder.
    """
    nameless = {k: text for k, text in report.statement.items() if k not in PEOPLE}
    shared = report.model_copy(update={"statement": nameless})
    (folder / SHARED.parent).mkdir(exist_ok=True)
    write_atomic(folder / SHARED, shared.model_dump_json(indent=1))
    write_atomic(folder / REPORT, report.model_dump_json(indent=1))


def _said(name: str, blank: tuple[str, ...], *, is_there: bool) -> str:
    if not is_there:
        return (
            f"nobody has stated what only people know: there is no {name} beside the config "
            f"(medkd report CONFIG --template writes its {len(QUESTIONS)} questions)"
        )
    return f"{name}: not filled in: {', '.join(blank)}"


def _refuse_no_date(path: Path, text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{path}: signed_on: write a date as 2026-01-31 (got {text!r})") from None


def _explain(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(loc[0]) if loc else "statement"
    if kind == "extra_forbidden":
        return f"{name}: no question of a report; {did_you_mean(name, list(QUESTIONS))}".rstrip(
            "; "
        )
    return f"{name}: {message.removeprefix('Value error, ')}"
