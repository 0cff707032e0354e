"""Survey: one pass over a study's data; every problem of it, case by case and of the whole."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medkd.config import Config, expand
from medkd.data import splits
from medkd.data.datalist import read_datalist
from medkd.data.findings import Finding, Level, worst_first
from medkd.data.quality.balance import Balance, balance, unbalanced
from medkd.data.quality.duplicates import duplicates
from medkd.data.quality.examine import Examined, examine
from medkd.data.quality.fitness import unfit
from medkd.data.quality.kept import Kept
from medkd.data.quality.kinship import Kinship, findings_of, kinships
from medkd.data.quality.outliers import outliers
from medkd.data.quality.privacy import identifying
from medkd.data.quality.statistics import card_findings
from medkd.errors import DataError, TooLargeError
from medkd.progress import progress
from medkd.study import Study, digest
from medkd.types import Case, Split

FOLDER = "check"  # of a study, below its own
EXAMINED = "examined.jsonl"
FEWER = 4  # times as few cases at once as before, of those that took too much memory


@dataclass(frozen=True)
class Survey:
    """What one pass has shown.

    Attributes:
        config: of the study.
        cases: by id, in the datalist's order; labels that are to be hidden are gone.
        examined: what each case holds, by id.
        split: None where an error leaves none.
        strata: of each patient, by which they were dealt.
        findings: worst first.
        balance: classes and attributes by part.
        kinships: cases that seem to be of one undeclared patient.
        part_digests: identity of the content of each part, of labels that are to be hidden too.
    """

    config: Config
    cases: dict[str, Case]
    examined: dict[str, Examined]
    split: Split | None
    strata: dict[str, str]
    findings: tuple[Finding, ...]
    balance: tuple[Balance, ...]
    kinships: tuple[Kinship, ...]
    part_digests: dict[str, str]

    @property
    def errors(self) -> list[Finding]:
        """What has to be mended before anything is trained."""
        return [finding for finding in self.findings if finding.level is Level.ERROR]

    @property
    def patients(self) -> int:
        """How many there are."""
        return len({case.patient for case in self.cases.values()})

    def digest_of(self, part: Sequence[str]) -> str:
        """Identity of the content of these cases."""
        return _digest(part, self.examined)


def survey(study: Study, *, keep: bool = False) -> Survey:
    """Read and judge every case and all of them together.

    Args:
        study: a config; of an existing study what was seen before is used.
        keep: also remember what was seen for a study that has no folder yet.

    Raises:
        DataError: there is no datalist to begin with.
    """
    config, listed = study.config, read_datalist(study)
    is_kept = keep or (study.folder / FOLDER / EXAMINED).is_file()
    kept = Kept(study.folder / FOLDER / EXAMINED if is_kept else None, config)
    examined = {
        case.id: _as_annotated(case, found)
        for case, found in zip(listed, _examined(listed, config, kept), strict=True)
    }
    strata = splits.strata_of(
        listed, by=config.data.split.stratify, volumes_ml=_volumes_ml(config, examined)
    )
    split, problems = _split(listed, config, examined, strata)
    cases = {case.id: case for case in listed}
    part_digests = {
        part: _digest(ids, examined) for part, ids in (vars(split) if split else {}).items()
    }
    if split:
        for case_id in _hidden(config, listed, split):
            cases[case_id] = replace(cases[case_id], label=None, annotated=None)
            seen = examined[case_id]
            examined[case_id] = seen.model_copy(update={"files": seen.image, "voxels": {}})
    balanced = tuple(balance(cases, examined, split, config)) if split else ()
    kin = tuple(kinships(cases, examined))
    findings = [finding for found in examined.values() for finding in found.findings]
    findings += problems
    findings += unfit(config, cases, examined, split) if split else ()
    findings += identifying(cases, examined, config)
    findings += duplicates(cases, examined, split)
    findings += outliers(examined, config)
    findings += unbalanced(balanced)
    findings += findings_of(kin, split)
    findings += card_findings(study, cases, examined)
    return Survey(
        config=config,
        cases=cases,
        examined=examined,
        split=split,
        strata=strata,
        findings=tuple(worst_first(findings)),
        balance=balanced,
        kinships=kin,
        part_digests=part_digests,
    )


def _digest(ids: Sequence[str], examined: Mapping[str, Examined]) -> str:
    return digest([examined[case_id].files for case_id in ids])


def _examined(cases: Sequence[Case], config: Config, kept: Kept) -> list[Examined]:
    """Examine the cases that are not known yet, several at a time; in the cases' order."""
    found = dict(progress(_each(cases, config, kept), "check", total=len(cases)))
    return [found[case.id] for case in cases]


