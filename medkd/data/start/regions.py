"""Regions: what ``dataset.json`` calls labels, in the words of ``data`` in a config.

nnU-Net lets a label stand for several values, so that regions nest (a tumour, its core, what of it
enhances), and calls ``ignore`` the value of voxels that nobody has judged. A region's value is
then the one that no region within it has, or, where all it has lies in others, one that no voxel
has; ``includes`` says what else lies in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise

from medkd.data.start.naming import names_of
from medkd.errors import DataError

IGNORE = "ignore"


@dataclass(frozen=True)
class Regions:
    """What labels mean.

    Attributes:
        labels: values by name, rising; without the background.
        includes: the structures that lie in others; empty where all exclude each other.
        ignore: the value of voxels nobody has judged.
        remarks: on names that had to change.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    includes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: int | None = None
    remarks: tuple[str, ...] = ()


def read(labels: object) -> Regions:
    """Read ``{"1": "liver"}`` (Decathlon) or ``{"liver": 1, "organ": [1, 2]}`` (nnU-Net).

    Raises:
        DataError: regions that a value each cannot tell apart.
    """
    entries = list(map(_entry, labels.items())) if isinstance(labels, dict) else []
    names, remarks = names_of([text for text, _ in entries])
    values = dict(zip(names, (numbers for _, numbers in entries), strict=True))
    ignored = values.pop(IGNORE, frozenset())
    values = {name: found - {0} for name, found in values.items() if found - {0}}
    unused = count(1 + max(max(found) for found in [{0}, ignored, *values.values()] if found))
    own = {name: _own(name, values, unused) for name in values}
    rising = sorted(own, key=own.__getitem__)
    if twice := [(a, b) for a, b in pairwise(rising) if own[a] == own[b]]:
        a, b = twice[0]
        raise _refusal(f"labels {a!r} and {b!r} share the value {own[a]}")
    nested = {name: tuple(n for n in rising if values[n] < values[name]) for name in rising}
    return Regions(
        labels={name: own[name] for name in rising},
        includes={name: within for name, within in nested.items() if within},
        ignore=min(ignored, default=None),
        remarks=remarks,
    )


def _entry(item: tuple[object, object]) -> tuple[str, frozenset[int]]:
    key, value = item
    name, numbers = (value, key) if str(key).isdigit() else (key, value)
    several = numbers if isinstance(numbers, list) else [numbers]
    return str(name), frozenset(int(str(n)) for n in several if str(n).isdigit())


def _own(name: str, values: Mapping[str, frozenset[int]], unused: Iterator[int]) -> int:
    """Return the value of a structure that none within it has, or one that is unused."""
    within = frozenset[int]().union(*(v for v in values.values() if v < values[name]))
    own = values[name] - within
    if len(own) > 1:
        has = f"has {len(own)} values of its own"
        raise _refusal(f"label {name!r} stands for {sorted(values[name])} and {has}")
    return min(own) if own else next(unused)


def _refusal(what: str) -> DataError:
    return DataError(
        f"dataset.json: {what}; structures either exclude each other or nest, and none has two "
        f"values that nothing within it has: write label maps with a value for each part"
    )
