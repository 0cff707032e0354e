"""Run: the only reader of the test split; from three releases to one report."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medkd.config import shareable
from medkd.data import phi
from medkd.data.cards import card_of
from medkd.data.check import Cohort, labelled
from medkd.data.datalist import tells_patients
from medkd.data.reading import image_of, images_alone
from medkd.device.latency import measure_latency
from medkd.device.manifest import MANIFEST, PARITY, WEIGHTS, read_manifest, sha256
from medkd.device.predictor import Prediction, load
from medkd.environment import environment
from medkd.evaluate.answers import Answer, answers_of, answers_to_images
from medkd.evaluate.claims import claims
from medkd.evaluate.compare import compare, judge
from medkd.evaluate.gallery import FILE as GALLERY
from medkd.evaluate.gallery import draw_gallery
from medkd.evaluate.promises import promises
from medkd.evaluate.reliability import draw_reliability
from medkd.evaluate.robustness import flag_of, judge_guard, stress_curves
from medkd.evaluate.score import Scores, score_classification, score_segmentation
from medkd.evaluate.subgroups import subgroups
from medkd.predict.teachers import admitted, externals, stages
from medkd.progress import console
from medkd.results import (
    CURVE,
    Claim,
    Comparison,
    Latency,
    Overlay,
    Part,
    ReleasePoint,
    Report,
    RoleResult,
    SizingPoint,
    Subgroup,
    VariantResult,
    Verdict,
    worst_gaps,
)
from medkd.statement import complete, write_report
from medkd.study import Study, write_atomic
from medkd.types import Case, Role, Task, Variant

FURTHER = "further.json"
COMPARISONS, ENVIRONMENT, CLAIMS = "comparisons.json", "environment.json", "claims.json"
OPENINGS = "test_openings"  # a line for every time the test split was opened
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
    folder = study.path("evaluation")
    roles = {
        role: RoleResult.model_validate_json((folder / f"{role}.json").read_text()) for role in Role
    }
    overlays = [Overlay(**entry) for entry in json.loads((folder / GALLERY).read_text())]
    compared = [Comparison(**c) for c in json.loads((folder / COMPARISONS).read_text())]
    report = complete(_report(study, cohort, roles, compared, overlays), study)
    write_report(report, study.folder)
    return report


def _inputs(study: Study, cohort: Cohort) -> dict[str, Any]:
    config = study.config
    portable = config.teacher.is_portable
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
            return predictor.predict(image_of(case, self._config), with_probabilities=True)

        scores = self._score(role, answer)
        figure = "dice" if self._config.task is Task.SEGMENTATION else "auroc"
        told = VariantResult.model_validate_json((release / PARITY).read_text())
        return ReleasePoint(
            name=variant.of(role),
            role=role,
            figure=figure,
            value=scores.headline[figure],
            size_mib=told.size_mib or 0.0,
            latency=self._latency(variant.of(role)),
        )

    def _latency(self, role: str) -> Latency:
        console.print(f"latency {role}")
        options = self._config.latency
        timed = self._test[:LATENCY_CASES]
        with images_alone(timed, self._config) as images, self._quiet():
            return measure_latency(
                self._study.path(f"releases/{role}"),
                images,
                queries=options.queries,
                threads=options.threads,
            )

    def _role_result(self, role: Role, scores: Scores) -> RoleResult:
        return RoleResult(
            role=role,
            headline=scores.headline,
            per_class=scores.per_class,
            cases=scores.cases,
            reliability=scores.reliability,
            failures=scores.failures,
            agreement=scores.agreement,
            **self._cost(role),
        )

    def _cost(self, role: Role) -> dict[str, Any]:
        release = self._study.path(f"releases/{role}")
        if role is Role.TEACHER and not self._config.teacher.is_portable:
            kinds = [external.kind for external in self._config.teacher.external]
            return {"model": {"name": "external", "kinds": kinds}}
        manifest = read_manifest(release)
        return {
            "model": manifest.model,
            "parameters": manifest.parameters,
            "macs": manifest.macs,
            "size_mib": (release / WEIGHTS).stat().st_size / 2**20,
            "temperature": manifest.temperature,
            "latency": self._latency(role),
        }


def _measured_on() -> dict[str, Any]:
    """The machine, and the day, on which the test split was scored."""
    return {"evaluated_on": datetime.now(UTC).date().isoformat(), **environment()}


def _count_opening(study: Study) -> None:
    with (study.folder / OPENINGS).open("a") as file:
        file.write(f"{len(study.config.gates)} gates\n")


def _report(
    study: Study,
    cohort: Cohort,
    roles: Mapping[Role, RoleResult],
    comparisons: Sequence[Comparison],
    overlays: Sequence[Overlay],
) -> Report:
    config = study.config
    claimed = json.loads((study.path("evaluation") / CLAIMS).read_text())
    gates = judge(
        roles, comparisons, config, claims={gate: Claim(**claim) for gate, claim in claimed.items()}
    )
    names = [variant.of(role) for role in Role for variant in Variant]
    manifests = {name: study.path(f"releases/{name}") / MANIFEST for name in names}
    releases = {f"release {n}": sha256(path) for n, path in manifests.items() if path.exists()}
    further = json.loads((study.path("evaluation") / FURTHER).read_text())
    everyone = [*cohort.split.train, *cohort.split.validation, *cohort.split.test]
    return Report(
        study=config.study.name,
        study_key=phi.key("study", salt=phi.study_salt(study.folder), kind="study"),
        task=config.task,
        classes=config.classes,
        verdict=Verdict.INCOMPLETE,
        reasons=(),
        roles=dict(roles),
        comparisons=tuple(comparisons),
        gates=gates,
        split=_parts(cohort),
        leakage=_leakage(cohort),
        test_openings=len((study.folder / OPENINGS).read_text().splitlines()),
        overlays=tuple(overlays),
        **further,
        gaps=worst_gaps([Subgroup(**group) for group in further["subgroups"]]),
        variants=_variants(study),
        sizing=_sizing(study),
        config=shareable(config),
        card=_card(study),
        environment=json.loads((study.path("evaluation") / ENVIRONMENT).read_text()),
        digests={"data set": cohort.digest_of(everyone), **releases},
        notes=_notes(study, cohort),
    )


def _served(study: Study) -> list[tuple[Role, Variant]]:
    """Return the further releases that medkd's own runtime serves, where they are released."""
    return [
        (role, variant)
        for role in Role
        for variant in (Variant.OPENVINO, Variant.INT8)
        if (study.path(f"releases/{variant.of(role)}") / MANIFEST).exists()
    ]


