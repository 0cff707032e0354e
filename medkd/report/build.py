"""Build: report.json becomes report.html, one page that needs nothing but itself."""

import base64
from pathlib import Path
from typing import Any

from medkd.extras import require
from medkd.report import accuracy, cases, costs, figures, provenance, robustness, subgroups, volumes
from medkd.report.drawing import Drawing
from medkd.report.wording import ROLES, text
from medkd.results import Report, Verdict, read_report
from medkd.study import write_atomic
from medkd.types import Task

TEMPLATE = "template.html"

# colour, sign and meaning of each verdict; never that a model is safe or approved
VERDICTS = {
    Verdict.READY: (
        "good",
        "✓",
        "Every acceptance criterion that was fixed before the test split was opened has been met. "
        "That makes these results worth a reviewer’s time.",  # noqa: RUF001
    ),
    Verdict.NOT_READY: (
        "bad",
        "✗",
        "At least one acceptance criterion that was fixed before the test split was opened has "
        "not been met. The student must not be used as it is.",
    ),
    Verdict.INCOMPLETE: (
        "open",
        "?",
        "At least one acceptance criterion could not be judged, or none was fixed before the test "
        "split was opened. Nothing can be concluded until that is mended.",
    ),
}


def write_page(study_folder: Path) -> Path:
    """Draw ``report.html`` from ``report.json`` and the pictures of one study.

    Raises:
        StudyError: there is no report yet, or it is of another version.
    """
    report = read_report(study_folder / "report.json")
    page = study_folder / "report.html"
    write_atomic(page, draw(report, study_folder=study_folder))
    return page


def draw(report: Report, *, study_folder: Path) -> str:
    """Return the page's HTML; every figure on it is in ``report``.

    Args:
        report: all results of a study.
        study_folder: where the pictures that the report names lie.
    """
    jinja2 = require("jinja2", extra="train")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")
    mood, sign, meaning = VERDICTS[report.verdict]
    return environment.from_string(source).render(
        report=report,
        mood=mood,
        sign=sign,
        meaning=meaning,
        is_segmentation=report.task is Task.SEGMENTATION,
        evaluate={key: text(value) for key, value in report.config.get("evaluate", {}).items()},
        role_names={role.value: name for role, name in ROLES.items()},
        tables=_tables(report),
        drawings=_drawings(report),
        pictures=cases.pictures(report, study_folder=study_folder),
    )


def _tables(report: Report) -> dict[str, Any]:
    return {
        "headline": accuracy.headline(report),
        "further": accuracy.further(report),
        "gates": accuracy.gates(report),
        "comparisons": accuracy.comparisons(report),
        "per_class": accuracy.per_class(report),
        "failures": accuracy.failures(report),
        "calibration": accuracy.calibration(report),
        "promises": accuracy.promises(report),
        "volumes": volumes.table(report),
        "subgroups": subgroups.table(report),
        "suffered": robustness.suffered(report),
        "guard": robustness.guard(report),
        "latency": costs.latency(report),
        "sizing": costs.sizing(report),
        "variants": costs.variants(report),
        "models": costs.models(report),
        "per_case": cases.per_case(report),
        "split": provenance.split(report),
        "leakage": provenance.leakage(report),
        "card": provenance.card(report),
        "digests": provenance.digests(report),
        "data_options": provenance.data_options(report),
        "options": provenance.options(report),
        "environment": provenance.environment(report),
    }


def _drawings(report: Report) -> dict[str, tuple[Drawing, str]]:
    """Return each drawing there is, with its ``data:`` address."""
    drawn = {
        "trade": figures.trade(report),
        "differences": figures.differences(report),
        "per_case": figures.per_case(report),
        "reliability": figures.reliability(report),
        "stages": figures.stages(report),
        "volumes": volumes.plots(report),
        "subgroups": subgroups.forest(report),
        "stress": robustness.curves(report),
    }
    return {name: (d, _address(d.svg)) for name, d in drawn.items() if d}


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
