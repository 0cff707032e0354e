"""Groups: what a column of the datalist says of a case, numbers cut into bands."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from medkd.data.findings import Finding, Level
from medkd.options import SubgroupOptions
from medkd.types import Case

UNKNOWN = "unknown"


def group_of(case: Case, named: SubgroupOptions) -> str:
    """Return a case's group by one of its attributes.

    Raises:
        ValueError: what should be cut into bands is no number.
    """
    value = case.attributes.get(named.attribute, "").strip()
    if not named.edges:
        return value or UNKNOWN
    return band(float(value) if value else math.nan, named.edges)


def band(value: float, edges: Sequence[float]) -> str:
    """Name the band that a number lies in; the lower edge belongs to it.

    Example:
        >>> [band(age, (40.0, 60.0)) for age in (39.0, 40.0, 75.0)]
        ['below 40', '40 to 60', '60 and more']
    """
    if math.isnan(value):
        return UNKNOWN
    return bands(edges)[int(np.searchsorted(edges, value, side="right"))]


def bands(edges: Sequence[float]) -> list[str]:
    """Name all bands, in order."""
    named = [f"{edge:g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(named)]
    return [f"below {named[0]}", *between, f"{named[-1]} and more"]


def misgrouped(cases: Sequence[Case], named: SubgroupOptions) -> Iterator[Finding]:
    """Yield what is wrong with a grouping of cases."""
    if named.structure is not None:
        return
    columns = sorted({name for case in cases for name in case.attributes})
    if named.attribute not in columns:
        yield Finding(
            None,
            Level.ERROR,
            f"evaluate.subgroups: no column {named.attribute!r} in the datalist; it has "
            f"{', '.join(columns) or 'no further ones'}",
        )
        return
    for case in cases:
        try:
            group_of(case, named)
        except ValueError:
            said = repr(case.attributes[named.attribute])
            yield Finding(
                case.id,
                Level.ERROR,
                f"evaluate.subgroups: {named.attribute} is {said}, which is no number",
                "correct it, or leave out the edges",
                private=(said,),
            )
