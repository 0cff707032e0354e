"""Account: what a survey has shown, in the terminal, as JSON and as a page.

The terminal speaks of cases by their ids; JSON and page, which may be sent to others, by keys.
"""

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medkd.data import phi
from medkd.data.findings import Level
from medkd.data.labels import flattened, truth_of
from medkd.data.quality.kinship import proposed
from medkd.data.quality.privacy import may_be_drawn
from medkd.data.quality.survey import FOLDER, Survey
from medkd.data.quality.thumbnail import volume_thumbnail
from medkd.data.reading import image_of, label_of
from medkd.errors import DataError
from medkd.extras import require
from medkd.progress import console, progress
from medkd.study import Study, write_atomic

SHOWN = 40  # findings in the terminal; the rest are in the files
PICTURES = 240  # cases with a thumbnail on the page, those with findings first
COLOURS = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "dim"}
SUSPECTED = "suspected_patients.csv"


def show(found: Survey) -> None:
    """Print what was found: a table on a terminal, a line a finding elsewhere.

    Errors are left to the exception that follows where there is no terminal.
    """
    if console.is_terminal:
        console.print(Group(_findings(found), _balance(found)))
        return
    for finding in found.findings:
        if finding.level is not Level.ERROR:
            console.print(f"{finding.level}: {finding.line}", markup=False)


def summary(found: Survey) -> str:
    """Say in a line or two how many cases there are, and of whom."""
    told = f"{len(found.cases)} cases of {found.patients} patients"
    if found.errors or found.split is None:
        return f"{told} were read: {len(found.errors)} errors"
    parts = ", ".join(f"{len(ids)} {name}" for name, ids in vars(found.split).items())
    without = sum(case.label is None for case in found.cases.values())
    more = (
        f"\n{without} have no label: they are in train, for distillation alone" if without else ""
    )
    partly = sum(case.annotated is not None for case in found.cases.values())
    of = "findings" if found.config.has_findings else "structures"
    more += f"\n{partly} labels cover some of the {of} alone" if partly else ""
    return f"{told} are sound: {parts}{more}"


def _findings(found: Survey) -> Table:
    table = Table("level", "case", "what", "what to do", title_justify="left")
    for finding in found.findings[:SHOWN]:
        said = f"{finding.file}: {finding.text}" if finding.file else finding.text
        cells = (finding.level.value, finding.case or "", said, finding.remedy)
        table.add_row(*map(Text, cells), style=COLOURS[finding.level])
    if len(found.findings) > SHOWN:
        table.add_row("", "", f"and {len(found.findings) - SHOWN} more, in check.json", "")
    return table if found.findings else Table(title="Nothing was found.")


def _balance(found: Survey) -> Table:
    parts = list(found.balance[0].of) if found.balance else []
    table = Table("cases with", *parts)
    for row in found.balance:
        table.add_row(
            Text(row.what), *(f"{row.counts[part]} ({row.share(part):.0%})" for part in parts)
        )
    return table


def write(study: Study, found: Survey) -> Path:
    """Write ``check.json``, ``check.html`` and, if need be, ``suspected_patients.csv``.

    Returns:
        The page.
    """
    folder = study.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = account(found, salt=phi.study_salt(study.folder))
    write_atomic(folder / "check.json", json.dumps(content, indent=1))
    write_atomic(folder / "check.html", _page(study, found, content))
    (folder / SUSPECTED).unlink(missing_ok=True)
    if found.kinships:
        write_atomic(folder / SUSPECTED, _suspected(found))
    return folder / "check.html"


def account(found: Survey, *, salt: bytes) -> dict[str, Any]:
    """Return all that was found as JSON values, cases and patients by their keys."""

    def key(kind: str, name: str) -> str:
        return phi.key(name, salt=salt, kind=kind)

    parts = vars(found.split).items() if found.split else ()
    return {
        "study": found.config.study.name,
        "cases": len(found.cases),
        "patients": found.patients,
        "split": {part: {"cases": len(ids), "digest": found.digest_of(ids)} for part, ids in parts},
        "counts": {
            level.value: sum(finding.level is level for finding in found.findings)
            for level in Level
        },
        "findings": [finding.anonymous(key) for finding in found.findings],
        "balance": [{"what": row.what, "cases": row.counts, "of": row.of} for row in found.balance],
    }


def _suspected(found: Survey) -> str:
    """Propose a patient for each case, as a table that ``data.table`` can name."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([found.config.data.case, "suspected_patient"])
    table.writerows(proposed(list(found.cases), found.kinships).items())
    return text.getvalue()


def _page(study: Study, found: Survey, content: dict[str, Any]) -> str:
    jinja2 = require("jinja2", extra="train")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    pictures = list(_pictures(found, salt=phi.study_salt(study.folder)))
    return environment.from_string(source).render(**content, pictures=pictures)


def _pictures(found: Survey, *, salt: bytes) -> Iterator[dict[str, str]]:
    """Return a picture of each case to be shown, with its key and the worst level found of it."""
    worst: dict[str, Level] = {}
    for finding in found.findings:
        for case_id in (finding.case, *finding.cases):
            if case_id is not None:
                worst.setdefault(case_id, finding.level)
    ids = _shown(list(worst), list(found.cases))
    pool = ThreadPoolExecutor()
    with pool:
        drawn = pool.map(lambda case_id: _picture(case_id, found), ids)
        for case_id, png in zip(ids, progress(drawn, "page", total=len(ids)), strict=True):
            may_be_shown = may_be_drawn(found.examined[case_id], found.config)
            yield {
                "key": phi.key(case_id, salt=salt),
                "level": worst[case_id].value if case_id in worst else "",
                "without": "cannot be read" if may_be_shown else "may show text",
                "png": base64.b64encode(png).decode(),
            }


def _shown(marked: Sequence[str], everything: Sequence[str]) -> list[str]:
    """Return whom the page shows: cases with findings first, then others from first to last."""
    chosen = [case_id for case_id in dict.fromkeys(marked) if case_id in set(everything)]
    others = [case_id for case_id in everything if case_id not in set(chosen)]
    room = max(0, PICTURES - len(chosen))
    step = max(1, -(-len(others) // room)) if room else 1
    return (chosen + (others[::step] if room else []))[:PICTURES]


def _picture(case_id: str, found: Survey) -> bytes:
    """Return a case's thumbnail; nothing of one that cannot be read, or shows text perhaps."""
    case, config = found.cases[case_id], found.config
    if not may_be_drawn(found.examined[case_id], config):
        return b""
    try:
        label = label_of(case, config) if isinstance(case.label, Path) else None
        if label and config.data.overlapping:
            label = replace(label, array=flattened(truth_of(label, case, config), config)[None])
        return volume_thumbnail(image_of(case, config), label)
    except DataError:
        return b""
