"""Session: the tracked part of a study's life, and how its results are told to the tracker."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from medkd.config import shareable
from medkd.environment import environment
from medkd.errors import MadeOtherwiseError
from medkd.progress import error_console
from medkd.results import Report, RoleResult
from medkd.statement import SHARED
from medkd.study import Study, digest, keeping, write_atomic
from medkd.track.journal import JOURNAL_FILE, STUDY_RUN, Journal, read
from medkd.track.mirror import Mirror
from medkd.track.models import REVIEWED
from medkd.track.pages import NOTE_TAG, table_tag
from medkd.track.signoff import refuse_unready, released_name, releases
from medkd.track.story import (
    BEGINNINGS,
    cases_table,
    describe,
    describe_release,
    describe_role,
    final_figures,
    further_figures,
)
from medkd.track.system import SystemMetrics
from medkd.track.tracker import Status, Tracker
from medkd.types import Role, Task

CASES_FILE = "cases.json"  # of each run, so that those of several stand side by side
REPORT_TAG = "medkd.report"  # the digest of the report that a study's run shows
OPTIONS_FILE = "options.yaml"  # config.yaml as MLflow may see it: without the paths of this machine


class Runs:
    """The trackers of a study: one for the study itself and one for each role."""

    def __init__(self, study: Study, mirror: Mirror) -> None:
        self._study = study
        self._mirror = mirror
        config = study.config
        self._journal = Journal(
            study.folder / JOURNAL_FILE,
            name=config.study.name,
            experiment=config.study.experiment or config.study.name,
            ranked_by=f"final/{'dice' if config.task is Task.SEGMENTATION else 'auroc'}",
        )
        self._begun: set[str] = set()
        self._before: dict[str, Status] = {}
        self.system = self._system()

    def __getitem__(self, run: str) -> Tracker:
        tracker = self._journal.run(run)
        if run not in self._begun:
            self._begun.add(run)
            if run in BEGINNINGS and run not in self._last("status", "status"):
                tracker.tags({NOTE_TAG: BEGINNINGS[Role(run)]})
            tracker.status("RUNNING")
            tracker.artifact(Path(OPTIONS_FILE))
        return tracker

    def _system(self) -> SystemMetrics | None:
        """Return what samples the machine, where the config asks for it."""
        asked = self._study.config.track
        tracker = self._journal.run(STUDY_RUN)
        every_s = asked.sample_every_s
        return SystemMetrics(tracker, every_s=every_s) if asked.system_metrics else None

    def begin(self) -> None:
        """Say what this study is; what a process that was killed left running was killed."""
        self.end("KILLED")
        self._before = self._last("status", "status")
        study = self[STUDY_RUN]
        study.tags({"medkd.task": self._study.config.task})
        study.artifact(Path("environment.json"))

    def as_before(self) -> None:
        """Give each run the status and the options that it had, if nothing new was made for it."""
        now = self._last("status", "status")
        for run in sorted(self._begun):
            before = self._before.get(run)
            if now[run] == "RUNNING" or before == "FINISHED":
                tracker = self._journal.run(run)
                tracker.artifact(Path(OPTIONS_FILE))
                tracker.status(before or "FAILED")

    def end(self, status: Status) -> None:
        """Set the status of every run that is still said to be running."""
        for run, said in self._last("status", "status").items():
            if said == "RUNNING":
                self._journal.run(run).status(status)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Send nothing meanwhile, so that what is being timed has the machine for itself."""
        disturbing: list[Mirror | SystemMetrics] = [self._mirror]
        disturbing += [self.system] if self.system else []
        for each in disturbing:
            each.pause()
        try:
            yield
        finally:
            for each in disturbing:
                each.resume()

    def results(self, report: Report) -> None:
        """Tell every role's figures on the test split, its pictures and the verdict, once."""
        identity, known = digest(report.model_dump_json()), self._last("status", "status")
        if self._last("tags", REPORT_TAG).get(STUDY_RUN) == identity:
            return
        released = releases(self._study, report)
        data = report.card["name"] if report.card else Path(self._study.config.data.source).stem
        for role, result in report.roles.items():
            # a run that has ended stays so; its figures come on top
            tracker = self._journal.run(role) if role in known else self[role]
            if role not in released:
                tracker.metrics(final_figures(result, report.classes), step=0)
            tracker.tags({"medkd.model": result.model["name"]})
            tracker.tags({NOTE_TAG: describe_role(report, role)} | table_tag(CASES_FILE))
            tracker.artifact(self._write_cases(result))
            tracker.dataset(data, digest=report.split["test"].digest, context="test")
            tracker.artifact(Path(f"evaluation/reliability-{role}.png"), folder="calibration")
            for overlay in report.overlays:
                tracker.artifact(Path(overlay.path), folder="overlays")
        for name, release in released.items():
            figures = self._figures_of(name, report)
            if name not in report.roles and name not in known:
                self[name].tags({NOTE_TAG: describe_release(report, name)})
            self._journal.run(name).tags(release["tags"])
            text = describe(report)
            self._journal.run(name).release(**release, description=text, figures=figures)
        self._journal.run(Role.STUDENT).tags({"medkd.verdict": report.verdict})
        study = self._journal.run(STUDY_RUN) if STUDY_RUN in known else self[STUDY_RUN]
        study.tags({"medkd.verdict": report.verdict, NOTE_TAG: describe(report)})
        for name, part in report.split.items():
            study.dataset(data, digest=part.digest, context=name)
        study.dataset(data, digest=report.digests["data set"], context="all")
        study.artifact(SHARED)
        study.tags({REPORT_TAG: identity})

    def _figures_of(self, release: str, report: Report) -> dict[str, float]:
        """Return ``final/*`` of a release, by its name."""
        if release in report.roles:
            return final_figures(report.roles[Role(release)], report.classes)
        measured = [further_figures(p) for p in report.releases if p.name == release]
        return measured[0] if measured else {}

    def _write_cases(self, result: RoleResult) -> Path:
        """Write the figures of a role's test cases where they stay; return the file."""
        path = self._study.folder / "cases" / result.role / CASES_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, cases_table(result.cases))
        return path.relative_to(self._study.folder)

    def reviewed(self, report: Report) -> None:
        """Tell that the student's release is the reviewed one now."""
        name, digest = released_name(self._study, Role.STUDENT), f"release {Role.STUDENT}"
        self._journal.run(Role.STUDENT).alias(name, digest=report.digests[digest], alias=REVIEWED)

    def _last(self, kind: str, name: str) -> dict[str, Any]:
        """Return what each run has told last under a name."""
        return {
            event["run"]: event["values"][name]
            for event, _ in read(self._journal.path)
            if event["kind"] == kind and name in event["values"]
        }


