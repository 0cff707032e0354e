"""Does distillation help? Many students of one teacher, with several seeds and one budget.

    python pipelines/ablation.py pipelines/ablation_hippocampus.yaml [--seeds 3] [--only "4 labels"]

A table of variants is scored on the test split of the base study: mean Dice, and the paired
difference to the table's first variant by patient, each patient's figures averaged over the seeds.
What is trained stays in ``runs``: the command goes on where it was.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from medkd.cli import run_pipeline
from medkd.config import load
from medkd.data.check import Cohort, check
from medkd.evaluate.answers import answers_of_checkpoint
from medkd.evaluate.score import score_segmentation
from medkd.metrics.statistics import bootstrap_difference, bootstrap_mean
from medkd.progress import console
from medkd.study import Study, digest, write_atomic
from medkd.track.tracker import NullTracker
from medkd.train.check_models import check_models
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften

SALT = b"ablation"  # cases keep the same key in all variants, so that they can be paired


def student(base: Path, name: str, overrides: Sequence[str], *, alone: bool) -> dict[str, Any]:
    """Train a student, or the same network on labels alone; return its scores."""
    study, cohort = prepare(base, name, overrides)
    result = study.folder / "ablation.json"
    if not result.exists():
        with study.hold(cohort.split):
            if alone:
                train_baseline(study, cohort, tracker=NullTracker())
            else:
                train_teacher(study, cohort, tracker=NullTracker())
                soften(study, cohort)
                distill(study, cohort, tracker=NullTracker())
            stage = "baseline" if alone else "student"
            write_atomic(result, json.dumps(score(study, cohort, stage)))
    return json.loads(result.read_text())


def score(study: Study, cohort: Cohort, stage: str) -> dict[str, Any]:
    """Score a network on the test split, case by case."""
    cases = cohort.of(cohort.split.test)
    answer = answers_of_checkpoint(study, stage)
    scores = score_segmentation(answer, cases, study.config, salt=SALT, name=stage)
    values = {figure: list(map(float, column)) for figure, column in scores.values.items()}
    return {
        "patients": scores.patients,
        "dice": values["dice"],
        "ece": scores.headline["ece"].value,
    }


def prepare(base: Path, name: str, overrides: Sequence[str]) -> tuple[Study, Cohort]:
    """Load and check the base study under another name."""
    config = load(base, overrides=[*overrides, f"study.name={name}"])
    check_models(config)
    study = Study(config, config_path=base)
    return study, check(study)


def overrides_of(plan: dict[str, Any], variant: dict[str, Any]) -> list[str]:
    """Return all that a variant changes in the base study."""
    overrides = [*plan["set"], *variant.get("set", [])]
    if variant.get("teacher"):
        path = Path(plan["teachers"][variant["teacher"]]).resolve()
        external = {"external": [{"kind": "checkpoint", "path": str(path)}]}
        overrides.append(f"teacher={json.dumps(external)}")
    return overrides


def tabulate(plan: dict[str, Any], base: Path, table: str, seeds: int) -> Iterator[str]:
    """Yield a table's rows in Markdown as they become known."""
    yield f"\n| {table} | Dice | by seed | gain over the first row | ECE |\n|---|---|---|---|---|"
    first: np.ndarray | None = None
    for name, variant in plan["tables"][table].items():
        overrides, alone = overrides_of(plan, variant), variant.get("alone", False)
        known = digest([overrides, alone])[:8]  # the same student in two tables is trained once
        scored = [
            student(
                base, f"{plan['name']}-{known}-{s}", [*overrides, f"study.seed={s}"], alone=alone
            )
            for s in range(seeds)
        ]
        by_seed = np.array([entry["dice"] for entry in scored])
        patients, mean = scored[0]["patients"], by_seed.mean(axis=0)
        whole = bootstrap_mean(mean, patients)
        cells = [name, f"{whole.value:.4f} ({whole.low:.3f}, {whole.high:.3f})"]
        cells.append(", ".join(f"{value:.4f}" for value in by_seed.mean(axis=1)))
        if first is None:
            first = mean
            cells.append("")
        else:
            gain = bootstrap_difference(mean, first, patients)
            cells.append(f"{gain.value:+.4f} ({gain.low:+.4f}, {gain.high:+.4f})")
        cells.append(f"{np.mean([entry['ece'] for entry in scored]):.4f}")
        yield f"| {' | '.join(cells)} |"


def main(
    plan: Annotated[Path, typer.Argument(help="The YAML file of variants.")],
    seeds: Annotated[int, typer.Option(help="How often each variant is trained.")] = 3,
    only: Annotated[str | None, typer.Option(help="One table instead of all.")] = None,
) -> None:
    """Compare ways to distil, on one data set with one budget."""
    values = yaml.safe_load(plan.read_text())
    base = plan.parent / values["base"]
    for table in [only] if only else values["tables"]:
        for row in tabulate(values, base, table, seeds):
            console.print(row, markup=False)


if __name__ == "__main__":
    run_pipeline(main)
