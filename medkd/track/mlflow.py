"""MLflow: the store that mirrors a study's journal; only this file, models.py and pages.py know it.

A study is a parent run with one nested run a role, in the experiment ``medkd/<experiment>``. Runs
are found by their tags ``medkd.study`` (the journal's key) and ``medkd.role``. Everything is
replayed with the time at which it happened, and a store keeps one point a name, step, time and
value, so sending twice changes nothing.
"""

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from medkd.errors import ConfigError, MedkdError, StudyError
from medkd.extras import require
from medkd.track.journal import STUDY_RUN, Event, read
from medkd.track.ledger import Ledger
from medkd.track.models import Models
from medkd.track.pages import (
    IMAGES_TAG,
    KEY_LIMIT,
    VIEW,
    WORKFLOW,
    experiment_note,
    experiment_tags,
    key_of,
    lay_out,
    new_note,
)

STUDY_TAG, ROLE_TAG, VERDICT_TAG = "medkd.study", "medkd.role", "medkd.verdict"
STUDIES_TOLD = 50  # in the description of an experiment, the latest first

# what MLflow 3 accepts, and how much fits into one request of 1 MB when every character is escaped
PARAM_LIMIT, TAG_LIMIT, DIGEST_LIMIT = 6000, 8000, 36
METRICS_AT_ONCE, TEXTS_AT_ONCE, EVENTS_AT_ONCE = 1000, 20, 500

# MLflow writes these by itself elsewhere; they name a person or a path
_LEAKING_TAGS = ("mlflow.user", "mlflow.source.", "mlflow.git.")

# Read by MLflow when it is imported or called; what the user has set stays. As shipped, one call
# to a server that is gone blocks for four minutes. A call is not repeated by itself, because one
# that was obeyed and whose answer was lost would make a second run; ``sync`` looks first.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncReport:
    """How many events were sent, how many are left, and why."""

    sent: int
    pending: int
    problem: str = ""


