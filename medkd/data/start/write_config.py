"""Write config: a plan as the YAML file of a study, each value with its reason."""

import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from medkd.data.reading import SERIES
from medkd.data.start.layout import Layout
from medkd.data.start.parts import SHARES
from medkd.data.start.patients import Patients
from medkd.data.start.plan import Choice, Plan
from medkd.types import Task

WIDTH = 100  # columns
FLAT = 10_000  # columns: a value stays on its line


def draft_config(config: Path, layout: Layout, chosen: Plan, *, patients: Patients) -> str:
    """Return the YAML of a study that runs as it stands.

    Args:
        config: where it is to lie, beside datalist and card; its stem is the study's name.
        layout: how the data lie.
        chosen: what follows from the data.
        patients: how they are known.
    """
    task, folder = layout.task, config.parent.resolve()
    sections = [
        _head(config.stem, folder, layout),
        _data(folder, layout, patients.how),
        _preprocess(chosen, layout),
        _AUGMENT[task],
        _networks(chosen),
        _distill(chosen),
        _GATES[task],
        _budgets(task, chosen),
    ]
    return "\n".join(map(_wrapped, "\n".join(sections).split("\n")))


def _wrapped(line: str) -> str:
    """Put the reason of a long line above it."""
    values, mark, why = line.partition(" # ")
    is_whole = values.strip() and values.count("'") % 2 == 0  # no comment, nor within quotes
    if len(line) <= WIDTH or not (mark and is_whole):
        return line
    indent = " " * (len(values) - len(values.lstrip()))
    return f"{indent}# {why}\n{values}"


