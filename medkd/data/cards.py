"""Data cards: what a reviewer must know about a data set, as Markdown with a YAML head.

The head is checked field by field; the prose below it is for people. What nobody could find out is
written ``unknown: <reason>``, so that a gap is stated and never looks like an oversight.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from medkd.config import expand
from medkd.errors import DataError
from medkd.options import Options
from medkd.registry import did_you_mean
from medkd.study import Study, write_atomic
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


class Statistics(Options):
    """What the data themselves show; written by ``medkd check --card``, never by hand.

    Axes run from left to right, back to front and foot to head; those of pictures as stored.
    """

    digest: str  # of all values of images and labels, however they are stored
    shape: tuple[tuple[int, ...], ...]  # least, median and largest along each axis, in voxels
    spacing_mm: tuple[tuple[float, ...], ...]  # likewise; a pixel counts as 1 mm
    stored: dict[str, int]  # cases by the type of their values
    orientations: dict[str, int]  # cases by axis codes; none in 2D
    holding: dict[str, int]  # cases with each class or structure
    volume_ml: dict[str, float]  # median of each structure that is held; cm² in 2D


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
    statistics: Statistics | None  # null: not made yet, or data that are drawn anew
    citation: Known


TODO = "TODO"  # begins a field that nobody has filled in yet

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

    @property
    def todos(self) -> tuple[str, ...]:
        """Names of the fields that nobody has filled in yet."""
        return tuple(name for name in Card.model_fields if TODO in str(getattr(self, name)))


def read_card(path: Path) -> Card:
    """Read a card and check it.

    Raises:
        DataError: missing, not a card, or fields that are missing, unknown, blank or not filled
            in; all of them in one pass.
    """
    return _card(_text(path), path)


def _card(text: str, path: Path) -> Card:
    head, prose = _parsed(text, path)
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
    path = path_of(study)
    return read_card(path) if path else None


def path_of(study: Study) -> Path | None:
    """Return where the card lies that a study's config names, if it names one."""
    card = study.config.card
    return expand(card, key="card", root=study.config_path.parent) if card else None


def refill(path: Path, filled: Mapping[str, Any]) -> Card:
    """Write these fields of a card's head anew and leave all other lines as they are.

    Raises:
        DataError: as ``read_card`` does; the card is then left as it was.
    """
    text = _text(path)
    for name, value in filled.items():
        written = re.compile(rf"^{name}:.*\n(?:[ \t-].*\n)*", re.MULTILINE).search(text)
        if written is None:
            raise DataError(f"{path}: {name}: missing")
        text = text[: written.start()] + _field(name, value) + text[written.end() :]
    card = _card(text, path)
    write_atomic(path, text)
    return card


def _field(name: str, value: Any) -> str:  # noqa: ANN401
    """Return a field as YAML, a mapping with a line a key."""
    if isinstance(value, Mapping):
        return f"{name}:\n" + "".join(f"  {key}: {_flow(each)}\n" for key, each in value.items())
    return f"{name}: {_flow(value)}\n"


def _flow(value: Any) -> str:  # noqa: ANN401
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def check_template(path: Path) -> None:
    """Refuse a template that does not name exactly the fields of a card.

    Raises:
        DataError: fields that it lacks or that no card has.
    """
    head, _ = _parsed(_text(path), path)
    lost = [f"{path}: {name}: missing" for name in Head.model_fields if name not in head]
    strange = [f"{path}: {name}: no field of a card" for name in head.keys() - Head.model_fields]
    if lost or strange:
        raise DataError.of(lost + sorted(strange))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", private=(str(error),)) from None


def _parsed(text: str, path: Path) -> tuple[dict[str, Any], str]:
    parts = re.fullmatch(r"---\n(.*?\n)---\n(.*)", text, re.DOTALL)
    try:
        head = yaml.safe_load(parts[1]) if parts else None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path}: the head is not valid YAML: {error}") from None
    if not parts or not isinstance(head, dict):
        raise DataError(f"{path}: a card begins with a YAML head between two lines of ---")
    return {str(key): value for key, value in head.items()}, parts[2]


def _explain(problem: Any) -> str:  # noqa: ANN401
    name = ".".join(part for part in problem["loc"] if isinstance(part, str))
    if name.startswith("statistics"):
        return f"{name}: {problem['msg']}; medkd check --card writes the statistics"
    if problem["type"] == "extra_forbidden":
        known = list(Head.model_fields)
        return f"{name}: no field of a card; {did_you_mean(name, known)}known: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message} (got {problem['input']!r})"
