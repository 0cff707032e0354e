"""Data cards: what a reviewer must know about a data set, as Markdown with a YAML head.

The head is checked field by field; the prose below it is for people. What nobody could find out is
written ``unknown: <reason>``, so that a gap is stated and never looks like an oversight.
"""

import re
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from medkd.config import expand
from medkd.errors import DataError
from medkd.options import Options
from medkd.registry import did_you_mean
from medkd.study import Study
from medkd.types import Task


def _filled_in(text: str) -> str:
    if text.startswith("<"):
        raise ValueError("still the template's text; fill it in")
    return text


def _known(text: str) -> str:
    if text.lower().startswith("unknown"):
        raise ValueError("must be known")
    return text


def _known_or_why(text: str) -> str:
    reason = text.removeprefix("unknown:").strip() if text.startswith("unknown:") else ""
    if text.lower().startswith("unknown") and not reason:
        raise ValueError("write `unknown: <reason>`, in quotes")
    return text


Filled = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_filled_in)
]
Known = Annotated[Filled, AfterValidator(_known)]
KnownOrWhy = Annotated[Filled, AfterValidator(_known_or_why)]


class Head(Options):
    """The fields of a card."""

    name: Known
    modality: Known
    anatomy: Known
    task: Task
    source: Known  # who published the data, and where
    licence: Known
    consent: KnownOrWhy  # and the ethics approval
    population: KnownOrWhy  # who the patients are
    acquisition: KnownOrWhy  # scanners, sequences, years
    reference_standard: KnownOrWhy  # what counts as the truth, and how it was made
    annotators: KnownOrWhy  # how many, how trained, how far they agree
    splits: Known
    known_biases: tuple[Known, ...] = Field(min_length=1)
    intended_use: Known
    forbidden_use: Known
    cases: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)] | None  # null: the data set does not tell
    citation: Known


# the fields of which null says that the data set does not tell
UNTOLD = frozenset(
    name for name, field in Head.model_fields.items() if type(None) in get_args(field.annotation)
)


class Card(Head):
    """A card: its head and the prose below it."""

    prose: Known

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Names of the fields that nobody could find out."""
        return tuple(
            name for name in Head.model_fields if str(getattr(self, name)).startswith("unknown:")
        )


def read_card(path: Path) -> Card:
    """Read a card and check it.

    Raises:
        DataError: missing, not a card, or fields that are missing, unknown, blank or not filled
            in; all of them in one pass.
    """
    head, prose = _read(path)
    try:
        return Card(**Head.model_validate(head).model_dump(), prose=prose)
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise DataError.of(lines) from None


def card_of(study: Study) -> Card | None:
    """Read the card that a study's config names, if it names one.

    Raises:
        DataError: as ``read_card`` does.
    """
    card = study.config.card
    return read_card(expand(card, key="card", root=study.config_path.parent)) if card else None


def check_template(path: Path) -> None:
    """Refuse a template that does not name exactly the fields of a card.

    Raises:
        DataError: fields that it lacks or that no card has.
    """
    head, _ = _read(path)
    lost = [f"{path}: {name}: missing" for name in Head.model_fields if name not in head]
    strange = [f"{path}: {name}: no field of a card" for name in head.keys() - Head.model_fields]
    if lost or strange:
        raise DataError.of(lost + sorted(strange))


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    parts = re.fullmatch(r"---\n(.*?\n)---\n(.*)", text, re.DOTALL)
    try:
        head = yaml.safe_load(parts[1]) if parts else None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path}: the head is not valid YAML: {error}") from None
    if not parts or not isinstance(head, dict):
        raise DataError(f"{path}: a card begins with a YAML head between two lines of ---")
    return {str(key): value for key, value in head.items()}, parts[2]


def _explain(problem: Any) -> str:  # noqa: ANN401
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        known = list(Head.model_fields)
        return f"{name}: no field of a card; {did_you_mean(name, known)}known: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message} (got {problem['input']!r})"
