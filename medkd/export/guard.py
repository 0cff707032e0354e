"""Guard: fitted once a study on what its networks learned from, for all of its releases."""

from collections.abc import Sequence
from pathlib import Path

from medkd.data.check import Cohort
from medkd.data.preprocess import preprocess
from medkd.data.reading import image_of
from medkd.device.guard import Guard, describe, fit_guard
from medkd.progress import progress
from medkd.study import Study, write_atomic
from medkd.types import Case

FILE = "guard.json"
PARTS = ("train", "validation")
ACCEPT = 0.95  # of images like those of the validation split


def guard_of(study: Study, cohort: Cohort) -> Guard | None:
    """Return the guard of a study's releases; None where one training image says nothing."""
    if len(cohort.split.train) < 2:
        return None
    options = study.config.preprocess
    parts = {part: cohort.of(getattr(cohort.split, part)) for part in PARTS}

    def described(cases: Sequence[Case]) -> list[dict[str, float]]:
        shown = progress(cases, "describe images", total=len(cases))
        return [describe(*preprocess(image_of(case, study.config), options)) for case in shown]

    def make(folder: Path) -> None:
        guard = fit_guard(*map(described, parts.values()), accept=ACCEPT)
        write_atomic(folder / FILE, guard.model_dump_json())

    images = {part: [cohort.images[case.id] for case in cases] for part, cases in parts.items()}
    inputs = images | {"preprocess": options.model_dump(), "accept": ACCEPT}
    folder = study.stage("guard", inputs=inputs, make=make)
    return Guard.model_validate_json((folder / FILE).read_text())
