"""Run: the only reader of the test split; what three releases are worth on it, measured once."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from medkd.data import phi
from medkd.data.check import Cohort
from medkd.data.reading import from_small_to_large, image_of, images_alone
from medkd.device.latency import measure_latencies
from medkd.device.manifest import MANIFEST, PARITY, WEIGHTS, read_manifest
from medkd.device.predictor import Prediction, load
from medkd.environment import environment
from medkd.evaluate.answers import Answer, answers_of, answers_to_images
from medkd.evaluate.assemble import (
    CLAIMS,
    COMPARISONS,
    ENVIRONMENT,
    FURTHER,
    OPENINGS,
    assemble,
)
from medkd.evaluate.claims import claims
from medkd.evaluate.compare import compare
from medkd.evaluate.gallery import draw_gallery
from medkd.evaluate.promises import promises
from medkd.evaluate.reliability import draw_reliability
from medkd.evaluate.robustness import flag_of, judge_guard, stress_curves
from medkd.evaluate.score import Scores, score_classification, score_segmentation
from medkd.evaluate.subgroups import subgroups
from medkd.predict.teachers import is_portable, stages
from medkd.progress import console
from medkd.results import (
    Latency,
    ReleasePoint,
    Report,
    RoleResult,
    VariantResult,
)
from medkd.statement import write_report
from medkd.study import Study, write_atomic
from medkd.types import Case, Role, Task, Variant

Quiet = Callable[[], AbstractContextManager[None]]
LATENCY_CASES = 8  # images taken in turn while latency is measured


def evaluate(study: Study, cohort: Cohort, *, quiet: Quiet = nullcontext) -> Report:
    """Score the three releases on the test split and write ``report.json``.

    Args:
        study: holds the releases.
        cohort: the checked cases.
        quiet: entered while latency is measured, to hush what else uses the machine.

    Raises:
        StudyError: a release is missing, or gates changed after the test split was opened.
    """
    make = _Evaluation(study, cohort, quiet).make
    study.stage("evaluation", inputs=_inputs(study, cohort), make=make)
    report = assemble(study, cohort)
    write_report(report, study.folder)
    return report


def _inputs(study: Study, cohort: Cohort) -> dict[str, Any]:
    config = study.config
    portable = is_portable(study)
    teacher = ["releases/teacher"] if portable else stages(config)
    made_from = [*teacher, "releases/baseline", "releases/student"]
    further = [f"releases/{variant.of(role)}" for role, variant in _served(study)]
    return {
        "releases": [study.stage_digest(stage) for stage in made_from + further],
        "test cases": cohort.digest_of(cohort.split.test),
        "evaluate": config.evaluate.model_dump(),
        "latency": config.latency.model_dump(),
        "seed": config.study.seed,
        "gates": [str(gate) for gate in config.gates],
    }


class _Evaluation:
    """The evaluation stage: what needs the releases and the test images."""

    def __init__(self, study: Study, cohort: Cohort, quiet: Quiet) -> None:
        self._study = study
        self._quiet = quiet
        self._config = study.config
        self._cohort = cohort
        self._test = cohort.of(cohort.split.test)
        self._salt = phi.study_salt(study.folder)

    def make(self, folder: Path) -> None:
        _count_opening(self._study)
        answers = {role: answers_of(self._study, role) for role in Role}
        scores = {role: self._score(role, answer) for role, answer in answers.items()}
        draw_gallery(folder, answers, scores, self._test, self._config)
        compared = [entry.model_dump(mode="json") for entry in compare(scores, self._config)]
        further = self._robustness() | {"promises": self._promises(answers)}
        groups = subgroups(scores, self._test, self._config)
        further["subgroups"] = [group.model_dump(mode="json") for group in groups]
        points = [self._point(role, variant) for role, variant in _served(self._study)]
        further["releases"] = [point.model_dump(mode="json") for point in points]
        write_atomic(folder / FURTHER, json.dumps(further, indent=1))
        write_atomic(folder / ENVIRONMENT, json.dumps(_measured_on(), indent=1))
        claimed = {g: c.model_dump() for g, c in claims(scores, self._config).items()}
        write_atomic(folder / CLAIMS, json.dumps(claimed, indent=1))
        write_atomic(folder / COMPARISONS, json.dumps(compared, indent=1))
        for role, scored in scores.items():
            result = self._role_result(role, scored)
            write_atomic(folder / f"{role}.json", result.model_dump_json(indent=1))
            draw_reliability(folder / f"reliability-{role}.png", scored.reliability, title=role)

    def _promises(self, answers: Mapping[Role, Answer]) -> dict[str, Any]:
        validation = self._cohort.of(self._cohort.split.validation)
        return {
            role: [
                promise.model_dump(mode="json")
                for promise in promises(answer, validation, self._test, self._config, name=role)
            ]
            for role, answer in answers.items()
        }

    def _robustness(self) -> dict[str, Any]:
        config, guard = self._config, read_manifest(self._study.path("releases/student")).guard
        asked = {role: answers_to_images(self._study, role) for role in Role}
        answers = {role: answer for role, answer in asked.items() if answer}
        flag = flag_of(guard, config) if guard else None
        curves = stress_curves(answers, self._test, config, flag=flag)
        found = judge_guard(guard, self._test, config) if guard else None
        return {
            "stress": [curve.model_dump(mode="json") for curve in curves],
            "guard": found.model_dump(mode="json") if found else None,
        }

    def _score(self, role: Role, answer: Answer) -> Scores:
        if self._config.task is Task.SEGMENTATION:
            return score_segmentation(answer, self._test, self._config, salt=self._salt, name=role)
        return score_classification(
            answer,
            self._test,
            self._config,
            validation=self._cohort.of(self._cohort.split.validation),
            salt=self._salt,
            name=role,
        )

    def _point(self, role: Role, variant: Variant) -> ReleasePoint:
        """Measure a further release of a role as the role itself was."""
        release = self._study.path(f"releases/{variant.of(role)}")
        predictor = load(release)

        def answer(case: Case) -> Prediction:
            return predictor.answer(image_of(case, self._config), with_probabilities=True)

        scores = self._score(role, answer)
        figure = "dice" if self._config.task is Task.SEGMENTATION else "auroc"
        told = VariantResult.model_validate_json((release / PARITY).read_text())
        return ReleasePoint(
            name=variant.of(role),
            role=role,
            figure=figure,
            value=scores.headline[figure],
            size_mib=told.size_mib or 0.0,
            latency=self._latencies[variant.of(role)],
        )

    @cached_property
    def _latencies(self) -> dict[str, Latency]:
        """What each release takes; they take turns, so that figures that are compared are fair."""
        roles = [role for role in Role if self._is_released(role)]
        names = [*roles, *(variant.of(role) for role, variant in _served(self._study))]
        console.print(f"latency {', '.join(names)}")
        folders = [self._study.path(f"releases/{name}") for name in names]
        options = self._config.latency
        timed = from_small_to_large(self._test, LATENCY_CASES)
        with images_alone(timed, self._config) as images, self._quiet():
            measured = measure_latencies(
                folders, images, queries=options.queries, threads=options.threads
            )
        return {name: measured[folder] for name, folder in zip(names, folders, strict=True)}

    def _is_released(self, role: Role) -> bool:
        """Whether a device can be given it; not an external teacher that is no graph."""
        return role is not Role.TEACHER or is_portable(self._study)

    def _role_result(self, role: Role, scores: Scores) -> RoleResult:
        return RoleResult(
            role=role,
            headline=scores.headline,
            per_class=scores.per_class,
            cases=scores.cases,
            reliability=scores.reliability,
            failures=scores.failures,
            agreement=scores.agreement,
            confusion=scores.confusion,
            **self._cost(role),
        )

    def _cost(self, role: Role) -> dict[str, Any]:
        release = self._study.path(f"releases/{role}")
        if not self._is_released(role):
            kinds = [external.kind for external in self._config.teacher.external]
            return {"model": {"name": "external", "kinds": kinds}}
        manifest = read_manifest(release)
        return {
            "model": manifest.model,
            "parameters": manifest.parameters,
            "macs": manifest.macs,
            "size_mib": (release / WEIGHTS).stat().st_size / 2**20,
            "temperature": manifest.temperature,
            "latency": self._latencies[role],
        }


def _measured_on() -> dict[str, Any]:
    """The machine, and the day, on which the test split was scored."""
    return {"evaluated_on": datetime.now(UTC).date().isoformat(), **environment()}


def _count_opening(study: Study) -> None:
    with (study.folder / OPENINGS).open("a") as file:
        file.write(f"{len(study.config.gates)} gates\n")


def _served(study: Study) -> list[tuple[Role, Variant]]:
    """Return the further releases that medkd's own runtime serves, where they are released."""
    return [
        (role, variant)
        for role in Role
        for variant in (Variant.OPENVINO, Variant.INT8)
        if (study.path(f"releases/{variant.of(role)}") / MANIFEST).exists()
    ]
