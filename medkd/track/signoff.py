"""Sign-off: what a release was made from, and when it may be called reviewed."""

import hashlib
from pathlib import Path
from typing import Any

import medkd
from medkd.errors import StudyError
from medkd.results import Report, Verdict
from medkd.study import Study, digest, sha256
from medkd.types import Role, Variant

MANIFEST = "manifest.json"
REPORT = "report.json"


def refuse_unready(study: Study, report: Report) -> None:
    """Refuse to call a release reviewed that cannot be.

    Raises:
        StudyError: a gate has not passed, a question is blank, or the release on disk is not the
            one that the report is about.
    """
    if report.verdict is not Verdict.READY:
        missing = [*report.reasons] or [f"{name} is blank" for name in report.blank]
        raise StudyError(
            f"{study.folder / REPORT}: {report.verdict}, so it cannot be signed off: "
            f"{'; '.join(missing)}"
        )
    manifest = study.path(f"releases/{Role.STUDENT}") / MANIFEST
    known = report.digests[f"release {Role.STUDENT}"]
    if not manifest.is_file() or sha256(manifest) != known:
        raise StudyError(
            f"{manifest}: not the release that was evaluated; restore it, or run medkd evaluate "
            f"again, then sign off"
        )


def releases(study: Study, report: Report) -> dict[str, dict[str, Any]]:
    """Return what a registry is told of each release, by its name: ``student-int8``."""
    names = [variant.of(role) for role in report.roles for variant in Variant]
    return {
        name: {
            "name": released_name(study, name),
            "digest": report.digests[f"release {name}"],
            "tags": lineage(report),
        }
        for name in names
        if f"release {name}" in report.digests
    }


def lineage(report: Report) -> dict[str, str]:
    """Return what a release was made from, as tags."""
    machine = {k: v for k, v in report.environment.items() if k != "load_average"}
    return {
        "medkd.data": report.digests["data set"],
        "medkd.split": digest({name: part.digest for name, part in report.split.items()}),
        "medkd.code": code_version(),
        "medkd.environment": digest(machine),
        "medkd.verdict": report.verdict,
    }


def released_name(study: Study, release: str) -> str:
    """Return the registered model of a release; studies of one experiment are versions of it."""
    return f"{study.config.study.experiment or study.config.study.name}-{release}"


def code_version() -> str:
    """Return the version and a digest of the sources, which a changed checkout changes too."""
    root = Path(medkd.__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(f"{path.relative_to(root).as_posix()}\0{sha256(path)}\n".encode())
    return f"{medkd.__version__}+src.{content.hexdigest()[:12]}"
