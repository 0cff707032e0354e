"""Admit: an external teacher is examined before anything is learned from it.

It must answer for the validation cases in the study's classes and on their grid, and must not have
been trained on their patients or the test split's. Its temperature is fitted there.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from scipy.optimize import linear_sum_assignment

from medkd.config import Config, expand
from medkd.data import phi
from medkd.data.activation import logits_of
from medkd.data.annotated import covered, in_terms_of
from medkd.data.check import Cohort
from medkd.data.samples import Sample, load_samples
from medkd.errors import DataError
from medkd.metrics.classification import auroc_of, by_class
from medkd.models.cost import parameters
from medkd.models.external import channel_matrix, open_external, portable_graph
from medkd.models.graph import weight_files
from medkd.options import ExternalOptions
from medkd.predict.teachers import (
    SOURCE,
    external_path,
    externals,
    looking_once,
    on_network_grid,
    open_member,
)
from medkd.progress import console, progress
from medkd.study import Study, digest, sha256, write_atomic
from medkd.train.calibrate import fit_on_cases
from medkd.train.remarks import made_or_kept
from medkd.types import UNLABELLED, Activation, Task

LEAST_AGREEMENT = 0.1  # Dice, or 2 AUROC - 1: less is no answer to the same question
SURELY_SAID = 1e-12  # what a file says is less likely may have been rounded to 0
CLEARLY = 0.05  # by which another order of the channels must fit better


def admit(study: Study, cohort: Cohort) -> list[Path]:
    """Examine the external teachers of a study; return their stages' folders.

    Raises:
        ConfigError: its classes are not the study's.
        DataError: it cannot be opened, its answers do not fit the cases, or it has been trained on
            patients of the validation or test split.
    """
    folders = []
    for stage, options in externals(study.config).items():
        examination = _Examination(study, cohort, options)
        folders.append(
            made_or_kept(study, stage, inputs=examination.inputs(), make=examination.make)
        )
    return folders


class _Examination:
    """One external teacher and the cases it is examined on."""

    def __init__(self, study: Study, cohort: Cohort, options: ExternalOptions) -> None:
        self._study, self._cohort, self._options = study, cohort, options
        self._config = study.config
        self._path = external_path(options)

    def inputs(self) -> dict[str, Any]:
        """Return all that the examination depends on."""
        options, cohort = self._options, self._cohort
        inputs: dict[str, Any] = {
            "teacher": options.model_dump(exclude={"path", "patients", "weight"}),
            "its files": self._digest(),
            "its patients": self._patients(None),
            "labels": self._config.data.labels,
            "preprocess": self._config.preprocess.model_dump(),
            "validation cases": cohort.digest_of(cohort.split.validation),
            "test cases": cohort.digest_of(cohort.split.test),
        }
        if self._config.data.ignore is not None:
            inputs["ignore"] = self._config.data.ignore
        if self._config.data.overlapping:
            inputs["overlapping"] = self._config.data.includes
        return inputs

    def make(self, folder: Path) -> None:
        """Examine it, and write down what was found."""
        classes, stated = self._said_of_itself()
        learned_from = self._patients(stated)
        seen = self._refuse_leakage(learned_from)
        if learned_from and not seen:
            console.print(
                f"[bold yellow]warning:[/] teacher.external: {escape(str(self._path))}: none of "
                f"the {len(learned_from)} patients it was trained on is in this study; look "
                f"whether ids are written as the column {self._config.data.patient!r} writes them"
            )
        member = open_member(self._config, self._options, classes=classes)
        if member.saved and (missing := member.saved.missing(self._cohort.cases.values())):
            raise DataError.of(missing)
        samples = load_samples(self._cohort.of(self._cohort.split.validation), self._config)
        self._refuse_untold(samples)
        shown = progress(samples, "examine teacher", total=len(samples))
        config = looking_once(self._config)  # each view is at its temperature
        compared: list[np.ndarray] = []  # what is kept of each answer, which may be large

        def answered() -> Iterator[np.ndarray]:
            for sample in shown:
                answer = on_network_grid(member, sample, config)
                compared.append(_compared(answer, sample, config))
                yield logits_of(np.maximum(answer, SURELY_SAID), config.activation)

        temperature = fit_on_cases(answered(), samples, config)
        self._refuse_strangers(compared, samples)
        found = {
            "kind": self._options.kind,
            "classes": list(classes),
            "temperature": temperature,
            "patients": "unknown" if learned_from is None else "known",
            "seen": seen,  # patients of the training split
            "parameters": parameters(member.network) if member.network else None,
            "files": self._digest(),
        }
        if self._options.kind == "onnx" and member.network:
            shape = (self._config.preprocess.channels, *self._config.preprocess.window)
            found["portable"] = portable_graph(member.network, shape) is not None
        write_atomic(folder / SOURCE, json.dumps(found, indent=1))

    def _said_of_itself(self) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """Return the classes of its channels, and the hashed patients its checkpoint names."""
        classes, patients = self._options.classes, None
        if self._options.kind != "probabilities":
            opened = open_external(self._options, self._path, self._config)
            classes, patients = classes or opened.classes, opened.patients
        classes = classes or self._config.classes
        channel_matrix(classes, self._config)
        return classes, patients

    def _digest(self) -> str:
        path = self._path
        if not path.exists():
            raise DataError(f"teacher.external: {path}: no such file or folder")
        files: Sequence[Path] = sorted(p for p in path.rglob("*") if p.is_file())
        if path.is_file():
            files = [path, *weight_files(path)] if self._options.kind == "onnx" else [path]
            path = path.parent
        elif self._options.kind == "checkpoint":
            files = [path / "checkpoint.json", path / "weights.safetensors"]
        if missing := [p for p in files if not p.is_file()]:
            raise DataError(f"teacher.external: {missing[0]}: no such file")
        shown = progress(files, "read teacher", total=len(files))
        return digest([(p.relative_to(path).as_posix(), sha256(p)) for p in shown])

    def _patients(self, hashed: Sequence[str] | None) -> list[str] | None:
        """Return the keyed hashes of the patients it learned from; None if nobody knows."""
        given, salt = self._options.patients, phi.study_salt(self._study.folder)
        if isinstance(given, str):
            file = expand(
                given, key="teacher.external", root=expand(self._config.data.root, key="")
            )
            try:
                given = tuple(
                    line.strip() for line in file.read_text().splitlines() if line.strip()
                )
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"teacher.external.patients: {file}: not a text file with one patient id a "
                    f"line ({error})"
                ) from None
        if given is not None:
            self._refuse_cases(given)
            return sorted(phi.key(name, salt=salt, kind="patient") for name in given)
        return None if hashed is None else self._translated(hashed)

    def _refuse_cases(self, given: Sequence[str]) -> None:
        """Refuse ids of cases: none would be a patient of the test split."""
        patients = {case.patient for case in self._cohort.cases.values()}
        if cases := sorted(set(given) & self._cohort.cases.keys() - patients):
            raise DataError(
                f"teacher.external.patients: {', '.join(cases[:3])} are cases of this study, not "
                f"patients; list what the column {self._config.data.patient!r} says of them"
            )

    def _translated(self, hashed: Sequence[str]) -> list[str] | None:
        """Say under this study's salt which of its patients a checkpoint of another has seen."""
        other = next((p / ".salt" for p in self._path.parents if (p / ".salt").is_file()), None)
        if other is None or not hashed:
            return None
        theirs, ours = other.read_bytes(), phi.study_salt(self._study.folder)
        everyone = {case.patient for case in self._cohort.cases.values()}
        seen = [p for p in everyone if phi.key(p, salt=theirs, kind="patient") in set(hashed)]
        return sorted(phi.key(p, salt=ours, kind="patient") for p in seen)

    def _refuse_leakage(self, learned_from: Sequence[str] | None) -> list[str]:
        """Return the training patients it knows; refuse what it knows of the other parts."""
        if learned_from is None and self._options.out_of_fold:
            raise DataError(
                f"teacher.external: {self._path}: out_of_fold needs to know whom it was trained "
                f"on, which it does not say itself; list them under patients"
            )
        if learned_from is None:
            return []
        salt, split = phi.study_salt(self._study.folder), self._cohort.split
        seen = {}
        for part, ids in vars(split).items():
            patients = {case.patient for case in self._cohort.of(ids)}
            keys = {p: phi.key(p, salt=salt, kind="patient") for p in patients}
            seen[part] = sorted(p for p, key in keys.items() if key in set(learned_from))
        for part in ("validation", "test"):
            if seen[part]:
                raise DataError(
                    f"teacher.external: {self._path} was trained on {len(seen[part])} patients of "
                    f"the {part} split ({', '.join(seen[part][:5])}); move them to train with a "
                    f"split of your own (data.split.column), or bring another teacher"
                )
        return seen["train"]

    def _refuse_untold(self, samples: Sequence[Sample]) -> None:
        """Refuse findings of which none is there and absent, so that nothing can be compared."""
        if not self._config.has_findings:
            return
        labels = np.stack([sample.label for sample in samples])
        if not ((labels == 0).any(axis=0) & (labels == 1).any(axis=0)).any():
            raise DataError(
                f"teacher.external: {self._path}: of no finding are there validation cases that "
                f"have it and others that have not, so nothing tells whether it fits; add some"
            )

    def _refuse_strangers(self, compared: Sequence[np.ndarray], samples: Sequence[Sample]) -> None:
        """Refuse channels in another order, and answers that have nothing to do with the labels."""
        own = _agreement(compared, samples, self._config)
        known = np.isfinite(own).all(axis=1)  # findings that some have and some have not
        own = own[known][:, known]
        rows, columns = linear_sum_assignment(-own)
        said = self._config.structures or self._config.classes
        names = [name for name, is_known in zip(said, known, strict=True) if is_known]
        if own[rows, columns].mean() > np.diag(own).mean() + CLEARLY:
            looks = ", ".join(
                f"{names[c]} looks like {names[r]}"
                for r, c in zip(rows, columns, strict=True)
                if r != c
            )
            raise DataError(
                f"teacher.external: {self._path}: on the validation cases its channels fit the "
                f"labels in another order: {looks}; list its channels in order under classes"
            )
        if np.diag(own).mean() < LEAST_AGREEMENT:
            raise DataError(
                f"teacher.external: {self._path}: its answers for the validation cases do not fit "
                f"their labels (mean {'2 AUROC - 1' if self._config.has_findings else 'Dice'} "
                f"{np.diag(own).mean():.3f}); compare its preprocessing, "
                f"orientation and classes with the study's"
            )


