"""Assemble: the report, out of what the evaluation stage measured and what the study holds."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from medkd.config import Config, shareable
from medkd.data import phi
from medkd.data.cards import card_of
from medkd.data.check import Cohort, labelled
from medkd.data.datalist import tells_patients
from medkd.data.reader import PICTURES, suffix
from medkd.device.manifest import MANIFEST, PARITY, sha256
from medkd.evaluate.compare import judge
from medkd.evaluate.gallery import FILE as GALLERY
from medkd.predict.teachers import admitted, externals
from medkd.results import (
    CURVE,
    Claim,
    Comparison,
    Overlay,
    Part,
    Report,
    RoleResult,
    SizingPoint,
    Subgroup,
    VariantResult,
    Verdict,
    worst_gaps,
)
from medkd.statement import complete
from medkd.study import Study
from medkd.types import Role, Task, Variant

# what the evaluation stage left, beside a file for each role and the gallery's
FURTHER = "further.json"
COMPARISONS, ENVIRONMENT, CLAIMS = "comparisons.json", "environment.json", "claims.json"
OPENINGS = "test_openings"  # a line for every time the test split was opened


def assemble(study: Study, cohort: Cohort) -> Report:
    """Return the report of a study whose evaluation stage is complete; measures nothing.

    Gates are judged here, by what was measured; notes say what a reader has to know of the data,
    the split and the soft targets.

    Args:
        study: holds the evaluation, the releases and what people stated.
        cohort: the checked cases.
    """
    config, folder = study.config, study.path("evaluation")
    further, claimed = _read(folder / FURTHER), _read(folder / CLAIMS)
    roles = {
        role: RoleResult.model_validate_json((folder / f"{role}.json").read_text()) for role in Role
    }
    comparisons = tuple(Comparison(**entry) for entry in _read(folder / COMPARISONS))
    claims = {gate: Claim(**claim) for gate, claim in claimed.items()}
    names = [variant.of(role) for role in Role for variant in Variant]
    manifests = {name: study.path(f"releases/{name}") / MANIFEST for name in names}
    releases = {f"release {n}": sha256(path) for n, path in manifests.items() if path.exists()}
    everyone = [*cohort.split.train, *cohort.split.validation, *cohort.split.test]
    report = Report(
        study=config.study.name,
        study_key=phi.key("study", salt=phi.study_salt(study.folder), kind="study"),
        task=config.task,
        classes=config.classes,
        activation=config.activation,
        verdict=Verdict.INCOMPLETE,
        reasons=(),
        roles=roles,
        comparisons=comparisons,
        gates=judge(roles, comparisons, config, claims=claims),
        split=_parts(cohort),
        leakage=_leakage(cohort),
        test_openings=len((study.folder / OPENINGS).read_text().splitlines()),
        overlays=tuple(Overlay(**entry) for entry in _read(folder / GALLERY)),
        **further,
        gaps=worst_gaps([Subgroup(**group) for group in further["subgroups"]]),
        variants=_variants(study),
        sizing=_sizing(study),
        config=shareable(config),
        card=_card(study),
        environment=_read(folder / ENVIRONMENT),
        digests={"data set": cohort.digest_of(everyone), **releases},
        notes=_notes(study, cohort),
    )
    return complete(report, study)


def _read(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text())


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
    return tuple(SizingPoint(**point) for point in _read(study.path("sizing") / CURVE))


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
    notes += _partly_annotated(cohort, by_image=not config.structures)
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
    test = cohort.of(cohort.split.test)
    if config.structures and any(suffix(case.image) in PICTURES for case in test):
        notes.append(
            "Pictures have no spacing: a pixel counts as a millimetre each way, so distances and "
            "tolerances said to be in mm are in pixels."
        )
    if cohort.mended:
        notes.append(_mended(cohort))
    notes += _of_overlap(config)
    shared = ["network", "initial weights"] + ([] if without else ["patches"])
    options = config.student.train
    if options.patience is None and options.minutes is None:
        shared.append(f"number of steps ({options.steps})")
    notes.append(f"Student and baseline share {', '.join(shared)}; one seed.")
    if config.task is Task.CLASSIFICATION:
        notes.append("Operating points were chosen on the validation split.")
    return tuple(notes)


def _of_overlap(config: Config) -> list[str]:
    """Say what follows from each structure, or finding, being a question of its own."""
    if config.has_findings:
        return [
            "An image may have several findings, or none, so each is a question of its own: their "
            "probabilities do not sum to 1, calibration counts an image once a finding, and "
            "figures of all findings are means over findings. A finding counts as found from its "
            "operating point on, in the releases as well."
        ]
    if config.data.overlapping:
        return [
            "Structures may overlap, so each is a question of its own: calibration counts a voxel "
            "once a structure, and pictures draw the smaller structure over the larger."
        ]
    return []


def _partly_annotated(cohort: Cohort, *, by_image: bool) -> list[str]:
    """Say how many labels cover some of the structures alone, and what follows for the figures.

    Or some of the findings, where labels are of whole images.
    """
    counts = {
        part: sum(case.annotated is not None for case in cohort.of(ids))
        for part, ids in vars(cohort.split).items()
    }
    if not any(counts.values()):
        return []
    listed = ", ".join(f"{count} of {part}" for part, count in counts.items())
    if by_image:
        return [
            f"Labels that tell of some findings alone: {listed}. A finding is learned from, "
            f"calibrated and scored on the images in which it was judged, and figures of all "
            f"findings are means over findings."
        ]
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
