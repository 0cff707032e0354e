"""Robustness: how far the answers of each role fall while the test images are made worse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_questions
from medkd.data.labels import (
    class_indices,
    class_of,
    of_judged_voxels,
    structure_masks,
    truth_of,
)
from medkd.data.preprocess import preprocess
from medkd.data.reading import image_of, label_of
from medkd.device.guard import Guard
from medkd.device.predictor import Prediction
from medkd.evaluate.answers import AnswerImage
from medkd.evaluate.stress import FOREIGN, STRESSES, Stress, stressed, turned
from medkd.metrics.overlap import dice
from medkd.metrics.statistics import bootstrap_mean
from medkd.progress import progress
from medkd.results import GuardResult, Interval, StressCurve
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED, Case, Role, Task, Volume

Flag = Callable[[Volume], bool]  # whether the guard flags an image


def stress_curves(
    answers: Mapping[Role, AnswerImage],
    cases: Sequence[Case],
    config: Config,
    *,
    flag: Flag | None = None,
) -> tuple[StressCurve, ...]:
    """Score roles on test images that are made worse by degrees.

    All roles meet the same worse images, of at most ``evaluate.stress_cases`` cases drawn once.

    Args:
        answers: of the roles that answer for any image.
        cases: of the test split.
        config: of the study.
        flag: the guard, to see what it notices.
    """
    bench = _Bench(answers, _drawn(cases, config), config, flag)
    if not bench.cases:
        return ()
    stresses = [stress for stress in STRESSES if config.dims in stress.dims]
    jobs = [(stress, strength) for stress in stresses for strength in stress.strengths]
    untouched = bench.run()
    run = {job: bench.run(*job) for job in progress(jobs, "stress", total=len(jobs))}
    return tuple(
        StressCurve(
            stress=stress.name,
            unit=stress.unit,
            figure="dice" if config.task is Task.SEGMENTATION else "accuracy",
            strengths=stress.strengths,
            untouched=untouched.figures,
            suffered={
                role: tuple(run[stress, strength].figures[role] for strength in stress.strengths)
                for role in answers
            },
            flagged=tuple(run[stress, strength].flagged for strength in stress.strengths)
            if flag
            else (),
        )
        for stress in stresses
    )


def judge_guard(guard: Guard, cases: Sequence[Case], config: Config) -> GuardResult:
    """Show the guard all test images as they are, and drawn ones that were made foreign."""
    flag, seed, drawn = flag_of(guard, config), config.study.seed, _drawn(cases, config)
    passes = np.array([not flag(image_of(case, config)) for case in cases], np.float64)

    def flagged(kind: Stress, case: Case) -> bool:
        volume = image_of(case, config)
        return flag(stressed(volume, kind, kind.strengths[0], seed=seed, case=case.id))

    foreign = {
        kind.name: float(np.mean([flagged(kind, case) for case in drawn]))
        for kind in FOREIGN
        if drawn
    }
    options = {"draws": config.evaluate.bootstrap, "seed": seed}
    passed = bootstrap_mean(passes, [case.patient for case in cases], **options)
    return GuardResult(passed=passed, limit=guard.limit, foreign=foreign)


def flag_of(guard: Guard, config: Config) -> Flag:
    """Return whether a guard flags an image."""
    return lambda v: guard.judge(*preprocess(v, config.preprocess)).is_unlike


@dataclass(frozen=True)
class _Run:
    figures: dict[Role, Interval]
    flagged: float


@dataclass(frozen=True)
class _Bench:
    """The cases, and what is asked of each."""

    answers: Mapping[Role, AnswerImage]
    cases: Sequence[Case]
    config: Config
    flag: Flag | None

    def run(self, stress: Stress | None = None, strength: float = 0.0) -> _Run:
        """Score all cases under a stress."""
        values: dict[Role, list[float]] = {role: [] for role in self.answers}
        flags = []
        for case in self.cases:
            volume, truth = self._worse(case, stress, strength)
            told = covered_questions(case, self.config)
            for role, answer in self.answers.items():
                values[role].append(self._value(answer(volume), truth, told))
            flags.append(self.flag(volume) if self.flag else False)
        options = {"draws": self.config.evaluate.bootstrap, "seed": self.config.study.seed}
        patients = [case.patient for case in self.cases]
        figures = {
            role: bootstrap_mean(np.array(found, np.float64), patients, **options)
            for role, found in values.items()
        }
        return _Run(figures, float(np.mean(flags)))

    def _worse(
        self, case: Case, stress: Stress | None, strength: float
    ) -> tuple[Volume, np.ndarray]:
        volume, truth = image_of(case, self.config), _truth(case, self.config)
        if stress is None:
            return volume, truth
        seed = self.config.study.seed
        if stress.name == "rotation" and self.config.task is Task.SEGMENTATION:
            truth = turned(truth, strength, dims=volume.dims)
        return stressed(volume, stress, strength, seed=seed, case=case.id), truth

    def _value(self, prediction: Prediction, truth: np.ndarray, told: np.ndarray) -> float:
        if prediction.mask is None:
            judged = truth != UNLABELLED
            return float((self._classes_of(prediction) == truth)[judged].mean())
        answer = class_indices(prediction.mask, self.config)
        answer, truth = of_judged_voxels(answer, truth, reference=truth)
        masks = (structure_masks(each, self.config) for each in (answer, truth))
        pairs = zip(*masks, told, strict=True)
        return float(np.mean([dice(said, there) for said, there, is_told in pairs if is_told]))

    def _classes_of(self, prediction: Prediction) -> np.ndarray:
        """Return the class that was answered ``[1]``, or the findings ``[findings]``, 0 or 1."""
        assert prediction.probabilities is not None
        if self.config.data.overlapping:
            return np.array([name in prediction.confidence for name in self.config.classes])
        return prediction.probabilities.argmax(axis=0, keepdims=True)


def _drawn(cases: Sequence[Case], config: Config) -> list[Case]:
    rng = np.random.default_rng(derive_seed(config.study.seed, "stress cases"))
    chosen = sorted(rng.permutation(len(cases))[: config.evaluate.stress_cases])
    return [cases[index] for index in chosen]


def _truth(case: Case, config: Config) -> np.ndarray:
    if isinstance(case.label, Path):
        return truth_of(label_of(case, config), case, config)
    return class_of(case, config)
