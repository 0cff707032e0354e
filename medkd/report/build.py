"""Build: report.json becomes report.html, one page that needs nothing but itself."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from medkd.extras import require
from medkd.report import (
    accuracy,
    cases,
    checklist,
    costs,
    figures,
    limits,
    provenance,
    robustness,
    subgroups,
    volumes,
    waterfall,
)
from medkd.report.drawing import Drawing
from medkd.report.model_card import model_card
from medkd.report.sbom import sbom
from medkd.report.wording import ROLES, text
from medkd.results import Report, Verdict, read_report
from medkd.statement import REPORT, complete, write_report
from medkd.study import Study, write_atomic
from medkd.types import Task

HERE = Path(__file__).parent
PAGE, CARD, SBOM = "report.html", "model_card.md", "sbom.cdx.json"

# colour, sign and meaning of each verdict; never that a model is safe or approved
VERDICTS = {
    Verdict.READY: (
        "good",
        "✓",
        "Every acceptance criterion that was fixed before the test split was opened has been met, "
        "and people have answered what only they can know. "
        "That makes these results worth a reviewer’s time.",  # noqa: RUF001
    ),
    Verdict.NOT_READY: (
        "bad",
        "✗",
        "At least one acceptance criterion that was fixed before the test split was opened has "
        "not been met. The student must not be used as it is.",
    ),
    Verdict.INCOMPLETE: (
        "bad",
        "?",
        "At least one acceptance criterion could not be judged, none was fixed before the test "
        "split was opened, or people have not answered what only they can know. Nothing can be "
        "concluded until that is mended.",
    ),
}


def publish(study: Study) -> Report:
    """Bring ``report.json`` up to what people have stated, and write all that is made from it.

    Beside it: the page, the model card and the bill of materials.

    Raises:
        StudyError: there is no report yet, or it is of another version.
        ConfigError: the study's statement is not valid.
    """
    report = complete(read_report(study.folder / REPORT), study)
    write_report(report, study.folder)
    write_page(study.folder)
    write_atomic(study.folder / CARD, model_card(report))
    write_atomic(study.folder / SBOM, sbom(report))
    return report


def write_page(study_folder: Path) -> Path:
    """Draw ``report.html`` from ``report.json`` and the pictures of one study.

    Raises:
        StudyError: there is no report yet, or it is of another version.
    """
    report = read_report(study_folder / REPORT)
    page = study_folder / PAGE
    write_atomic(page, draw(report, study_folder=study_folder))
    return page


def draw(report: Report, *, study_folder: Path) -> str:
    """Return the page's HTML; every figure on it is in ``report``.

    Args:
        report: all results of a study.
        study_folder: where the pictures that the report names lie.
    """
    mood, sign, meaning = VERDICTS[report.verdict]
    pictures = cases.pictures(report, study_folder=study_folder)
    has_layers = any(picture.layers for picture in pictures)
    return render(
        "template.html",
        report=report,
        mood=mood,
        sign=sign,
        meaning=meaning,
        is_segmentation=report.task is Task.SEGMENTATION,
        evaluate={key: text(value) for key, value in report.config.get("evaluate", {}).items()},
        tables=_tables(report),
        prose=provenance.prose(report),
        drawings=_drawings(report),
        pictures=pictures,
        swatches=cases.swatches(report),
        layer_names=cases.LAYERS,
        entries=checklist.entries(report),
        limits=limits.limits(report),
        questions=limits.questions(report),
        **_script(has_layers),
    )


def render(template: str, **values: object) -> str:
    """Fill a template of this folder; what is put in is text where it is not called safe there."""
    jinja2 = require("jinja2", extra="train")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    roles = {role.value: name for role, name in ROLES.items()}
    page: str = environment.get_template(template).render(role_names=roles, **values)
    return page


def _script(is_needed: bool) -> dict[str, Any]:
    """Return the page's one script and the digest by which alone a browser runs it."""
    if not is_needed:
        return {"script": "", "script_digest": ""}
    source = (HERE / "gallery.js").read_text(encoding="utf-8")
    found = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return {"script": require("markupsafe", extra="train").Markup(source), "script_digest": found}


def _tables(report: Report) -> dict[str, Any]:
    return {
        "headline": accuracy.headline(report),
        "further": accuracy.further(report),
        "gates": accuracy.gates(report),
        "sample": accuracy.sample(report),
        "comparisons": accuracy.comparisons(report),
        "per_class": accuracy.per_class(report),
        "confusion": accuracy.confusion(report),
        "failures": accuracy.failures(report),
        "calibration": accuracy.calibration(report),
        "promises": accuracy.promises(report),
        "volumes": volumes.table(report),
        "subgroups": subgroups.table(report),
        "suffered": robustness.suffered(report),
        "falls": robustness.falls(report),
        "guard": robustness.guard(report),
        "latency": costs.latency(report),
        "stages": waterfall.table(report),
        "sizing": costs.sizing(report),
        "variants": costs.variants(report),
        "attempts": costs.attempts(report),
        "models": costs.models(report),
        "releases": costs.releases(report),
        "per_case": cases.per_case(report),
        "split": provenance.split(report),
        "leakage": provenance.leakage(report),
        "card": provenance.card(report),
        "digests": provenance.digests(report),
        "data_options": provenance.data_options(report),
        "preprocessing": provenance.options(report, provenance.PREPARING),
        "training": provenance.options(report, provenance.TRAINING),
        "environment": provenance.environment(report),
    }


def _drawings(report: Report) -> dict[str, tuple[Drawing, str]]:
    """Return each drawing there is, with its ``data:`` address."""
    drawn = {
        "trade": figures.trade(report),
        "differences": figures.differences(report),
        "per_case": figures.per_case(report),
        "reliability": figures.reliability(report),
        "waterfall": waterfall.plots(report),
        "volumes": volumes.plots(report),
        "subgroups": subgroups.forest(report),
        "stress": robustness.curves(report),
    }
    return {name: (d, _address(d.svg)) for name, d in drawn.items() if d}


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
