"""Card: the draft of a data card; what a machine knows is filled in, what people know is TODO."""

from pathlib import Path

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from medkd.data.cards import TODO, Known
from medkd.data.start.fingerprint import Fingerprint
from medkd.data.start.layout import Layout
from medkd.data.start.patients import Patients

ASKED = {  # what only people know, and how to say it
    "anatomy": "organ and region that the images show",
    "source": "who published the data and where; a link or DOI a stranger can follow",
    "consent": 'ethics approval and patients\' consent, or "unknown: reason"',
    "population": 'age, sex, disease, country, years, how they were chosen, or "unknown: reason"',
    "reference_standard": 'what counts as the truth and how it was made, or "unknown: reason"',
    "annotators": 'how many, how trained, how far they agree, or "unknown: reason"',
    "intended_use": "what a model trained on these data may be used for",
    "forbidden_use": "what it must not be used for",
    "citation": "the publication to cite",
}
PROSE = """
# What a reviewer should know

TODO: what surprised you in the files, which cases are odd, what a naive split would leak, how
precise the labels are, and for whom the figures say nothing.
"""


def draft_card(layout: Layout, found: Fingerprint, *, data: Path, patients: Patients) -> str:
    """Return a card that `medkd check` accepts and whose TODO fields it names."""
    shapes, spacings = (_range(array) for array in (found.shapes, found.spacings_mm))
    unit = f"; {spacings} mm" if found.dims == 3 else ""
    splits = "the data set's own" if layout.has_parts else "by patient, dealt by medkd"
    if layout.dealt:
        splits += f"; {' and '.join(layout.dealt)} dealt by medkd from its training cases"
    known = {
        "name": _said(layout.title) or _said(data.name) or TODO,
        "modality": _said(layout.modality) or _modality(found),
        "task": str(found.task),
        "licence": _said(layout.licence) or TODO,
        "acquisition": f"{TODO}: sites, scanners, years. The files: {shapes} voxels{unit}",
        "splits": splits,
        "known_biases": [f"{TODO}: who or what is missing, over-represented or easier than usual"],
        "cases": found.cases,
        "patients": found.patients if patients.are_told else None,
        "statistics": None,
    }
    order = (
        *("name", "modality", "anatomy", "task", "source", "licence", "consent", "population"),
        *("acquisition", "reference_standard", "annotators", "splits", "known_biases"),
        *("intended_use", "forbidden_use", "cases", "patients", "statistics", "citation"),
    )
    lines = [_field(name, known.get(name, TODO)) for name in order]
    return "---\n" + "".join(lines) + "---\n" + PROSE


def _said(text: str) -> str:
    """Return what a data set says of itself; nothing where a card could not say it."""
    try:
        return TypeAdapter(Known).validate_python(" ".join(text.split()))
    except ValidationError:
        return ""


def _field(name: str, value: object) -> str:
    text = yaml.safe_dump({name: value}, width=10_000, allow_unicode=True)
    if value == TODO and name in ASKED:
        return text.rstrip("\n") + f" # {ASKED[name]}\n"
    if name == "statistics":
        return text.rstrip("\n") + " # medkd check --card fills it in\n"
    return text


def _range(array: np.ndarray) -> str:
    low, high = array.min(axis=0), array.max(axis=0)
    pairs = zip(low, high, strict=True)
    return " x ".join(f"{a:.4g}" if a == b else f"{a:.4g}-{b:.4g}" for a, b in pairs)


def _modality(found: Fingerprint) -> str:
    return "CT, by its intensities" if found.is_ct else TODO
