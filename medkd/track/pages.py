"""Pages: what MLflow's pages show of an experiment beside figures: view, note, pictures."""

import json
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medkd.extras import require
from medkd.study import digest

NOTE_TAG = "mlflow.note.content"  # Markdown, shown on top of an experiment or a run
OURS_TAG = "medkd.note"  # digest of the note that medkd wrote; a note that people wrote stays
TABLES_TAG = "mlflow.loggedArtifacts"  # which files the page that compares runs shows as tables
IMAGES_TAG = "mlflow.loggedImages"
KEY_LIMIT = 250  # characters of a name

# The view that ``medkd ui`` names: a row a model, the best Dice (or AUROC) first. MLflow keeps a
# shared view as a tag of the experiment, and lists nested runs on a par once they are sorted.
VIEW = "medkd"
# what classical training is called in the address of a page; else MLflow shows what it has for
# language models, and calls the models of runs "agent versions"
WORKFLOW = "machine_learning"
_VIEW_COLUMNS = (
    *("dice", "auroc", "nsd", "hd95_mm", "balanced_accuracy", "sensitivity", "ece"),
    *("latency_p50_ms", "network_ms", "parameters", "peak_memory_mib"),
)

# The charts on top of that view; MLflow adds one of its own for each further metric.
_SECTION = "medkd"
_AXES = ("learning_rate", "steps")  # what most sweeps change; more do not fit on a chart

_GUIDE = """
Each study is a run with a nested run for the teacher, the baseline (the student's network, trained
on labels alone), the student (distilled) and every further release.

- `final/*` are figures of the locked test split: sort and compare by these.
- `best/*` and `validation/*` are of the validation split, `train/*` curves of the loss.
- Pictures by step show one validation case: reference on the left, answer on the right.
- `cases.json` holds the figures of every test case, under a keyed hash of its id.
"""


def experiment_tags(study: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a new experiment: its kind, and the view that ranks its runs."""
    ranked_by = study.get("ranked_by", "final/dice")
    view = {
        "orderByKey": f"metrics.`{ranked_by}`",
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [f"metrics.`final/{name}`" for name in _VIEW_COLUMNS]
        + ["tags.`medkd.verdict`"],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "isDirty": True,  # or the charts give way to those that MLflow makes of metrics
        "isAccordionReordered": True,  # or their section is sorted by its name
        "compareRunSections": [
            {"uuid": _SECTION, "name": "test split", "display": True, "isReordered": False}
        ],
        "compareRunCharts": _charts(ranked_by),
    }
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return kind | {f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}


def _charts(ranked_by: str) -> list[dict[str, Any]]:
    """Return the charts of runs: the figure, figure against latency, and options with figure."""

    def axis(key: str) -> dict[str, str]:
        return {"key": key, "type": "METRIC"}

    time = "final/latency_p50_ms"
    kinds: list[dict[str, Any]] = [
        {"type": "BAR", "metricKey": ranked_by, "runsCountToCompare": 20},
        {"type": "SCATTER", "xaxis": axis(time), "yaxis": axis(ranked_by)},
        {"type": "PARALLEL", "selectedParams": [*_AXES], "selectedMetrics": [ranked_by]},
    ]
    shared = {"metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    return [
        {"uuid": f"{_SECTION}-{number}", "runsCountToCompare": 100, **shared, **kind}
        for number, kind in enumerate(kinds)
    ]


def experiment_note(verdicts: Iterable[tuple[str, str]]) -> str:
    """Return the story of an experiment in Markdown: the verdict of each study, and how to read it.

    Args:
        verdicts: name and verdict of each study, the latest first; "" where there is none yet.
    """
    # a line each, for the page shows the first line alone until it is unfolded
    lines = [
        f"- {plain(name)}: **{plain(verdict) or 'no verdict yet'}**" for name, verdict in verdicts
    ]
    return "\n".join([*lines, _GUIDE])


def new_note(note: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that bring a note up to date; none where people have written their own."""
    there = tags.get(NOTE_TAG)
    if there == note or (there and digest(there) != tags.get(OURS_TAG)):
        return {}
    # first whose it is, so that a note without its digest never comes about
    return {OURS_TAG: digest(note), NOTE_TAG: note}


def table_tag(*paths: str) -> dict[str, str]:
    """Return the tag that lets tables be shown side by side where runs are compared."""
    return {TABLES_TAG: json.dumps([{"path": path, "type": "table"} for path in paths])}


def lay_out(picture: Path, folder: Path, *, name: str, event: Mapping[str, Any]) -> None:
    """Write the two files that MLflow's pages show as a picture with a step.

    They are named as ``MlflowClient.log_image`` names them, but the same each time, so that
    sending a journal again shows no picture twice.
    """
    image = require("PIL.Image", extra="train")
    compressed = require("mlflow.tracking.multimedia", extra="train").compress_image_size
    since, step = event["time_ms"], event["step"]
    one = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{step}/{since}")
    stem = f"{name.replace('/', '~')}+step+{step}+timestamp+{since}+{one}"
    shutil.copyfile(picture, folder / f"{stem}.png")
    with image.open(picture) as opened:
        compressed(opened).save(folder / f"{stem}+compressed.webp")


def plain(text: str) -> str:
    r"""Write text that others chose so that Markdown shows it and does nothing with it.

    Example:
        >>> print(plain("a|b *c*"))
        a\|b \*c\*
    """
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", " ".join(text.split()))


def key_of(name: str) -> str:
    """Write a name in MLflow's alphabet, as a path that a file system could hold.

    Example:
        >>> key_of("/dice//anterior (95 %)/..")
        'dice/anterior _95 __'
    """
    parts = re.sub(r"[^/\w.\- ]", "_", name)[:KEY_LIMIT].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"