def _compared(answer: np.ndarray, sample: Sample, config: Config) -> np.ndarray:
    """Return what ``_agreement`` needs of one case; of findings the answer, else counts of voxels.

    ``[2, structures, answered structures]``: how many voxels both have, and how many each has; of a
    classification, of classes and images. An answered structure that a label does not cover counts
    where that has another one.
    """
    if config.has_findings:
        return answer
    if config.activation is Activation.SIGMOID:
        return _compared_by_channel(answer, sample)
    classes = len(config.classes)
    judged = sample.label.ravel() != UNLABELLED
    truth = sample.label.ravel()[judged].astype(np.int64)
    said = answer.argmax(axis=0).ravel()[judged]
    said = np.where(truth == 0, in_terms_of(said, covered(sample.case, config)), said)
    both = np.bincount(truth * classes + said, minlength=classes**2).reshape(classes, -1)
    sizes = both.sum(axis=1)[:, None] + both.sum(axis=0)[None]
    first = 1 if config.task is Task.SEGMENTATION else 0
    return np.stack([both, sizes])[:, first:, first:]


def _compared_by_channel(answer: np.ndarray, sample: Sample) -> np.ndarray:
    """Return the same of structures that may overlap, each where it is judged."""
    label = sample.label.reshape(len(sample.label), -1)
    said = (answer >= 0.5).reshape(len(answer), -1).astype(np.float32)
    judged, there = (label != UNLABELLED).astype(np.float32), (label == 1).astype(np.float32)
    return np.stack([there @ said.T, there.sum(axis=1)[:, None] + judged @ said.T])


def _agreement(
    compared: Sequence[np.ndarray], samples: Sequence[Sample], config: Config
) -> np.ndarray:
    """Return the Dice of each reference structure (rows) with each answered one, pooled.

    Of findings it is how well each channel tells who has each of them: 2 AUROC - 1, 0 for chance: a
    rare finding is seldom given a probability of a half.
    """
    if not config.has_findings:
        both, sizes = np.sum(compared, axis=0)
        return 2 * both / np.maximum(sizes, 1)
    labels = np.stack([sample.label for sample in samples])
    found = [
        by_class(auroc_of, np.repeat(channel[:, None], labels.shape[1], axis=1), labels)
        for channel in np.stack(compared).T
    ]
    return 2 * np.array(found).T - 1