def _each(cases: Sequence[Case], config: Config, kept: Kept) -> Iterator[tuple[str, Examined]]:
    """Examine as many cases at once as there are processors; those too large for that by fewer."""
    left, at_once = list(cases), os.cpu_count() or 1
    while left:
        larger = []
        for case, found in _round(left, config, kept, at_once=at_once):
            if found:
                yield case.id, found
            else:
                larger.append(case)
        left, at_once = larger, max(1, at_once // FEWER)


def _round(
    cases: Sequence[Case], config: Config, kept: Kept, *, at_once: int
) -> Iterator[tuple[Case, Examined | None]]:
    """Examine cases in the memory of one; None of those that need more than their share of it."""

    def one(case: Case) -> tuple[Examined | None, bool]:
        if known := kept.get(case):
            return known, True
        try:
            return examine(case, config, at_once=at_once), False
        except TooLargeError:
            return None, True

    pool = ThreadPoolExecutor(at_once)
    try:
        for case, (found, is_known) in zip(cases, pool.map(one, cases), strict=True):
            if found and not is_known:
                kept.put(case, found)
            yield case, found
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the cases being read, not for all


def _as_annotated(case: Case, found: Examined) -> Examined:
    """Add which structures a label covers, which belongs to the identity of its files."""
    if case.annotated is None:
        return found
    files = digest(found.files, case.annotated)
    return found.model_copy(update={"files": files, "covers": case.annotated})


def _volumes_ml(config: Config, examined: Mapping[str, Examined]) -> dict[str, dict[str, float]]:
    return {
        case_id: {
            name: found.voxels[value] * found.voxel_ml
            for name, value in config.data.labels.items()
            if value in found.voxels
        }
        for case_id, found in examined.items()
    }


def _split(
    cases: Sequence[Case],
    config: Config,
    examined: Mapping[str, Examined],
    strata: Mapping[str, str],
) -> tuple[Split | None, list[Finding]]:
    """Deal the cases, or verify the split that the user has given."""
    options = config.data.split
    root = expand(config.data.root, key="data.root")
    try:
        given = splits.given_parts(cases, options, root=root)
        problems = splits.problems_of_given(cases, options, given)
        if problems:
            return None, problems
        split = splits.split_cases(cases, options, given=given, strata=strata)
        return split, list(_changed(config, examined, root))
    except DataError as error:
        files = [root / options.file] if options.file else []
        return None, [Finding.of(str(error), files=files, private=error.private)]


def _changed(config: Config, examined: Mapping[str, Examined], root: Path) -> Iterator[Finding]:
    """Compare the content of a given split with the digests that came with it."""
    if not config.data.split.file:
        return
    given = splits.read_split(root / config.data.split.file)
    told = given.get("digests", {})
    for part in ("train", "validation", "test"):
        # in the order of the split: the datalist's may differ
        if part in told and told[part] != _digest(given[part], examined):
            message = f"data.split.file: the files of the {part} split are not those it was made of"
            remedy = "bring back those files, or remove `digests` from the split if they may differ"
            yield Finding(None, Level.ERROR, message, remedy)


def _hidden(config: Config, cases: Sequence[Case], split: Split) -> set[str]:
    """Return the training cases whose labels are not to be seen."""
    labelled = config.data.split.labelled
    if labelled is None:
        return set()
    train = [case for case in cases if case.id in set(split.train)]
    kept = splits.labels_kept(train, labelled=labelled, seed=config.study.seed)
    return {case.id for case in train} - kept
