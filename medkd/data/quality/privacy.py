"""Privacy: what the inputs of a study say of its patients, before anything of it is tracked.

Inputs stay where they are, and medkd copies no header, name or text of theirs. But whoever shares
the data shares what is written there, pictures show what is burned into pixels, and a report names
the groups of a column. Findings name attributes and columns, never what they hold.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from medkd.config import Config
from medkd.data.findings import Finding, Level
from medkd.data.quality.examine import Examined
from medkd.data.quality.telling import (
    BURNED_IN,
    FACE,
    MAY_BE_BURNED_IN,
    OF_PIXELS,
    is_direct,
    looks_like,
)
from medkd.types import Case

COLUMNS = re.compile(
    r"(?i)(?:^|[_\W])(?:(?:first|last|sur|family|given|full|patient)?[_ ]?name|birth\w*|dob|mrn"
    r"|ssn|address|street|phone|e?mail|zip|postcode|accession\w*|insurance\w*|record\w*"
    r"|passport\w*|\w*date|physician\w*|doctor\w*|radiologist\w*)(?:$|[_\W])"
    r"|(?:^|[_\W])operators?(?:[_\W]*(?:id|initials|code|no))?\s*$"
)
# a whole name: `patient_age` and `treatment_group` say nothing of who it is
OF_PATIENTS = re.compile(
    r"(?i)(?:(?:inferred|suspected|anon\w*?|pseudo\w*?)[\W_]*)?"
    r"(?:(?:patient|subject|subj|participant|person)[\W_]*"
    r"(?:id|ids|identifier|uid|no|nr|num|number|code|key|hash)?|pat[\W_]*id|pid|mrn)"
)
STAYS = (
    "it stays where it is and medkd tracks none of it; de-identify the files before you share them"
)


def identifying(
    cases: Mapping[str, Case], examined: Mapping[str, Examined], config: Config
) -> Iterator[Finding]:
    """Yield what the inputs tell of their patients: headers, texts, names, columns and pixels."""
    yield from _of_pixels(examined, config)
    told = Counter(name for seen in examined.values() for name in set(seen.telling))
    direct = sorted(name for name in told if is_direct(name))
    indirect = sorted(name for name in told if not is_direct(name) and name not in OF_PIXELS)
    for names, level, what in (
        (direct, Level.WARNING, "say who a patient is"),
        (indirect, Level.NOTE, "can lead to a patient"),
    ):
        if names:
            count = max(told[name] for name in names)
            message = f"headers of {count} of {len(cases)} cases {what}: {', '.join(names)}"
            yield Finding(None, level, message, STAYS)
    yield from _of_rules(config)
    yield from _of_names(cases)
    yield from _of_columns(list(cases.values()), config)


def may_be_drawn(seen: Examined, config: Config) -> bool:
    """Whether a page may show a case: nothing says that text is, or may be, in its pixels."""
    is_suspect = BURNED_IN in seen.telling or MAY_BE_BURNED_IN in seen.telling
    return config.data.burned_in == "allow" or not is_suspect


def _of_pixels(examined: Mapping[str, Examined], config: Config) -> Iterator[Finding]:
    if config.data.burned_in == "refuse":
        for case_id, seen in examined.items():
            if BURNED_IN in seen.telling:
                yield Finding(
                    case_id,
                    Level.ERROR,
                    "its header says that text is burned into its pixels, which pictures would "
                    "show",
                    "black it out, or set data.burned_in: allow if it says nothing of a patient",
                )
        yield from _counted(
            examined,
            MAY_BE_BURNED_IN,
            "come off a screen and do not say that no text is burned into them",
            "look at them, and set data.burned_in: allow if none says anything of a patient; until "
            "then the page of the check shows none of them",
        )
    yield from _counted(
        examined,
        FACE,
        "say that a face can be recognised in them",
        "look at them before pictures are shared",
    )


def _counted(
    examined: Mapping[str, Examined], name: str, what: str, remedy: str
) -> Iterator[Finding]:
    count = sum(name in seen.telling for seen in examined.values())
    if count:
        yield Finding(None, Level.WARNING, f"{count} of {len(examined)} cases {what}", remedy)


def _of_rules(config: Config) -> Iterator[Finding]:
    """Look at what of a config releases carry: patterns that choose series, names of classes."""
    for value, name in enumerate(config.data.labels, start=1):
        if kind := looks_like(name):
            # a word may have another sense: preterm birth
            level = Level.WARNING if kind == "a birth" else Level.ERROR
            yield Finding(
                None,
                level,
                f"name {value} of data.labels seems to hold {kind}, and releases and reports "
                f"carry it",
                "call it by what it is; where that is no name of a person, write _ for spaces",
            )
    reading = config.preprocess.reading
    rules = {"series": reading.series}
    rules |= {f"series_of.{modality}": rule for modality, rule in reading.series_of.items()}
    for name, rule in rules.items():
        if kind := looks_like((rule and rule.description) or ""):
            where = f"preprocess.reading.{name}.description"
            yield Finding(
                None,
                Level.ERROR,
                f"{where} seems to hold {kind}, and releases carry it",
                "give a pattern of the protocol alone, such as *T1*",
            )


def _of_names(cases: Mapping[str, Case]) -> Iterator[Finding]:
    """Look at the names of files, folders and cases, and at patient ids."""
    files = [path for case in cases.values() for path in (*case.images, case.label)]
    texts = {
        "names of files or folders": [str(path)[-120:] for path in files if isinstance(path, Path)],
        "case ids": list(cases),
        "patient ids": [case.patient for case in cases.values()],
    }
    for what, found in texts.items():
        kinds = Counter(kind for text in found if (kind := looks_like(text)))
        if kinds:
            kind, count = kinds.most_common(1)[0]
            message = f"{count} {what} seem to hold {kind}"
            remedy = "nothing that leaves the study's folder holds them: keyed hashes stand in"
            yield Finding(None, Level.NOTE, message, remedy)


def personal(column: str, values: Iterable[str]) -> str | None:
    """Say what about a column speaks of a person: its values, or its name; None if nothing does.

    Example:
        >>> personal("seen", ["1956-03-04", ""]), personal("site", ["north", "south"])
        ('seems to hold a date', None)
    """
    kind = next((k for value in sorted(set(values)) if (k := looks_like(value))), None)
    if kind:
        return f"seems to hold {kind}"
    speaks = COLUMNS.search(column) or OF_PATIENTS.fullmatch(column)
    return "goes by a name that speaks of a person" if speaks else None


def _of_columns(cases: Sequence[Case], config: Config) -> Iterator[Finding]:
    named = {group.attribute for group in config.evaluate.subgroups}
    for column in dict.fromkeys(name for case in cases for name in case.attributes):
        holds = personal(column, (case.attributes.get(column, "") for case in cases))
        is_known = column in config.series_columns.values()  # UIDs, which say which series is meant
        if is_known or not holds:
            continue
        message = f"the column {column!r} {holds}"
        if column in named:
            remedy = "leave it out of evaluate.subgroups: a report names its groups"
            yield Finding(None, Level.ERROR, message, remedy)
        else:
            yield Finding(
                None,
                Level.NOTE,
                message,
                "that may name a patient, so it is not tracked; leave out what is not used",
            )
