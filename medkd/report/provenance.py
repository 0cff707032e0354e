"""Provenance: the tables of the data, the options and the machine behind the figures."""

from collections.abc import Mapping
from typing import Any

from markdown_it import MarkdownIt

from medkd.data.cards import UNTOLD
from medkd.report.tables import Cell, Table, heads, pairs
from medkd.report.wording import facts, sentence, text
from medkd.results import Report

NOT_FILLED_IN = Cell("not filled in", mood="bad")

PROSE = "prose"  # of the card, below its table
STATISTICS = "statistics"  # of the card, written by a machine
RANGE = ("least", "median", "largest")

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
    stated: dict[str, Any] = {
        key: "not stated by the data set" if value is None and key in UNTOLD else value
        for key, value in (report.card or {}).items()
        if key != PROSE
    }
    if isinstance(stated.get(STATISTICS), Mapping):
        stated[STATISTICS] = _of_cohort(stated[STATISTICS])
    rows = [
        (Cell(key), Cell(text(value)) if _is_filled_in(value) else NOT_FILLED_IN)
        for key, value in facts(stated)
    ]
    return pairs(rows, caption="What the owner of the data states about them.")


def _of_cohort(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the data show, without what pictures do not have; shapes and spacings as such."""
    shown = {key: value for key, value in statistics.items() if _is_set(value)}
    for key in ("shape", "spacing_mm"):
        sizes = [" x ".join(f"{extent:g}" for extent in size) for size in shown.get(key, ())]
        if len(sizes) == len(RANGE):
            told = zip(RANGE, sizes, strict=True)
            each = ", ".join(f"{name} {size}" for name, size in told)
            shown[key] = sizes[0] if len(set(sizes)) == 1 else each
    return shown


def prose(report: Report) -> str:
    """Return the text of the data card as HTML; markup and pictures in it stay inert."""
    markdown = MarkdownIt("commonmark", {"html": False}).disable("image")
    tokens = markdown.parse(str((report.card or {}).get(PROSE) or ""))
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = "h4"  # below the headings of the page
    return str(markdown.renderer.render(tokens, markdown.options, {}))


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
    told = ((key, value) for key, value in facts(_in_rows(tree)) if _is_set(value))
    return pairs([(Cell(key), Cell(text(value))) for key, value in told], caption=caption)


def _in_rows(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Give each entry of a list of named options, such as losses, one row."""
    return {
        key: {str(place): _in_one(entry) for place, entry in enumerate(value, 1)}
        if _is_named(value)
        else value
        for key, value in tree.items()
    }


def _is_named(value: object) -> bool:
    entries = value if isinstance(value, list | tuple) else ()
    return bool(entries) and all(isinstance(v, Mapping) and "name" in v for v in entries)


def _in_one(entry: Mapping[str, Any]) -> str:
    options = {key: value for key, value in entry.items() if key != "name"}
    told = [f"{key.lower()} {text(value)}" for key, value in facts(options) if _is_set(value)]
    return ": ".join(filter(None, (str(entry["name"]), ", ".join(told))))


def _is_set(value: object) -> bool:
    return value not in (None, [], (), {})


def _is_filled_in(value: object) -> bool:
    said = str(value).strip().lower()
    return _is_set(value) and said not in {"", "tbd", "?"} and not said.startswith("todo")