def _variants(study: Study) -> tuple[VariantResult, ...]:
    """What became of every variant, by the order of roles and variants."""
    names = [variant.of(role) for role in Role for variant in Variant]
    found = [study.path(f"releases/{name}") / PARITY for name in names]
    return tuple(
        VariantResult.model_validate_json(path.read_text()) for path in found if path.exists()
    )


def _sizing(study: Study) -> tuple[SizingPoint, ...]:
    if study.config.student.budget is None:
        return ()
    curve = json.loads((study.path("sizing") / CURVE).read_text())
    return tuple(SizingPoint(**point) for point in curve)


def _parts(cohort: Cohort) -> dict[str, Part]:
    return {
        name: Part(
            cases=len(ids),
            patients=len({case.patient for case in cohort.of(ids)}),
            digest=cohort.digest_of(ids),
        )
        for name, ids in vars(cohort.split).items()
    }


def _leakage(cohort: Cohort) -> dict[str, int]:
    """Count what lies on two sides of the split."""
    parts = [set(ids) for ids in vars(cohort.split).values()]
    patients = [{cohort.cases[i].patient for i in part} for part in parts]
    images = [{cohort.images[i] for i in part} for part in parts]
    return {
        f"{name} in more than one part": sum(map(len, sides)) - len(set().union(*sides))
        for name, sides in (("patients", patients), ("identical images", images))
    }


def _card(study: Study) -> dict[str, Any] | None:
    card = card_of(study)
    return card.model_dump(mode="json") if card else None


def _notes(study: Study, cohort: Cohort) -> tuple[str, ...]:
    config, train = study.config, cohort.of(cohort.split.train)
    notes = [_provenance(study, stage) for stage in externals(config)]
    without = len(train) - len(labelled(train))
    if without:
        notes.append(
            f"{without} of {len(train)} training cases have no label: the student alone learned "
            f"from them, by the teacher's soft targets."
        )
    notes += _partly_annotated(cohort)
    if config.teacher.model and config.teacher.folds == 1:
        notes.append(
            "Soft targets are in fold: the teacher was trained on the cases it softened. With "
            "teacher.folds of 2 or more they come from a teacher that never saw the patient."
        )
    if not tells_patients(config.data):
        notes.append(
            "The data set names no patients: each image counts as one, intervals are by image, and "
            "that no patient lies on two sides of the split proves nothing."
        )
    if cohort.mended:
        notes.append(_mended(cohort))
    shared = ["network", "initial weights"] + ([] if without else ["patches"])
    options = config.student.train
    if options.patience is None and options.minutes is None:
        shared.append(f"number of steps ({options.steps})")
    notes.append(f"Student and baseline share {', '.join(shared)}; one seed.")
    if config.task is Task.CLASSIFICATION:
        notes.append("Operating points were chosen on the validation split.")
    return tuple(notes)


def _partly_annotated(cohort: Cohort) -> list[str]:
    """Say how many labels cover some of the structures alone, and what follows for the figures."""
    counts = {
        part: sum(case.annotated is not None for case in cohort.of(ids))
        for part, ids in vars(cohort.split).items()
    }
    if not any(counts.values()):
        return []
    listed = ", ".join(f"{count} of {part}" for part, count in counts.items())
    return [
        f"Labels that cover some structures alone: {listed}. A structure is scored on the cases "
        f"whose label covers it, and figures of all structures are means over structures; "
        f"calibration sums the probabilities of the background and of what a label does not cover."
    ]


def _mended(cohort: Cohort) -> str:
    """Say how many images were mended while they were read, and how."""
    ways = Counter(told.partition(":")[0] for of_case in cohort.mended.values() for told in of_case)
    of_test = len(cohort.mended.keys() & set(cohort.split.test))
    listed = ", ".join(f"{way} in {count}" for way, count in sorted(ways.items()))
    return (
        f"{len(cohort.mended)} images were mended while they were read, {of_test} of the test "
        f"split: {listed} (preprocess.reading). Voxels that were interpolated are estimates."
    )


def _provenance(study: Study, stage: str) -> str:
    """What is known of the patients an external teacher learned from."""
    found = admitted(study, stage)
    name = f"{stage.replace('/', ' ')} ({found['kind']})"
    if found["patients"] == "unknown":
        return (
            f"{name}: nobody has said which patients it was trained on. If patients of the "
            f"validation or test split are among them, its figures are too good, and so may be the "
            f"student's."
        )
    is_strict = externals(study.config)[stage].out_of_fold
    how = "which it does not soften" if is_strict else "whose soft targets are in fold"
    return (
        f"{name}: it was trained on no patient of the validation or test split, by what is stated "
        f"of it, and on {len(found['seen'])} of the training split, {how}."
    )