@contextmanager
def tracked(study: Study) -> Iterator[Runs]:
    """Journal what happens and mirror it to MLflow; the status at the end is the true one.

    SIGTERM ends the study as KILLED, an exception as FAILED; one that refuses to make a finished
    stage anew leaves all as it was. Nothing here can stop or slow the study: the journal is local,
    and the mirror is a process of its own.
    """
    options = yaml.safe_dump(shareable(study.config), sort_keys=False)
    write_atomic(study.folder / "environment.json", json.dumps(environment(), indent=1))
    before = signal.signal(signal.SIGTERM, _terminate)
    mirror = Mirror(study.folder)
    runs = Runs(study, mirror)
    with mirror, runs.system or nullcontext():
        try:
            with keeping(study.folder / OPTIONS_FILE):
                write_atomic(study.folder / OPTIONS_FILE, options)
                runs.begin()
                yield runs
        except MadeOtherwiseError:
            runs.as_before()
            raise
        except (KeyboardInterrupt, SystemExit):
            runs.end("KILLED")
            error_console.print("stopped; run the same command again and it goes on from here")
            raise
        except BaseException:
            runs.end("FAILED")
            raise
        else:
            runs.end("FINISHED")
        finally:
            signal.signal(signal.SIGTERM, before)


def sign_off(study: Study, report: Report) -> None:
    """Journal what the report says now, and that the student's release has been reviewed.

    ``sync`` carries it to MLflow, now or later.

    Raises:
        StudyError: the report is not ready, the release is not the one it is about, or another
            process works on the study.
    """
    with study.lock():
        refuse_unready(study, report)
        runs = Runs(study, Mirror(study.folder))
        runs.results(report)
        runs.reviewed(report)
        runs.end("FINISHED")


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
