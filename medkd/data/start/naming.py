"""Naming: what a config calls the structures and classes of a data set.

These names reach reports, trackers and releases, so none may tell of a patient.
"""

import re
from collections.abc import Sequence
from itertools import chain, count

from medkd.data.quality.telling import looks_like

DATE = re.compile(
    r"(?<!\d)(?:\d{1,2}([-_./])\d{1,2}\1\d{2}|(?:19|20)\d\d[-_./](?:0?[1-9]|1[0-2]))(?!\d)"
)


def tells(text: str) -> str | None:
    """Say what of a patient a name seems to hold; None if nothing.

    Example:
        >>> tells("GTV 3.4.19"), tells("DOE^JANE"), tells("lung left")
        ('a date', 'a name', None)
    """
    return looks_like(text) or ("a date" if DATE.search(text) else None)


def named(text: str) -> str:
    """Return a name that may stand in a config, a file name and a table."""
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_") or "structure"


def names_of(texts: Sequence[str], *, kind: str = "structure") -> tuple[list[str], tuple[str, ...]]:
    """Return a name for each, no two alike, and what is to be said of those that had to change.

    Example:
        >>> names_of(["Class A", "class_a", "DOE^JANE"], kind="class")[0]
        ['class_a', 'class_a_2', 'class_3']
    """
    names: list[str] = []
    remarks = []
    for number, text in enumerate(texts, start=1):
        held = tells(text)
        plain = f"{kind}_{number}" if held else named(text)
        name = next(
            each for each in chain([plain], (f"{plain}_{n}" for n in count(2))) if each not in names
        )
        names.append(name)
        if held:
            remarks.append(
                f"TODO: name {name}: what the data set calls it looks as if it held {held}"
            )
        elif name != plain:
            remarks.append(f"{name} is what the data set calls {text!r}; {plain} is another")
    return names, tuple(remarks)


def modality_names(told: object) -> tuple[str, ...]:
    """Return a name for each of several channels, by number: ``{"0": "T1", "1": "FLAIR"}``."""
    if not isinstance(told, dict) or len(told) < 2:
        return ()
    order = sorted(told, key=lambda key: (len(str(key)), str(key)))
    names = [named(str(told[key])) for key in order]
    taken = {"case", "image", "label", "patient", "split"}
    return tuple(
        f"{name}_{number}" if names.count(name) > 1 or name in taken else name
        for number, name in enumerate(names)
    )
