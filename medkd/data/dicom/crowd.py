"""Crowd: how many elements a data set holds, counted before any of them is made.

An element of eight bytes becomes an object of several hundred. The walk follows PS3.5 chapter 7;
where a file does not, it ends early and leaves the verdict to the parser.
"""

import struct
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from pydicom.datadict import dictionary_VR

from medkd.errors import TooLargeError

WORST_BYTES = 128  # that a byte of a file may become: an empty item is a data set of its own
ELEMENT_BYTES = 1024
DEEPEST = 64
UNDEFINED = 0xFFFFFFFF
ITEM, DELIMITERS, PIXELS = 0xFFFEE000, (0xFFFEE00D, 0xFFFEE0DD), 0x7FE00010
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def may_be_crowded(size: int, *, memory_bytes: int) -> bool:
    """Whether a data set of ``size`` bytes could outgrow memory if it were all elements."""
    return size * WORST_BYTES > memory_bytes


def refuse_crowd(
    path: Path,
    file: BufferedIOBase,
    *,
    is_implicit: bool,
    is_little: bool,
    memory_bytes: int,
    group: int | None = None,
) -> None:
    """Refuse a data set of too many elements, or of sequences too deep in one another.

    Args:
        path: is named in the error.
        file: at the first element.
        is_implicit: whether elements do not tell their types.
        is_little: whether their lowest byte comes first.
        memory_bytes: that they may take.
        group: is walked alone, up to the first element of another.

    Raises:
        TooLargeError: there are too many.
    """
    walk = _Walk(file, "<" if is_little else ">", group)
    walk.open(None, is_implicit=is_implicit)
    most, count = memory_bytes // ELEMENT_BYTES, 0
    while walk.step():
        count += 1
        if count > most or len(walk.within) > DEEPEST:
            raise TooLargeError(
                f"{path}: holds more than {most} elements, or sequences more than {DEEPEST} deep; "
                f"raise preprocess.reading.memory_gib if the file can be trusted"
            )


@dataclass(frozen=True)
class _Level:
    """What an element lies in: where it ends, and how its elements are written."""

    end: int | None
    is_implicit: bool


class _Walk:
    """A position in a data set, and the sequences and items that are open there."""

    def __init__(self, file: BufferedIOBase, order: str, group: int | None) -> None:
        self._file = file
        self._order = order
        self._group = group
        self.within: list[_Level] = []

    def open(self, length: int | None, *, is_implicit: bool) -> None:
        """Enter a sequence or item; None or ``UNDEFINED`` is as long as its delimiter says."""
        end = None if length in {None, UNDEFINED} else self._file.tell() + (length or 0)
        self.within.append(_Level(end, is_implicit))

    def step(self) -> bool:
        """Go past one element or into it; false at the end."""
        while len(self.within) > 1 and self._is_over(self.within[-1]):
            self.within.pop()
        head = self._file.read(8)
        if len(head) < 8:
            return False
        group, element = struct.unpack(f"{self._order}HH", head[:4])
        if len(self.within) == 1 and self._group not in {None, group}:
            return False
        self._enter((group << 16) + element, head[4:])
        return True

    def _is_over(self, level: _Level) -> bool:
        return level.end is not None and self._file.tell() >= level.end

    def _enter(self, tag: int, rest: bytes) -> None:
        is_implicit = self.within[-1].is_implicit
        if tag in DELIMITERS:
            if len(self.within) > 1:
                self.within.pop()
            return
        if tag == ITEM:
            self.open(self._long(rest), is_implicit=is_implicit)
            return
        kind, length = self._kind(tag, rest, is_implicit=is_implicit)
        if tag == PIXELS and length == UNDEFINED:
            self._skip_fragments()
        elif kind == b"SQ" or length == UNDEFINED:
            self.open(length, is_implicit=is_implicit or kind == b"UN")
        else:
            self._file.seek(length, 1)

    def _kind(self, tag: int, rest: bytes, *, is_implicit: bool) -> tuple[bytes, int]:
        """Return an element's type and length."""
        if is_implicit or not rest[:2].isalpha():  # pydicom takes an odd type for none
            try:
                return dictionary_VR(tag).encode(), self._long(rest)
            except KeyError:
                return b"UN", self._long(rest)
        if rest[:2] in LONG:
            return rest[:2], self._long(self._file.read(4).ljust(4, b"\0"))
        return rest[:2], struct.unpack(f"{self._order}H", rest[2:])[0]

    def _skip_fragments(self) -> None:
        while len(head := self._file.read(8)) == 8 and head[:4] == struct.pack(
            f"{self._order}HH", 0xFFFE, 0xE000
        ):
            self._file.seek(self._long(head[4:]), 1)

    def _long(self, rest: bytes) -> int:
        return int(struct.unpack(f"{self._order}I", rest)[0])
