"""Former: an answer may take the place of a former one, and of nothing else."""

import json
from collections.abc import Iterable
from pathlib import Path

from medkd.errors import DataError

ROW, RECORD, SUMMARY = {"image", "prediction"}, {"image", "release"}, {"answered", "failed"}  # keys


def refuse_to_replace(files: Iterable[Path], *, record: Path) -> None:
    """Refuse to write where there is something that medkd has not written.

    Args:
        files: are written together.
        record: what lies beside an answer and tells that it is one: JSON, or a table itself.

    Raises:
        DataError: one of the files exists, and no record says that it is a former answer.
    """
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there and not is_answer(record):
        raise DataError(
            f"{there[0]} exists, and nothing says that it is a former answer; remove it, or choose "
            f"another output"
        )


def is_answer(path: Path) -> bool:
    """Whether this is a record, a table of classes or a summary that medkd wrote."""
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix.lower() == ".csv":
                return set(file.readline().strip().split(",")) >= ROW
            told = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    first = told[0] if isinstance(told, list) and told else told
    return isinstance(first, dict) and (first.keys() >= RECORD or first.keys() >= SUMMARY)
