"""Does distillation help? Many students of one teacher, with several seeds and one budget.

    python pipelines/ablation.py pipelines/ablation_hippocampus.yaml [--seeds 3] [--only "4 labels"]

A table of variants is scored on the test split of the base study: mean Dice, and the paired
difference to the table's first student by patient, each patient's figures averaged over the seeds.
What is trained stays in ``runs``: the command goes on where it was. With ``--record FILE`` what was
measured is also kept there, a line a student, and what the file holds is not trained again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from medkd.cli import run_pipeline
from medkd.config import load
from medkd.data.check import Cohort, check
from medkd.errors import ConfigError
from medkd.evaluate.answers import Answer, answers_of_checkpoint, answers_of_teachers
from medkd.evaluate.score import score_segmentation
from medkd.metrics.statistics import bootstrap_difference, bootstrap_mean
from medkd.predict.teachers import stages
from medkd.progress import console
from medkd.study import Study, digest, write_atomic
from medkd.track.tracker import NullTracker
from medkd.train.check_models import check_models
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften

SCORES = "scores.json"


@dataclass(frozen=True)
class Plan:
    """Variants of one base study, as a YAML file lists them."""

    name: str
    base: Path
    set: Sequence[str]
    teachers: Mapping[str, str | Sequence[str]]
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan; its base study is named relative to it."""
        values = yaml.safe_load(path.read_text())
        return cls(**values | {"base": path.parent / values["base"]})

    def key(self, variant: Mapping[str, Any], seed: int) -> str:
        """Return what stands for a student: the same one in two tables is trained once."""
        teacher = self.teachers.get(variant.get("teacher", ""))
        return f"{self.name}-{digest(self.set, variant, teacher)[:8]}-{seed}"

    def overrides(self, variant: Mapping[str, Any], seed: int) -> list[str]:
        """Return all that a variant changes in the base study."""
        overrides = [*self.set, *variant.get("set", []), f"study.seed={seed}"]
        overrides.append(f"study.name={self.key(variant, seed)}")
        if "losses" in variant:
            overrides.append(f"distill.losses={json.dumps(variant['losses'])}")
        if "teacher" in variant:
            root = load(self.base, overrides=self.set).study.root
            overrides.append(f"distill.store={Path(root).resolve()}/{self.name}.zarr")
            overrides.append(f"teacher={json.dumps({'external': self._external(variant)})}")
        return overrides

    def _external(self, variant: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Bring along one checkpoint, or the folds of a study, each silent on whom it has seen."""
        paths = self.teachers[variant["teacher"]]
        if isinstance(paths, str):
            return [{"kind": "checkpoint", "path": str(Path(paths).resolve())}]
        fold = {"kind": "checkpoint", "out_of_fold": True}
        return [fold | {"path": str(Path(path).resolve())} for path in paths]


def measure(plan: Plan, variant: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train a student, the same network on labels alone, or nothing; return the scores."""
    study, cohort = prepare(plan.base, plan.overrides(variant, seed))
    with study.hold(cohort.split, digests=cohort.part_digests, folds=cohort.folds(study.config)):
        answer, trained = answer_of(study, cohort, variant)
        inputs = {
            "trained": [study.stage_digest(stage) for stage in trained],
            "test cases": cohort.digest_of(cohort.split.test),
            "postprocess": study.config.postprocess.model_dump(),
        }

        def make(folder: Path) -> None:
            write_atomic(folder / SCORES, json.dumps(score(study, cohort, answer)))

        scored = study.stage("ablation", inputs=inputs, make=make)
    return json.loads((scored / SCORES).read_text())


def answer_of(
    study: Study, cohort: Cohort, variant: Mapping[str, Any]
) -> tuple[Answer, Sequence[str]]:
    """Train what a variant asks for; return how it answers, and the stages that do."""
    if variant.get("alone"):
        train_baseline(study, cohort, tracker=NullTracker())
        return answers_of_checkpoint(study, "baseline"), ["baseline"]
    train_teacher(study, cohort, tracker=NullTracker())
    if variant.get("itself"):
        return answers_of_teachers(study), stages(study.config)
    soften(study, cohort)
    distill(study, cohort, tracker=NullTracker())
    return answers_of_checkpoint(study, "student"), ["student"]


def score(study: Study, cohort: Cohort, answer: Answer) -> dict[str, Any]:
    """Score the test split case by case; patients are numbered in the order of its cases."""
    cases = cohort.of(cohort.split.test)
    scores = score_segmentation(answer, cases, study.config, salt=b"", name="test")
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(scores.patients))}
    return {
        "patients": [numbers[patient] for patient in scores.patients],
        "dice": [round(float(dice), 5) for dice in (case.figures["dice"] for case in scores.cases)],
        "ece": round(scores.headline["ece"].value, 5),
    }


