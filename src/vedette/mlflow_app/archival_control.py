"""Archival as users set it: checked, then kept as a tag of the experiment for the engine."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

from mlflow.entities import ExperimentTag, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from vedette.archive.setting import ARCHIVAL_TAG, ArchiveSetting, ArchiveSettings
from vedette.archive.table import ArchiveRefused, archive_table
from vedette.archive.told import archive_state
from vedette.lake.storage import LakeUnavailable
from vedette.mlflow_app.plane import TracePlane
from vedette.processes import read_state
from vedette.scoring.active import ControlUnavailable, control_engine

_MOST_HOURS = 100_000
_EXPERIMENT_ID = re.compile("[0-9]{1,18}")


class ArchivalControl:
    """Use from any thread.

    Raises (every method):
        MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment; TEMPORARILY_UNAVAILABLE: the
            lake or the control database can't be reached.
    """

    def __init__(self, plane: TracePlane) -> None:
        self._plane = plane
        self._settings = ArchiveSettings(control_engine(plane.settings.control_uri))
        self._changing = threading.Lock()  # from the look at what is set to what is set then

    def enable(self, experiment_id: str, body: Any) -> None:
        """Archive an experiment, or change how that is done.

        RESOURCE_CONFLICT: it is archived in another table. INVALID_PARAMETER_VALUE: it can't be
        done so.
        """
        setting, vacuum_hours = _checked(body)
        with self._changing:
            self._require(experiment_id)
            enabled = self._read()
            now = enabled.get(experiment_id)
            if isinstance(now, ArchiveSetting) and now.table != setting.table:
                raise MlflowException(
                    f"Experiment {experiment_id} is archived in {now.table}. Disable that first; "
                    "its rows stay.",
                    RESOURCE_CONFLICT,
                )
            table = archive_table(self._plane.settings, setting.table)
            in_use = (one for one in enabled.values() if isinstance(one, ArchiveSetting))
            if setting.table not in [one.table for one in in_use]:
                table.lake_table.forget()  # an older table of this name
            try:
                table.prepare(vacuum_hours)
            except ArchiveRefused as error:
                raise MlflowException.invalid_parameter_value(str(error)) from error
            except LakeUnavailable as error:
                raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
            tag = ExperimentTag(ARCHIVAL_TAG, json.dumps(setting.as_json()))
            self._plane.control.set_experiment_tag(experiment_id, tag)

    def disable(self, experiment_id: str) -> None:
        """Stop archiving an experiment. RESOURCE_DOES_NOT_EXIST: it isn't archived."""
        with self._changing:
            self._require(experiment_id)
            if experiment_id not in self._read():
                raise MlflowException(
                    f"Experiment {experiment_id} is not archived.", RESOURCE_DOES_NOT_EXIST
                )
            self._plane.control.delete_experiment_tag(experiment_id, ARCHIVAL_TAG)

    def archives(self, experiment_id: str | None = None) -> list[dict[str, Any]]:
        """How the archives are; of one experiment, or of all."""
        if experiment_id is not None:
            self._require(experiment_id)
        engine = read_state(self._plane.settings.run_dir / "engine.json") or {}
        told = engine.get("archival", {}).get("archives", {})
        return [
            self._described(one, setting, told.get(one))
            for one, setting in self._read().items()
            if experiment_id in (None, one)
        ]

    def _described(
        self, experiment_id: str, setting: ArchiveSetting | str, told: dict[str, Any] | None
    ) -> dict[str, Any]:
        if isinstance(setting, str):
            return {"experiment_id": experiment_id, "state": "failing", "error": setting}
        if told and told.get("delta_table_fullname") != str(setting.table):
            told = None  # of the table before
        progress = told or {}
        fill_until = progress.get("fill_until")
        return {
            "experiment_id": experiment_id,
            **setting.as_json(),
            "uri": setting.table.uri(self._plane.settings.lake_uri),
            "state": archive_state(told),
            "filled": None if fill_until is None else progress["filled"] / max(1, fill_until),
            **{
                key: progress.get(key)
                for key in ("lag_seconds", "last_commit", "rows", "files", "error")
            },
        }

    def _read(self) -> dict[str, ArchiveSetting | str]:
        try:
            return self._settings.read()
        except ControlUnavailable as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error

    def _require(self, experiment_id: str) -> None:
        if _EXPERIMENT_ID.fullmatch(experiment_id):
            experiment = self._plane.control.get_experiment(experiment_id)
            if experiment.lifecycle_stage == LifecycleStage.ACTIVE:
                return
        raise MlflowException(f"There is no experiment {experiment_id}.", RESOURCE_DOES_NOT_EXIST)


def _checked(body: Any) -> tuple[ArchiveSetting, int | None]:
    """The setting in a request's body, and its ``vacuum_hours``.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE; it says what is wrong.
    """
    if not isinstance(body, dict):
        raise MlflowException.invalid_parameter_value(f"an object is wanted, not {body!r:.100}")
    rest = dict(body)
    hours = rest.pop("vacuum_hours", None)
    is_whole = isinstance(hours, int) and not isinstance(hours, bool)
    if hours is not None and not (is_whole and 1 <= hours <= _MOST_HOURS):
        raise MlflowException.invalid_parameter_value(
            f"vacuum_hours must be a whole number of at least 1, not {hours!r:.100}"
        )
    try:
        return ArchiveSetting.of(rest), hours
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
