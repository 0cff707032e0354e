"""Check: nothing is trained before every case has been read and no error has been found."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medkd.config import Config
from medkd.data.cards import card_of
from medkd.data.findings import Level
from medkd.data.quality.survey import Survey, survey
from medkd.data.splits import split_folds
from medkd.errors import FindingsError
from medkd.progress import console
from medkd.study import Study, digest
from medkd.types import Case, Split


@dataclass(frozen=True)
class Cohort:
    """The checked cases of a study, and how their patients are dealt.

    Attributes:
        cases: by id, in the datalist's order.
        split: the case ids of train, validation and test.
        digests: SHA-256 of each case's image and label files, by id.
        images: SHA-256 of each case's image files alone, by id.
        name: of the data set, by its card; without a card, of its source.
        strata: of each patient, by which they were dealt.
        mended: what was mended while a case was read, by id.
        part_digests: identity of the content of each part, of labels that are to be hidden too.
    """

    cases: dict[str, Case]
    split: Split
    digests: dict[str, str]
    images: dict[str, str]
    name: str
    strata: dict[str, str] = field(default_factory=dict)
    mended: dict[str, tuple[str, ...]] = field(default_factory=dict)
    part_digests: dict[str, str] = field(default_factory=dict)

    def of(self, part: Iterable[str]) -> list[Case]:
        """Return the cases with these ids."""
        return [self.cases[case_id] for case_id in part]

    def folds(self, config: Config) -> list[list[str]]:
        """Return the ids of the labelled training cases, dealt to the folds of the teacher.

        Raises:
            DataError: fewer patients than folds.
        """
        train = labelled(self.of(self.split.train))
        folds, seed = config.teacher.folds, config.study.seed
        dealt = split_folds(train, folds=folds, seed=seed, strata=self.strata)
        return [[case.id for case in part] for part in dealt]

    def digest_of(self, part: Iterable[str]) -> str:
        """Identity of the content of these cases."""
        return digest([self.digests[case_id] for case_id in part])


def labelled(cases: Iterable[Case]) -> list[Case]:
    """Return the cases that have a label."""
    return [case for case in cases if case.label is not None]


def check(study: Study) -> Cohort:
    """Read and judge every case; a cohort comes back only if nothing is wrong.

    Raises:
        FindingsError: every problem of the pass, one line each, with file, case and remedy.
    """
    found = survey(study)
    cohort = cohort_of(study, found)
    warnings = sum(finding.level is Level.WARNING for finding in found.findings)
    if warnings:
        counted = "1 warning" if warnings == 1 else f"{warnings} warnings"
        console.print(f"check: {counted}; medkd check {study.config_path} says which")
    return cohort


def cohort_of(study: Study, found: Survey) -> Cohort:
    """Return the cohort that a survey has found sound.

    Raises:
        FindingsError: every error of the survey, one line each.
    """
    if found.errors or found.split is None:
        raise FindingsError.of([finding.line for finding in found.errors])
    card = card_of(study)
    return Cohort(
        cases=found.cases,
        split=found.split,
        digests={case_id: seen.files for case_id, seen in found.examined.items()},
        images={case_id: seen.image for case_id, seen in found.examined.items()},
        name=card.name if card else Path(study.config.data.source).stem,
        strata=found.strata,
        mended={i: seen.remedies for i, seen in found.examined.items() if seen.remedies},
        part_digests=found.part_digests,
    )
