"""Finding: one thing that a look at the data has shown, with the case, the file and the remedy."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Level(StrEnum):
    """What a finding means for the study, worst first."""

    ERROR = "error"  # nothing is trained
    WARNING = "warning"  # a person has to look
    NOTE = "note"  # worth knowing


ORDER = {level: number for number, level in enumerate(Level)}


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
        private: what of the message a file or a table says: it stays in the study.
    """

    case: str | None
    level: Level
    message: str
    remedy: str = ""
    file: Path | None = None
    cases: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        said: str,
        *,
        case: str | None = None,
        files: Sequence[Path] = (),
        private: Sequence[str] = (),
    ) -> "Finding":
        """Take an error apart: it begins with the file and the case, and ends with the remedy.

        Args:
            said: the error's text.
            case: its id.
            files: that the error may begin with; where with none of them it is about the first.
            private: as of the error.
        """
        named = [file for file in files if said.startswith(f"{file}: ")] or files[:1]
        file = max(named, key=lambda each: len(str(each)), default=None)
        said = said.removeprefix(f"{file}: ").removeprefix(f"case {case}: ")
        at = _hidden(said, {text: "-" * len(text) for text in private}).rfind("; ")
        message, remedy = (said[:at], said[at + 2 :]) if at > 0 else (said, "")
        return cls(case, Level.ERROR, message, remedy, file, private=tuple(private))

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

    def anonymous(self, key: Callable[[str, str], str]) -> dict[str, Any]:
        """Return it with keys for ids, without names of files and without what these say.

        That is what may leave the study folder.

        Args:
            key: stands in for an id; called with the kind, ``case`` or ``patient``, and the id.
        """
        cases = [key("case", name) for name in self.cases]
        message = self._filled(cases, [key("patient", name) for name in self.patients])
        instead = dict.fromkeys(self.private, "…")
        instead |= {str(self.file): "its file", self.file.name: "its file"} if self.file else {}
        message, remedy = (
            UID.sub("a UID", _hidden(text, instead)) for text in (message, self.remedy)
        )
        case = "" if self.case is None else key("case", self.case)
        told = {"level": self.level, "case": case, "message": message, "remedy": remedy}
        return told | {"cases": cases}

    def _filled(self, cases: Sequence[str], patients: Sequence[str]) -> str:
        if not (self.cases or self.patients):
            return self.message
        return self.message.format(cases=cases, patients=patients)


def _hidden(text: str, instead: Mapping[str, str]) -> str:
    """Replace texts, wherever they stand as words of their own; the longest first."""
    for hidden in sorted(filter(None, instead), key=len, reverse=True):
        word = rf"(?<!\w){re.escape(hidden)}(?!\w)"
        text = re.sub(word, instead[hidden].replace("\\", r"\\"), text)
    return text


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return them errors first, the order otherwise kept."""
    return sorted(findings, key=lambda finding: ORDER[finding.level])
