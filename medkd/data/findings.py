"""Finding: one thing that a look at the data has shown, with the case, the file and the remedy."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    """What a finding means for the study, worst first."""

    ERROR = "error"  # nothing is trained
    WARNING = "warning"  # a person has to look
    NOTE = "note"  # worth knowing


ORDER = {level: number for number, level in enumerate(Level)}


WITHIN = re.compile(r"its file(?:/[^:;]*)+")  # a file of a series, in whose folder it lies
UID = re.compile(r"(?<![\d.])[0-2](?:\.\d+){3,}(?![\d.])")  # of DICOM: it leads to a patient


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        case: its id; None where it is about the whole data set.
        level: what it means for the study.
        message: what is wrong.
        remedy: what to do about it.
        file: where it lies.
        cases: ids of other cases; ``{cases[0]}`` in the message stands for the first.
        patients: ids of patients, likewise.
    """

    case: str | None
    level: Level
    message: str
    remedy: str = ""
    file: Path | None = None
    cases: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The message with the ids in it."""
        return self._filled(self.cases, self.patients)

    @property
    def line(self) -> str:
        """All of it in a line, for those who may know whose data these are."""
        where = [f"case {self.case}"] if self.case is not None else []
        where += [str(self.file)] if self.file else []
        return ": ".join([*where, f"{self.text}; {self.remedy}" if self.remedy else self.text])

    def anonymous(self, key: Callable[[str, str], str]) -> dict[str, str]:
        """Return it without file names and with keys for ids: what may leave the study folder.

        Args:
            key: stands in for an id; called with the kind, ``case`` or ``patient``, and the id.
        """
        message = self._filled(
            [key("case", name) for name in self.cases],
            [key("patient", name) for name in self.patients],
        )
        for name in (str(self.file), self.file.name) if self.file else ():
            message = message.replace(name, "its file")
        message = UID.sub("a UID", WITHIN.sub("its file", message))
        case = "" if self.case is None else key("case", self.case)
        return {"level": self.level, "case": case, "message": message, "remedy": self.remedy}

    def _filled(self, cases: Sequence[str], patients: Sequence[str]) -> str:
        if not (self.cases or self.patients):
            return self.message
        return self.message.format(cases=cases, patients=patients)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return them errors first, the order otherwise kept."""
    return sorted(findings, key=lambda finding: ORDER[finding.level])
