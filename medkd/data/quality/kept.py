"""Kept: what a pass over the data has seen, so that the next one reads only what is new."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from medkd.config import Config
from medkd.data.quality.examine import Examined, files_of
from medkd.study import digest
from medkd.types import Case

VERSION = 5  # of what is looked at; another one reads everything anew


class Kept:
    """The cases that were examined before, a line each in a file that is appended to.

    A case is read anew when one of its files has another size or time of change, or when the
    config asks something else of it; what could not be read is always tried again. A killed pass
    loses the case it was reading.
    """

    def __init__(self, path: Path | None, config: Config) -> None:
        self._path = path
        options = config.model_dump(include={"task": True, "data": {"labels"}}, mode="json")
        grid = {"channels": config.preprocess.channels, "dims": config.dims}
        grid |= config.preprocess.reading.model_dump(mode="json")
        self._series = tuple(config.series_columns.values())
        self._asked = [VERSION, options, grid, config.preprocess.modalities]
        if config.data.overlapping or config.data.ignore is not None:
            read_as = {"overlapping", "includes", "ignore"}
            self._asked.append(config.data.model_dump(include=read_as))
        self._known = dict(_read(path)) if path and path.is_file() else {}

    def get(self, case: Case) -> Examined | None:
        """Return what is known of a case, if nothing has changed since."""
        try:
            return self._known.get(self._key(case))
        except OSError:  # examining it says which file
            return None

    def put(self, case: Case, found: Examined) -> None:
        """Remember a case that could be read to its end."""
        if self._path is None or not found.files:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": self._key(case), "found": found.model_dump(mode="json")})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _key(self, case: Case) -> str:
        label = case.label if isinstance(case.label, Path) else None
        files = [path for named in (*case.images, label) if named for path in files_of(named)]
        stats = [(path.stat() if path.exists() else None) for path in files]
        seen = [(s.st_size, s.st_mtime_ns) if s else None for s in stats]
        series = [case.attributes.get(column) for column in self._series]
        return digest(self._asked, case.id, str(case.label), [*map(str, files)], seen, series)


def _read(path: Path) -> Iterator[tuple[str, Examined]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            yield entry["key"], Examined.model_validate(entry["found"])
        except (ValueError, KeyError, TypeError, ValidationError):
            continue  # a line that a kill has cut short