def default_uri() -> str:
    """Return the store: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the current directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def ui_command(uri: str, *, port: int) -> list[str]:
    """Return the command that shows a local store in a browser, at a port of this machine.

    Raises:
        ConfigError: the store is a server, which has pages of its own; or the port is taken.
    """
    if uri.startswith("http"):
        raise ConfigError(f"this store is a server; open {_redacted(uri)} in a browser")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; choose another") from None
    _settle_environment()  # the command inherits it
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    return [*command, "--port", str(port)]


def sync(study_folder: Path, *, uri: str | None = None, attempts: int = 1) -> SyncReport:
    """Send what a store lacks of a study's journal; any number of times, to any number of stores.

    Each attempt goes on where the last one failed. A store that is absent or fails leaves events
    pending and a problem in the report. What a store refuses for good (a parameter that has
    changed, a file that is gone) is left out with a warning.

    Raises:
        StudyError: the folder holds no journal.
        MissingExtraError: MLflow is not installed.
    """
    ledger, lacked, problem = Ledger(study_folder, uri or default_uri()), 0, ""
    _settle_environment()
    with ledger.alone():
        for _ in range(attempts):
            seen, problem = _attempt(ledger)
            lacked = max(lacked, seen)
            if not problem:
                break
    left = ledger.pending()
    return SyncReport(max(lacked - left, 0), left, problem)


def _attempt(ledger: Ledger) -> tuple[int, str]:
    """Send every event once; return how many the store lacked, and what went wrong."""
    lacked = ledger.pending()
    try:
        return _send_all(ledger), ""
    except MedkdError:
        raise
    except Exception as error:  # noqa: BLE001 - stores raise what their drivers raise
        return lacked, _redacted(f"{type(error).__name__}: {error}")


def _send_all(ledger: Ledger) -> int:
    """Send every event the store lacks; return how many it lacked."""
    store = _Store(ledger, _study_of(ledger.journal))
    # a store that lost a run (deleted, or a new database in its place) is filled from the start
    if not ledger.runs.items() <= store.runs.items():
        ledger.remember(0, {})
    lacked, events = ledger.pending(), ledger.rest()
    while chunk := list(islice(events, EVENTS_AT_ONCE)):
        store.send([event for event, _ in chunk])
        store.tell(event for event, _ in chunk)
        ledger.remember(chunk[-1][1], store.runs)
    return lacked


class _Store:
    """The runs of one study in one MLflow store."""

    def __init__(self, ledger: Ledger, study: Mapping[str, str]) -> None:
        self._folder = ledger.folder.resolve()
        self._study = study
        self._entities = require("mlflow.entities", extra="train")
        self._client = require("mlflow", extra="train").MlflowClient(tracking_uri=ledger.uri)
        self._experiment = self._find_experiment(ledger.uri)
        self._models = Models(self._client, experiment=self._experiment)
        found = self._client.search_runs(
            [self._experiment],
            f"tags.`{STUDY_TAG}` = '{study['key']}'",
            order_by=["attributes.start_time ASC"],
        )
        self.runs: dict[str, str] = {}
        for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id)):
            if self.runs.setdefault(run.data.tags[ROLE_TAG], run.info.run_id) != run.info.run_id:
                # made twice: the answer to the first request was lost, or two machines were at it
                self._client.delete_run(run.info.run_id)
        self._params = {run.info.run_id: dict(run.data.params) for run in found}

    def _find_experiment(self, uri: str) -> str:
        name = f"medkd/{self._study['experiment']}"[:500]
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = _artifacts_of(uri)
            return self._client.create_experiment(name, place, experiment_tags(self._study))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def send(self, events: Sequence[Event]) -> None:
        """Send some events, run by run in the order in which they began."""
        for role in dict.fromkeys(event["run"] for event in events):
            mine = [event for event in events if event["run"] == role]
            run = self._run(role, since=mine[0]["time_ms"])
            self._send_params(run, mine)
            self._send_metrics(run, mine)
            self._send_tags(run, mine)
            for event in mine:
                self._send_reference(run, event)
            self._send_status(run, mine)

    def tell(self, events: Iterable[Event]) -> None:
        """Bring the experiment's description up to date where a study began or got a verdict."""
        if not any(e["kind"] == "study" or VERDICT_TAG in e["values"] for e in events):
            return
        found = self._client.search_runs(
            [self._experiment],
            f"tags.`{ROLE_TAG}` = '{STUDY_RUN}'",
            order_by=["attributes.start_time DESC"],
            max_results=STUDIES_TOLD,
        )
        told = [(run.info.run_name, run.data.tags.get(VERDICT_TAG, "")) for run in found]
        tags = self._client.get_experiment(self._experiment).tags
        for key, text in new_note(experiment_note(told), tags).items():
            self._client.set_experiment_tag(self._experiment, key, text)

    def _run(self, role: str, *, since: int) -> str:
        """Return the id of a role's run, made on first use; no start_run, which adds user tags."""
        if role not in self.runs:
            tags = {STUDY_TAG: self._study["key"], ROLE_TAG: role}
            study = self._study["name"]
            name = study if role == STUDY_RUN else f"{study} {role}"
            if role != STUDY_RUN:
                tags["mlflow.parentRunId"] = self.runs[STUDY_RUN]
            elif self._study["description"]:
                tags["mlflow.note.content"] = _cut(self._study["description"], TAG_LIMIT)
            made = self._client.create_run(self._experiment, since, tags, name)
            self.runs[role] = made.info.run_id
        return self.runs[role]

    def _send_params(self, run: str, events: Sequence[Event]) -> None:
        """Send parameters; MLflow never changes one, so a new value goes into a tag."""
        known, new, changed = self._params.setdefault(run, {}), [], {}
        for key, text in _texts(events, "params", PARAM_LIMIT):
            if key not in known:
                new.append(self._entities.Param(key, text))
            elif known[key] != text:
                changed[f"medkd.changed.{key}"[:KEY_LIMIT]] = _cut(text, TAG_LIMIT)
            known.setdefault(key, text)
        self._in_batches(TEXTS_AT_ONCE, new, lambda part: self._log(run, params=part))
        self._tag(run, changed)

    def _send_metrics(self, run: str, events: Sequence[Event]) -> None:
        points = [
            self._entities.Metric(key_of(key), value, event["time_ms"], event["step"])
            for event in events
            if event["kind"] == "metrics"
            for key, value in event["values"].items()
            if value is not None
        ]
        self._in_batches(METRICS_AT_ONCE, points, lambda part: self._log(run, metrics=part))

    def _send_tags(self, run: str, events: Sequence[Event]) -> None:
        tags = dict(_texts(events, "tags", TAG_LIMIT))
        self._tag(run, {k: v for k, v in tags.items() if not k.startswith(_LEAKING_TAGS)})

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        made = [self._entities.RunTag(key, value) for key, value in tags.items()]
        self._in_batches(TEXTS_AT_ONCE, made, lambda part: self._log(run, tags=part))

    def _log(self, run: str, **batch: object) -> None:
        self._client.log_batch(run, **batch)

    def _send_reference(self, run: str, event: Event) -> None:
        """Send what travels alone; other kinds travel in batches."""
        senders = {
            "artifact": self._send_artifact,
            "image": self._send_image,
            "dataset": self._send_dataset,
            "release": self._send_release,
            "alias": self._send_alias,
        }
        sender = senders.get(event["kind"])
        if sender is not None:
            self._in_batches(1, [event], lambda part: sender(run, *part))

    def _send_release(self, run: str, event: Event) -> None:
        teacher = self.runs.get("teacher", "")
        self._models.release(event["values"], run=run, teacher=teacher, time_ms=event["time_ms"])

    def _send_alias(self, run: str, event: Event) -> None:
        del run
        self._models.alias(event["values"], time_ms=event["time_ms"])

    def _send_artifact(self, run: str, event: Event) -> None:
        path, folder = self._file(event), event["values"]["folder"]
        if path is not None:
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run, str(path), key_of(folder) if folder else None)

    def _send_image(self, run: str, event: Event) -> None:
        path = self._file(event)
        if path is not None:
            with tempfile.TemporaryDirectory() as folder:
                lay_out(path, Path(folder), name=key_of(event["values"]["name"]), event=event)
                self._client.log_artifacts(run, folder, "images")
            self._client.set_tag(run, IMAGES_TAG, "true")

    def _file(self, event: Event) -> Path | None:
        """Return the file or folder that an event speaks of, if the study still has it."""
        path = (self._folder / event["values"]["path"]).resolve()
        if path.exists() and path.is_relative_to(self._folder):
            return path
        _log.warning("%s: not a file of this study any more, not sent", event["values"]["path"])
        return None

    def _send_dataset(self, run: str, event: Event) -> None:
        values = event["values"]
        # the source type that says nothing about where the data lies
        dataset = self._entities.Dataset(
            values["name"], values["digest"][:DIGEST_LIMIT], "code", '{"tags": {}}'
        )
        context = self._entities.InputTag("mlflow.data.context", values["context"])
        self._client.log_inputs(run, [self._entities.DatasetInput(dataset, [context])])

    def _send_status(self, run: str, events: Sequence[Event]) -> None:
        said = [event for event in events if event["kind"] == "status"]
        if not said:
            return
        status, time_ms = said[-1]["values"]["status"], said[-1]["time_ms"]
        if status == "RUNNING":
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, time_ms)

    def _in_batches(self, size: int, items: Sequence[T], send: Callable[[Any], None]) -> None:
        for start in range(0, len(items), size):
            self._send_or_split(items[start : start + size], send)

    def _send_or_split(self, items: Sequence[T], send: Callable[[Any], None]) -> None:
        """Send items; halve what the store calls invalid until only the culprit stays behind."""
        exceptions = require("mlflow.exceptions", extra="train")
        try:
            send(items)
        except exceptions.MlflowException as error:
            if error.get_http_status_code() != 400:  # bad request
                raise
            if len(items) == 1:
                _log.warning("MLflow refuses %s: %s", items[0], _redacted(str(error)))
                return
            half = len(items) // 2
            self._send_or_split(items[:half], send)
            self._send_or_split(items[half:], send)