def _flow(value: Any) -> str:  # noqa: ANN401
    text = yaml.safe_dump(value, default_flow_style=True, width=FLAT, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(key: str, choice: Choice, *, indent: int = 2) -> str:
    why = f" # {choice.why}" if choice.why else ""
    return f"{' ' * indent}{key}: {_flow(choice.value)}{why}\n"


def _head(name: str, folder: Path, layout: Layout) -> str:
    return (
        f"# Written by medkd init for data that lie as: {layout.name}.\n"
        f"# Lines marked TODO ask for what only people know.\n"
        f"#   medkd check {name}.yaml\n"
        f"#   python pipelines/{layout.task}.py {name}.yaml\n"
        f"study: {_flow({'name': name, 'root': str(folder / 'runs')})}\n"
        f"task: {layout.task}\n"
        f"card: card.md # TODO: fill it in before the report goes to review\n"
    )


def _data(folder: Path, layout: Layout, patients: str) -> str:
    root, source = (folder, "cases.csv")
    if layout.is_npz:
        assert layout.source is not None
        root, source = layout.source.resolve().parent, layout.source.name
    split = {"column": "split"} if layout.has_parts else SHARES
    why = "the data set's own" if layout.has_parts else "by patient, stratified by what labels hold"
    if layout.dealt:
        why += f"; {' and '.join(layout.dealt)} dealt by medkd from its training cases"
    who = "" if layout.is_npz else f"  patient: patient # {patients}\n"
    if any(SERIES in row.attributes for row in layout.rows):
        who += f"  series: {SERIES} # folders hold several\n"
    shared = ""
    if layout.overlapping:
        reason = "each a question of its own" if layout.includes else "a channel of each in a label"
        if layout.task is Task.CLASSIFICATION:
            reason = "an image may have several findings, or none"
        shared += f"  overlapping: true # {reason}\n"
    if layout.includes:
        shared += f"  includes: {_flow({k: list(v) for k, v in layout.includes.items()})}\n"
    if layout.ignore is not None:
        shared += f"  ignore: {layout.ignore} # voxels nobody has judged\n"
    return (
        f"data:\n  root: {_flow(str(root))}\n  source: {_flow(source)}\n{who}"
        f"{_comments(layout.remarks)}  labels: {_flow(dict(layout.labels))}\n{shared}"
        f"  split: {_flow(split)} # {why}\n"
    )


def _comments(remarks: Sequence[str]) -> str:
    first, further = "  # ", "  #   "
    lines = (
        textwrap.wrap(remark, WIDTH, initial_indent=first, subsequent_indent=further)
        for remark in remarks
    )
    return "".join(f"{line}\n" for line in chain.from_iterable(lines))


def _preprocess(chosen: Plan, layout: Layout) -> str:
    keys = ("channels", "orientation", "size", "spacing_mm", "intensity", "window")
    lines = [
        _line(key, chosen[f"preprocess.{key}"]) for key in keys if f"preprocess.{key}" in chosen
    ]
    if layout.modalities and len(layout.modalities) == chosen["preprocess.channels"].value:
        names = Choice(list(layout.modalities), "the channels, by the data set's own names")
        lines.insert(1, _line("modalities", names))
    if layout.overlap == "last":
        why = "structures share voxels: the one that comes later in labels keeps them"
        lines.append(_line("reading", Choice({"overlap": "last"}, why)))
    return "preprocess:\n" + "".join(lines)


_AUGMENT = {
    Task.SEGMENTATION: (
        "augment: # no flips: whether left and right may be exchanged is for you to say\n"
        "  rotate_degrees: 15\n  scale: 0.15\n  contrast: 0.2\n  gamma: 0.3\n  noise_std: 0.1\n"
    ),
    Task.CLASSIFICATION: (
        "augment: # no flips: whether left and right may be exchanged is for you to say\n"
        "  rotate_degrees: 10\n  scale: 0.1\n  translate: 0.05\n  contrast: 0.2\n  gamma: 0.2\n"
        "  noise_std: 0.05\n"
    ),
}
_GATES = {
    Task.SEGMENTATION: (
        "gates: # TODO: the least you would show a reviewer: {figure: dice, at_least: 0.8}\n"
        "  - {figure: dice, minus: teacher, at_least: -0.02}\n"
        "  - {figure: network_ms, over: teacher, at_most: 0.2}\n"
    ),
    Task.CLASSIFICATION: (
        "gates: # TODO: the least you would show a reviewer: {figure: auroc, at_least: 0.9}\n"
        "  - {figure: auroc, minus: teacher, at_least: -0.02}\n"
        "  - {figure: network_ms, over: teacher, at_most: 0.2}\n"
    ),
}


def _networks(chosen: Plan) -> str:
    return "\n".join(
        f"{role}:\n" + "".join(_line(key, chosen[f"{role}.{key}"]) for key in ("model", "train"))
        for role in ("teacher", "student")
    )


def _distill(chosen: Plan) -> str:
    losses, weights = chosen["distill.losses"], chosen["distill.class_weights"]
    first, *others = losses.value
    first = first | ({"class_weights": weights.value} if weights.value else {})
    return (
        "distill: # temperature 2: where it was measured 1 taught alike, and 4 less\n"
        + (f"  # {losses.why}\n" if losses.why else "")
        + _line("losses", Choice([first, *others], weights.why))
        + "  warmup_steps: 200 # a network that knows nothing yet learns from labels first\n"
    )


def _budgets(task: Task, chosen: Plan) -> str:
    """Write the window of two CPU cores, and what a GPU can bear beyond it."""
    folds, steps, small = (chosen[key] for key in ("full.folds", "full.steps", "quick.window"))
    quick = {"preprocess": {"window": small.value}} if small.why else {}
    why = f" # {small.why}: a smaller window" if small.why else ""
    teacher: dict[str, Any] = {"folds": folds.value, "train": {"steps": steps.value}}
    if "full.teacher.model" in chosen:
        teacher["model"] = chosen["full.teacher.model"].value
    student = {"train": {"steps": 2 * steps.value}}
    return (
        f"budgets:\n  quick: {_flow(quick)}{why}\n"
        f"  full: # one GPU; {folds.why}\n"
        f"    teacher: {_flow(teacher)}\n    student: {_flow(student)}\n"
    )
