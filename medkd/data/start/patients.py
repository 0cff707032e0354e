"""Patients: whose the cases are, by the data set, a table beside it, or what the cases show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medkd.data.quality.examine import Examined
from medkd.data.quality.kinship import kinships, proposed
from medkd.data.quality.privacy import OF_PATIENTS
from medkd.data.start.layout import Row
from medkd.types import Case

LEAST = 3  # patients: of fewer no split can be made


@dataclass(frozen=True)
class Patients:
    """How the patients are known.

    Attributes:
        how: in plain words.
        are_told: whether the data say it; where not, it is a guess that nobody should quote.
    """

    how: str
    are_told: bool


def with_patients(
    rows: Sequence[Row], cases: Mapping[str, Case], examined: Mapping[str, Examined]
) -> tuple[list[Row], Patients]:
    """Give each case a patient; the column that names them is then no attribute any more."""
    if all(row.patient for row in rows):
        return list(rows), Patients("named by the data set", are_told=True)
    too_few = []
    for column in _columns(rows):
        if (count := len({row.attributes[column] for row in rows})) >= LEAST:
            how = f"by the column {column} of a table beside the data"
            return [_by(row, column) for row in rows], Patients(how, are_told=True)
        too_few.append(f"; the column {column} holds {count} of them, too few to be split")
    found = list(kinships(cases, examined))
    of_case = proposed(list(cases), found)
    told = [replace(row, patient=row.patient or cases[of_case[row.case]].patient) for row in rows]
    if found:
        how = f"TODO: inferred, correct it if you know better: {found[0].evidence}"
    else:
        lacking = sum(not row.patient for row in rows)
        how = (
            f"TODO: nobody tells whose {lacking} of {len(rows)} cases are, each is taken for a "
            f"patient; correct the column patient"
        )
    return told, Patients(how + "".join(too_few), are_told=False)


def _columns(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the columns that go by a name for patients and are filled in."""
    for column in dict.fromkeys(name for row in rows for name in row.attributes):
        if OF_PATIENTS.fullmatch(column) and all(row.attributes.get(column) for row in rows):
            yield column


def _by(row: Row, column: str) -> Row:
    others = {name: value for name, value in row.attributes.items() if name != column}
    return replace(row, patient=row.attributes[column], attributes=others)
