"""Models: a release as a version of a registered model in MLflow, with aliases and lineage.

The weights stay in the release: MLflow holds an external model, its description, and the digest of
the release's manifest, which in turn holds the SHA-256 of every file. Nothing is pickled.
"""

import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medkd.extras import require
from medkd.track.pages import key_of

RELEASE_TAG, TEACHER_TAG = "medkd.release", "medkd.teacher_run"
CANDIDATE, REVIEWED = "candidate", "reviewed"


class Models:
    """The registered models of one MLflow store."""

    def __init__(self, client: Any, *, experiment: str) -> None:  # noqa: ANN401
        """Use a client of MLflow and the id of the experiment that the models belong to."""
        self._client = client
        self._experiment = experiment

    def release(self, values: Mapping[str, Any], *, run: str, teacher: str, time_ms: int) -> None:
        """Register a release unless it is there; bring its tags up to date; make it candidate."""
        tags = {**values["tags"], RELEASE_TAG: values["digest"], TEACHER_TAG: teacher}
        name = model_name(values["name"])
        version = self._version(name, values["digest"])
        if version is None:
            version = self._register(name, run, values["description"], tags)
        for key, text in tags.items():
            self._client.set_model_version_tag(name, version, key, text)
        self._client.update_model_version(name, version, values["description"])
        self._link(values, run=run, time_ms=time_ms)
        self._move(name, version, CANDIDATE, time_ms)

    def alias(self, values: Mapping[str, str], *, time_ms: int) -> None:
        """Move an alias to the version of a release."""
        name = model_name(values["name"])
        version = self._version(name, values["digest"])
        if version is None:
            exceptions = require("mlflow.exceptions", extra="train")
            raise exceptions.MlflowException.invalid_parameter_value(
                f"{name}: no version of release {values['digest']} to call {values['alias']}"
            )
        self._move(name, version, values["alias"], time_ms)

    def _register(self, name: str, run: str, text: str, tags: Mapping[str, str]) -> str:
        exceptions = require("mlflow.exceptions", extra="train")
        try:
            self._client.create_registered_model(name)
        except exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = self._external(name, run, tags)
        # by its place, for an address models:/… would be looked up in another store
        made = self._client.create_model_version(
            name,
            model.artifact_location,
            run,
            tags=dict(tags),
            description=text,
            await_creation_for=0,
            model_id=model.model_id,
        )
        return str(made.version)

    def _link(self, values: Mapping[str, Any], *, run: str, time_ms: int) -> None:
        """Let the run's page show the model, and the model's the figures that its run was told."""
        entities = require("mlflow.entities", extra="train")
        model = self._logged(run, values["digest"])
        if model is None:  # somebody has deleted it
            return
        outputs = self._client.get_run(run).outputs
        if model.model_id not in {output.model_id for output in outputs.model_outputs}:
            self._client.log_outputs(run, [entities.LoggedModelOutput(model.model_id, step=0)])
        points = [
            entities.Metric(key_of(key), value, time_ms, 0, model_id=model.model_id)
            for key, value in values.get("figures", {}).items()
        ]
        if points:
            self._client.log_batch(run, metrics=points)

    def _external(self, name: str, run: str, tags: Mapping[str, str]) -> Any:  # noqa: ANN401
        """Return the external model of a release, made on first use."""
        models = require("mlflow.models.utils", extra="train")
        is_external = require("mlflow.utils.mlflow_tags", extra="train").MLFLOW_MODEL_IS_EXTERNAL
        model = self._logged(run, tags[RELEASE_TAG]) or self._client.create_logged_model(
            self._experiment, name, run, {**tags, is_external: "true"}
        )
        if model.status != "READY":
            with tempfile.TemporaryDirectory() as folder:
                models.get_external_mlflow_model_spec(model).save(str(Path(folder) / "MLmodel"))
                self._client.log_model_artifacts(model.model_id, folder)
            self._client.finalize_logged_model(model.model_id, "READY")
        return model

    def _logged(self, run: str, digest: str) -> Any:  # noqa: ANN401
        found = self._client.search_logged_models(
            [self._experiment], f"tags.`{RELEASE_TAG}` = '{digest}'"
        )
        return next((model for model in found if model.source_run_id == run), None)

    def _version(self, name: str, digest: str) -> str | None:
        found = self._client.search_model_versions(f"name = '{name}'")
        mine = [str(v.version) for v in found if v.tags.get(RELEASE_TAG) == digest]
        return min(mine, key=int, default=None)

    def _move(self, name: str, version: str, alias: str, time_ms: int) -> None:
        """Move an alias forward in time only, so that an old journal may be sent again."""
        since = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        tag = f"medkd.{alias}_since"
        aliases = self._client.get_registered_model(name).aliases
        holder = aliases.get(alias)
        if holder is not None:
            held = self._client.get_model_version(name, holder).tags.get(tag, "")
            if held >= since:
                return
        self._client.set_model_version_tag(name, version, tag, since)
        self._client.set_registered_model_alias(name, alias, version)


def model_name(name: str) -> str:
    """Write a name as MLflow's registry takes it.

    Example:
        >>> model_name("brain/mr: v2-student")
        'brain-mr- v2-student'
    """
    return re.sub(r"[/:'\"]", "-", name)[:250]
