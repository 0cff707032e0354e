"""Model card: the student in Markdown, with the YAML head that model hubs read.

The head follows the metadata of Hugging Face's model cards (``license``, ``library_name``,
``pipeline_tag``, ``tags``, ``metrics``, ``model-index``). Nothing in the prose is markup of a case,
a person or a file: all of it is escaped.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from medkd.report.wording import bounds, number, title
from medkd.results import Report, Verdict
from medkd.statement import PEOPLE, QUESTIONS, is_blank
from medkd.types import Role, Task

OTHER = "other"
# the identifiers that Hugging Face knows and that weights are commonly given under
KNOWN = """
apache-2.0 mit bsd-2-clause bsd-3-clause bsd-3-clause-clear cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 gpl-2.0 gpl-3.0
agpl-3.0 lgpl-2.1 lgpl-3.0 mpl-2.0 isc unlicense openrail bigscience-openrail-m
"""
LICENCES = frozenset(KNOWN.split())
PIPELINES = {
    Task.SEGMENTATION: ("image-segmentation", "Image Segmentation"),
    Task.CLASSIFICATION: ("image-classification", "Image Classification"),
}
SECTIONS = {
    "Use": ("intended_use", "users", "out_of_scope"),
    "Data": ("provenance", "consent", "eligibility", "representativeness", "reference_standard"),
    "Limits and risks": ("known_limits", "hazards", "external_test", "on_rejection"),
    "Care": ("change_plan", "monitoring", "security"),
}


def model_card(report: Report) -> str:
    """Return the card of a study's student.

    Names of people are left out: a card is made to be passed on.
    """
    head = yaml.safe_dump(front_matter(report), sort_keys=False, allow_unicode=True)
    prose = "\n".join(_prose(report))
    return f"---\n{head}---\n\n{prose}\n"


def front_matter(report: Report) -> dict[str, Any]:
    """Return the head of the card, fit for YAML."""
    tag, task = PIPELINES[report.task]
    student = report.roles.get(Role.STUDENT)
    study, data = _line(report.study), _line((report.card or {}).get("name") or report.study)
    metrics = [
        {"type": key, "name": title(key)[:-2], "value": figure.value}
        for key, figure in (student.headline if student else {}).items()
        if figure.value == figure.value  # NaN is no number in YAML's readers
    ]
    index = {
        "task": {"type": tag, "name": task},
        "dataset": {"type": _slug(data), "name": data, "split": "test"},
        "metrics": metrics,
    }
    return {
        **_licence(report),
        "library_name": "medkd",
        "pipeline_tag": tag,
        "tags": ["medical-imaging", "knowledge-distillation", "onnx", *_kind(report)],
        "metrics": [metric["type"] for metric in metrics],
        "model-index": [{"name": study, "results": [index] if metrics else []}],
    }


def _kind(report: Report) -> tuple[str, ...]:
    return (str(report.task), *(["multi-label"] if report.has_findings else []))


def _licence(report: Report) -> dict[str, str]:
    said = report.statement.get("licence", "")
    if is_blank(said):
        return {"license": "unknown"}
    if said.lower() in LICENCES:
        return {"license": said.lower()}
    return {"license": OTHER, "license_name": _slug(said), "license_link": "LICENSE"}


def _prose(report: Report) -> Iterator[str]:
    yield f"# {_plain(report.study)}"
    yield ""
    yield f"**{report.verdict}.** Not cleared for clinical use."
    yield ""
    yield from (f"- {_plain(reason)}" for reason in report.reasons)
    yield ""
    yield from _figures(report)
    for heading, names in SECTIONS.items():
        yield f"\n## {heading}\n"
        for name in names:
            assert name not in PEOPLE
            said = report.statement.get(name, "")
            answer = "**not filled in**" if is_blank(said) else _plain(said)
            yield f"- {QUESTIONS[name]}: {answer}"
    yield "\n## Evidence\n"
    yield "All figures, how they are defined and what they do not answer: `report.html`."
    yield from (f"- {_plain(name)}: `{_plain(value)}`" for name, value in report.digests.items())


def _figures(report: Report) -> Iterator[str]:
    results = [report.roles[role] for role in Role if role in report.roles]
    if not results:
        return
    keys = list(results[0].headline)
    yield f"| model | {' | '.join(map(title, keys))} | parameters |"
    yield "|---" * (len(keys) + 2) + "|"
    for result in results:
        cells = [
            f"{number(f.value, key=key)} {bounds(f, key=key)}".strip()
            for key in keys
            if (f := result.headline.get(key))
        ]
        size = "" if result.parameters is None else f"{result.parameters:,}"
        yield f"| {result.role} | {' | '.join(cells)} | {size} |"
    test = report.split.get("test")
    if test:
        yield f"\n{test.cases} test cases of {test.patients} patients; 95 % intervals by patient."
    if report.verdict is not Verdict.READY:
        yield "\nThese figures have not met what was asked of them, or were not asked anything."


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unnamed"


def _line(text: str) -> str:
    """Keep text on one line, so that nothing in it can end the card's head."""
    return " ".join(str(text).split())


def _plain(text: str) -> str:
    """Escape what Markdown and HTML would take for markup; keep it on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", _line(text))
