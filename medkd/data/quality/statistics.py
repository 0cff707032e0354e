"""Statistics: what the data show, for their card, and whether a card says the same."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from medkd.config import Config
from medkd.data.cards import Card, Statistics, card_of, path_of
from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined
from medkd.errors import DataError
from medkd.study import Study, digest
from medkd.types import Case, Task


def statistics(
    cases: Mapping[str, Case], examined: Mapping[str, Examined], config: Config
) -> Statistics:
    """Return what a card says of these cases."""
    read = [found for found in examined.values() if found.shape]
    spacings = _spread([found.grid[1] for found in read])
    return Statistics(
        digest=digest(sorted((found.pixels, found.answer) for found in read)),
        shape=tuple(tuple(round(v) for v in row) for row in _spread([f.grid[0] for f in read])),
        spacing_mm=tuple(tuple(float(f"{v:.4g}") for v in row) for row in spacings),
        stored=_counts(found.stored for found in read),
        orientations=_counts(found.orientation for found in read if found.orientation),
        holding={
            name: sum(
                _holds(cases[case_id], seen, name, value) for case_id, seen in examined.items()
            )
            for name, value in config.data.labels.items()
        },
        volume_ml=_volumes(read, config) if config.task is Task.SEGMENTATION else {},
    )


def _spread(rows: list[tuple[int, ...]] | list[tuple[float, ...]]) -> np.ndarray:
    return np.percentile(np.array(rows), [0, 50, 100], axis=0)


def _counts(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _holds(case: Case, found: Examined, name: str, value: int) -> bool:
    if isinstance(case.label, tuple):
        return name in case.label
    return value in found.voxels or (not found.voxels and case.label == value)


def _volumes(read: list[Examined], config: Config) -> dict[str, float]:
    held = {
        name: [found.voxels[value] * found.voxel_ml for found in read if value in found.voxels]
        for name, value in config.data.labels.items()
    }
    return {name: float(f"{np.median(each):.4g}") for name, each in held.items() if each}


def counts(card: Card, cases: Mapping[str, Case]) -> dict[str, int]:
    """Return cases and patients; the latter only if the card says that the data set tells them."""
    told = {"cases": len(cases)}
    if card.patients is not None:
        told["patients"] = len({case.patient for case in cases.values()})
    return told


def card_findings(
    study: Study, cases: Mapping[str, Case], examined: Mapping[str, Examined]
) -> Iterator[Finding]:
    """Yield what is wrong with the card of a study, and where it describes other data."""
    path = path_of(study)
    try:
        card = card_of(study)
    except DataError as error:
        for line in str(error).splitlines():
            yield Finding.of(line, files=[path] if path else [], private=error.private)
        return
    if card is None:
        return
    if card.todos:
        message = f"the data card does not say yet: {', '.join(card.todos)}"
        yield Finding(None, Level.WARNING, message, "fill it in", path)
    if study.config.data.source != "phantom":  # drawn, not collected: as many as the config says
        yield from _contradictions(card, study.config, cases, examined)


def _contradictions(
    card: Card, config: Config, cases: Mapping[str, Case], examined: Mapping[str, Examined]
) -> Iterator[Finding]:
    shown: dict[str, object] = dict(counts(card, cases))
    if card.statistics is not None:
        shown |= statistics(cases, examined, config).model_dump()
    said = card.model_dump(include={"cases", "patients"})
    said |= card.statistics.model_dump() if card.statistics else {}
    other = [name for name, value in shown.items() if said[name] != value]
    if other:
        details = "; ".join(f"{name} {said[name]}, here {shown[name]}" for name in other[:3])
        yield Finding(
            None,
            Level.WARNING,
            f"the data card describes other data: {details}",
            "bring the data it describes, or let medkd check --card write what these show",
        )
