"""Provenance: the tables of the data, the options and the machine behind the figures."""

from collections.abc import Mapping
from typing import Any

from medkd.data.cards import UNTOLD
from medkd.report.tables import Cell, Table, heads, pairs
from medkd.report.wording import facts, sentence, text
from medkd.results import Report

NOT_FILLED_IN = Cell("not filled in", mood="bad")

# sections of the config and what they decide; paths of the machine stay out of the page
PREPARING = {"preprocess": "Preprocessing: the same code in training and on the device"}
TRAINING = {
    "augment": "Augmentation of training patches",
    "teacher": "Teacher",
    "student": "Student and baseline: one network, one budget",
    "distill": "Distillation: how the student learns from the teacher",
    "evaluate": "Evaluation",
    "latency": "Latency measurement",
}


def split(report: Report) -> Table:
    """Return cases, patients and digest of each part."""
    rows = [
        (
            Cell(sentence(name)),
            Cell(str(part.cases)),
            Cell(str(part.patients)),
            Cell(part.digest, mood="code"),
        )
        for name, part in report.split.items()
    ]
    head = heads("Part", "Cases", "Patients", "Digest of its cases")
    return Table("How the cases were dealt, patient by patient.", head, tuple(rows))


def leakage(report: Report) -> Table:
    """Return what was found on two sides of the split."""
    rows = [
        (Cell(sentence(key)), Cell(str(count), mood="bad" if count else "good"))
        for key, count in report.leakage.items()
    ]
    head = heads("Looked for", "Found")
    caption = "What lies on two sides of the split; anything but 0 refutes every figure here."
    return Table(caption, head, tuple(rows))


def card(report: Report) -> Table:
    """Return the data card; what nobody filled in stands out."""
    stated = {
        key: "not stated by the data set" if value is None and key in UNTOLD else value
        for key, value in (report.card or {}).items()
    }
    rows = [
        (Cell(key), Cell(text(value)) if _is_filled_in(value) else NOT_FILLED_IN)
        for key, value in facts(stated)
    ]
    return pairs(rows, caption="What the owner of the data states about them.")


def digests(report: Report) -> Table:
    """Return the identity of what this report rests on."""
    rows = [(Cell(name), Cell(value, mood="code")) for name, value in report.digests.items()]
    return pairs(rows, caption="Digests of what this report rests on.")


def data_options(report: Report) -> Table:
    """Return the labels and how patients were dealt."""
    data = report.config.get("data", {})
    shown = {key: data[key] for key in ("labels", "split") if key in data}
    return _options(shown, caption="Labels and split")


def options(report: Report, sections: Mapping[str, str]) -> list[Table]:
    """Return the options the results depend on, section by section.

    Args:
        report: holds the config.
        sections: of the config, each with what it decides.
    """
    return [
        _options(report.config[section], caption=caption)
        for section, caption in sections.items()
        if report.config.get(section)
    ]


def environment(report: Report) -> Table:
    """Return the machine and the software."""
    return _options(report.environment, caption="Where the figures were made.")


def _options(tree: Mapping[str, Any], *, caption: str) -> Table:
    return pairs([(Cell(key), Cell(text(value))) for key, value in facts(tree)], caption=caption)


def _is_filled_in(value: object) -> bool:
    unsaid, said = value in (None, [], (), {}), str(value).strip().lower()
    return not unsaid and said not in {"", "tbd", "?"} and not said.startswith("todo")