def prepare(base: Path, overrides: Sequence[str]) -> tuple[Study, Cohort]:
    """Load and check the base study as a variant changes it.

    Raises:
        ConfigError: its student is sized for a machine, so that each would be another network.
    """
    config = load(base, overrides=overrides)
    if config.student.budget:
        raise ConfigError(
            f"{base}: student.budget: each student of a table would be sized anew; name the one "
            f"that was chosen under student.model, and leave the budget out"
        )
    check_models(config)
    study = Study(config, config_path=base)
    return study, check(study)


class Record:
    """What was measured, a line of JSON a student; in memory alone where there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._known = {entry.pop("student"): entry for entry in map(json.loads, lines)}

    def of(self, plan: Plan, variant: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return a student's scores; measure them if nothing is known of it."""
        key = plan.key(variant, seed)
        if key not in self._known:
            self._known[key] = measure(plan, variant, seed)
            if self._path:
                with self._path.open("a") as file:
                    file.write(json.dumps({"student": key} | self._known[key]) + "\n")
        return self._known[key]


def tabulate(plan: Plan, table: str, seeds: int, record: Record) -> Iterator[str]:
    """Yield a table's rows in Markdown as they become known."""
    yield f"\n| {table} | Dice | by seed | gain over the first student | ECE |"
    yield "|---|---|---|---|---|"
    first: np.ndarray | None = None
    for name, variant in plan.tables[table].items():
        is_student = not variant.get("itself")
        scored = [record.of(plan, variant, seed) for seed in range(seeds if is_student else 1)]
        by_seed = np.array([entry["dice"] for entry in scored])
        patients, mean = list(map(str, scored[0]["patients"])), by_seed.mean(axis=0)
        whole = bootstrap_mean(mean, patients)
        cells = [name, f"{whole.value:.4f} ({whole.low:.3f}, {whole.high:.3f})"]
        cells.append(", ".join(f"{value:.4f}" for value in by_seed.mean(axis=1)))
        if is_student and first is not None:
            gain = bootstrap_difference(mean, first, patients)
            cells.append(f"{gain.value:+.4f} ({gain.low:+.4f}, {gain.high:+.4f})")
        else:
            cells.append("")
        if is_student and first is None:
            first = mean
        cells.append(f"{np.mean([entry['ece'] for entry in scored]):.4f}")
        yield f"| {' | '.join(cells)} |"


def main(
    plan: Annotated[Path, typer.Argument(help="The YAML file of variants.")],
    seeds: Annotated[int, typer.Option(min=1, help="How often each variant is trained.")] = 3,
    only: Annotated[str | None, typer.Option(help="One table instead of all.")] = None,
    record: Annotated[Path | None, typer.Option(help="Where what is measured is kept.")] = None,
) -> None:
    """Compare ways to distil, on one data set with one budget."""
    read, known = Plan.read(plan), Record(record)
    if only is not None and only not in read.tables:
        raise typer.BadParameter(f"--only: no table {only!r}; there are {', '.join(read.tables)}")
    for table in [only] if only else read.tables:
        for row in tabulate(read, table, seeds, known):
            console.print(row, markup=False)


if __name__ == "__main__":
    run_pipeline(main)
