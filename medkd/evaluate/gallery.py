"""Gallery: pictures of the student's worst, failed, median and best test cases."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medkd.config import Config
from medkd.data.labels import class_indices, class_of, flattened, of_judged_voxels, truth_of
from medkd.data.reading import image_of, label_of
from medkd.evaluate.answers import Answer
from medkd.evaluate.layers import draw_layers, uncertainty
from medkd.evaluate.overlays import DIFFERS, draw_answers, draw_overlay
from medkd.evaluate.score import Scores
from medkd.results import CaseScores, Layers, Overlay
from medkd.study import write_atomic
from medkd.types import UNLABELLED, Case, Role, Task

FOLDER = "overlays"
FILE = "overlays.json"
MOST_FAILURES = 6  # pictures beside the worst, median and best


def draw_gallery(
    stage: Path,
    answers: Mapping[Role, Answer],
    scores: Mapping[Role, Scores],
    cases: Sequence[Case],
    config: Config,
) -> None:
    """Draw the chosen cases into ``overlays`` of a stage's folder, and list them there.

    Args:
        stage: the folder of the evaluation, as long as it is being made.
        answers: of teacher and student.
        scores: of the same cases.
        cases: of the test split.
        config: what to draw.
    """
    is_map = config.task is Task.SEGMENTATION
    figure = "dice" if is_map else "probability_of_truth"
    student, listed = scores[Role.STUDENT].cases, []
    for rank, index in chosen(student, figure, config):
        scored, value = student[index], student[index].figures[figure]
        name = f"{rank.replace(' ', '-')}-{scored.case}"
        title = f"{rank}: {scored.case}, student {figure.replace('_', ' ')} {value:.3f}"
        draw = _draw_masks if is_map else _draw_answers
        layers = draw(stage / FOLDER, cases[index], answers, config, name=name, title=title)
        entry = Overlay(
            case=scored.case,
            rank=rank,
            figure=figure,
            value=value,
            path=f"evaluation/{FOLDER}/{name}.png",
            layers=layers,
        )
        listed.append(entry.model_dump(mode="json"))
    write_atomic(stage / FILE, json.dumps(listed, indent=1))


def chosen(cases: Sequence[CaseScores], figure: str, config: Config) -> list[tuple[str, int]]:
    """Return rank and place of every picture: the worst, other failures, the median, the best."""
    order = [int(i) for i in np.argsort([c.figures[figure] for c in cases], kind="stable")]
    shown = min(config.evaluate.overlays, len(cases))
    ranked = [(f"worst {i + 1}", index) for i, index in enumerate(order[:shown])]
    limit = config.evaluate.dice_failure
    failed = [i for i in order[shown:] if _is_failure(cases[i], limit=limit)][:MOST_FAILURES]
    ranked += [(f"failed {i + 1}", index) for i, index in enumerate(failed)]
    return [*ranked, ("median", order[len(order) // 2]), ("best", order[-1])]


def _is_failure(case: CaseScores, *, limit: float) -> bool:
    """A missed or invented structure or finding, a Dice below the limit, or a wrong class."""
    if case.misses or case.false_alarms:
        return True
    return case.figures.get("dice", 1.0) < limit or case.figures.get("correct", 1.0) == 0


def _draw_masks(
    folder: Path,
    case: Case,
    answers: Mapping[Role, Answer],
    config: Config,
    *,
    name: str,
    title: str,
) -> Layers:
    if case.annotated is not None:
        title += f"; reference of {', '.join(case.annotated)} alone"
    image = image_of(case, config)
    label = truth_of(label_of(case, config), case, config)
    found = {"reference": of_judged_voxels(label, reference=label)[0]}
    said = {role: answers[role](case) for role in (Role.TEACHER, Role.STUDENT)}
    for role, answer in said.items():
        assert answer.mask is not None
        found[str(role)] = class_indices(answer.mask, config)
    masks = {k: flattened(each, config, like=found["reference"]) for k, each in found.items()}
    differs = found["teacher"] != found["student"]
    masks[DIFFERS] = (differs.any(axis=0) if config.data.overlapping else differs).astype(np.uint8)
    draw_overlay(folder / f"{name}.png", image, masks, structures=config.structures, title=title)
    probabilities = said[Role.STUDENT].probabilities
    assert probabilities is not None
    unsure = uncertainty(probabilities, config.activation)
    drawn = draw_layers(folder, image, masks, unsure=unsure, name=name)
    paths = {layer: f"evaluation/{FOLDER}/{path}" for layer, path in drawn.paths.items()}
    return drawn.model_copy(update={"paths": paths})


def _draw_answers(
    folder: Path,
    case: Case,
    answers: Mapping[Role, Answer],
    config: Config,
    *,
    name: str,
    title: str,
) -> None:
    image = image_of(case, config)
    said = dict(_probabilities(case, answers, config))
    draw_answers(folder / f"{name}.png", image, said, classes=config.classes, title=title)


def _probabilities(
    case: Case, answers: Mapping[Role, Answer], config: Config
) -> Iterator[tuple[str, Any]]:
    truth = class_of(case, config)
    if config.data.overlapping:  # nothing is drawn of what nobody has judged
        yield "reference", np.where(truth == UNLABELLED, np.nan, truth)
    else:
        yield "reference", np.eye(len(config.classes))[truth[0]]
    for role in (Role.TEACHER, Role.STUDENT):
        probabilities = answers[role](case).probabilities
        assert probabilities is not None
        yield str(role), probabilities