def views(uri: str) -> dict[str, str]:
    """Return, by experiment of medkd, the path of its view in the UI of a store."""
    _settle_environment()
    client = require("mlflow", extra="train").MlflowClient(tracking_uri=uri)
    return {
        found.name: f"#/experiments/{found.experiment_id}/runs"
        f"?workflowType={WORKFLOW}&viewStateShareKey={VIEW}"
        for found in client.search_experiments(filter_string="name LIKE 'medkd/%'")
    }


def _study_of(journal: Path) -> Mapping[str, str]:
    first = next((event for event, _ in read(journal)), None)
    if first is None or first["kind"] != "study":
        raise StudyError(f"{journal}: this journal does not begin with its study")
    return first["values"]


def _texts(events: Sequence[Event], kind: str, limit: int) -> Iterator[tuple[str, str]]:
    for event in events:
        if event["kind"] == kind:
            for key, text in event["values"].items():
                yield key_of(key), _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _artifacts_of(uri: str) -> str | None:
    """Put artifacts beside a SQLite file, wherever the UI is started; a server knows its own."""
    scheme, _, path = uri.partition(":///")
    return (Path(path).absolute().parent / "mlartifacts").as_uri() if scheme == "sqlite" else None


def _redacted(text: str) -> str:
    """First line, without the password that an address may hold."""
    return re.sub(r"//[^/@\s]*@", "//", text.strip().partition("\n")[0])[:300]


def _settle_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
