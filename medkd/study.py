"""Study: one config, one folder, and stages that are written whole or not at all."""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkd import config as config_module
from medkd.config import Config
from medkd.errors import MadeOtherwiseError, StudyError
from medkd.types import Split

STAGE_FILE = "stage.json"
MADE_BY = {  # the command that makes a stage, by the first part of its name
    "teacher": "train CONFIG --role teacher",
    "soft_targets": "soften CONFIG",
    "baseline": "train CONFIG --role baseline",
    "student": "distill CONFIG",
    "quantised": "export CONFIG",
    "releases": "export CONFIG",
}


def digest(*parts: object) -> str:
    """Return 16 hex digits that change when any part changes; parts are JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    Args:
        path: the file.
        content: all of it.
        durable: wait until it is on the disk: a power failure then loses nothing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a part of a file on a full disk would keep it full
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Put a file back as it was where a finished stage was made from something else."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except MadeOtherwiseError:
        if before is not None:
            write_atomic(path, before)
        raise


@dataclass(frozen=True)
class Study:
    """A config and the folder that holds everything made from it."""

    config: Config
    config_path: Path

    def begin(
        self,
        split: Split,
        *,
        digests: Mapping[str, str] | None = None,
        folds: Sequence[Sequence[str]] = (),
    ) -> None:
        """Write the resolved config and the split into the study's folder.

        Args:
            split: the case ids of each part.
            digests: of the content of each part.
            folds: the ids of the training cases that each fold of the teacher leaves out; one
                leaves out none.

        Raises:
            StudyError: a teacher is there that was trained on another split, or on other folds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, parts = self.folder / "split.json", {k: list(ids) for k, ids in vars(split).items()}
        told = parts | ({"folds": [list(ids) for ids in folds]} if len(folds) > 1 else {})
        written = json.loads(path.read_text()) if path.exists() else told
        changed = [part for part in parts if written.get(part) != told[part]]
        changed += ["folds"] if written.get("folds", told.get("folds")) != told.get("folds") else []
        if changed and self.path("teacher").exists():
            raise StudyError(
                f"{self.folder}: made with another split of the cases ({', '.join(changed)} of "
                f"split.json); delete this folder, or choose another name with --set "
                f"study.name=NAME"
            )
        write_atomic(self.folder / "config.yaml", config_module.dump(self.config))
        content = told | ({"digests": dict(digests)} if digests else {})
        write_atomic(path, json.dumps(content, indent=1))

    @property
    def folder(self) -> Path:
        """``root/name``."""
        return self.config.folder

    def path(self, name: str) -> Path:
        """Where stage ``name`` lies once it is complete."""
        return self.folder / name

    def is_complete(self, name: str) -> bool:
        """Whether stage ``name`` has been finished."""
        return (self.path(name) / STAGE_FILE).is_file()

    def stage(self, name: str, *, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of stage ``name``, making it first if it is not complete.

        ``make`` fills ``name.partial``, which is renamed when it returns; a killed stage finds its
        unfinished folder again and may resume from it. What an unfinished folder was made from is
        written first, so that it is resumed only with the same inputs.

        Args:
            name: folder below the study's, e.g. ``teacher/fold-0``.
            inputs: all that the result depends on, as JSON values by name.
            make: fills a folder.

        Raises:
            MadeOtherwiseError: the stage was made from other inputs; its folder must be deleted
                first.
        """
        done, partial = self.path(name), self.path(name + ".partial")
        inputs = {key: digest(value) for key, value in inputs.items()}
        if self.is_complete(name):
            self._refuse_other_inputs(done, inputs)
            return done
        if (partial / STAGE_FILE).is_file() and _read_inputs(partial) != inputs:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_atomic(partial / STAGE_FILE, json.dumps({"inputs": inputs}, indent=1))
        make(partial)
        made = {"inputs": inputs, "content": _content(partial)}
        write_atomic(partial / STAGE_FILE, json.dumps(made, indent=1))
        partial.replace(done)
        return done

    def stage_digest(self, name: str) -> str:
        """Identity of a complete stage's files, for the inputs of the stages built on it."""
        if not self.is_complete(name):
            raise StudyError(
                f"{self.path(name)}: this stage has not been run yet; {self._command_of(name)}"
            )
        return json.loads((self.path(name) / STAGE_FILE).read_text())["content"]

    def refuse_new(self) -> None:
        """Refuse a study of which nothing has been made yet, before its folder is.

        Raises:
            StudyError: it has not begun.
        """
        if not (self.folder / "config.yaml").exists():
            raise StudyError(
                f"{self.folder}: nothing of this study has been run yet; "
                f"{self._command_of('teacher')} first, or "
                f"python pipelines/{self.config.task}.py {shlex.quote(str(self.config_path))} for "
                f"all of it"
            )

    def _command_of(self, name: str) -> str:
        """Tell which command makes a stage."""
        command = MADE_BY[name.partition("/")[0]]
        return "run medkd " + command.replace("CONFIG", shlex.quote(str(self.config_path)))

    def _refuse_other_inputs(self, folder: Path, inputs: Mapping[str, str]) -> None:
        made_from = _read_inputs(folder)
        changed = sorted(k for k in {*made_from, *inputs} if made_from.get(k) != inputs.get(k))
        if changed:
            raise MadeOtherwiseError(
                f"{folder}: made before {', '.join(changed)} changed; delete this folder to redo "
                f"the stage, or keep it and choose another name with --set study.name=NAME"
            )

    @contextmanager
    def hold(
        self,
        split: Split,
        *,
        digests: Mapping[str, str] | None = None,
        folds: Sequence[Sequence[str]] = (),
    ) -> Iterator[None]:
        """Lock the study, then begin it, or go on with it; arguments as of ``begin``.

        If a finished stage turns out to be made from something else, the config that it was made
        by stays the study's.
        """
        with self.lock(), keeping(self.folder / "config.yaml"):
            self.begin(split, digests=digests, folds=folds)
            yield

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study; a second process is refused instead of racing the first.

        Raises:
            StudyError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StudyError(
                    f"{self.folder}: another process works on this study (pid "
                    f"{file.read() or 'unknown'}); wait until it has ended"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _read_inputs(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / STAGE_FILE).read_text())["inputs"]
    except (ValueError, KeyError):
        raise StudyError(
            f"{folder}: made by another version of medkd; delete this folder to redo the stage"
        ) from None


def _content(folder: Path) -> str:
    """Digest of all files of a stage by name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != STAGE_FILE)
    return digest([(p.relative_to(folder).as_posix(), sha256(p)) for p in files])


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
