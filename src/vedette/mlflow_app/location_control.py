"""Where an experiment keeps its traces, as users choose it: once, before the first trace."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from mlflow.entities import Experiment, ExperimentTag, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_CONFLICT, RESOURCE_DOES_NOT_EXIST

from vedette.lake.location import DEFAULT, Location
from vedette.lake.locations import LOCATION_TAG, Binding
from vedette.mlflow_app.plane import TracePlane
from vedette.named_sql import statements

_SQL = statements("vedette.mlflow_app", "location_control")
_EXPERIMENT_ID = re.compile("[0-9]{1,18}")
_NAMES = ("catalog_name", "schema_name", "table_prefix")


class LocationControl:
    """Use from any thread."""

    def __init__(self, plane: TracePlane) -> None:
        self._plane = plane
        self._binding = threading.Lock()  # from the look at what is bound to what is bound then

    def bind(self, experiment_id: str, body: Any) -> dict[str, str]:
        """Let an experiment keep its traces in a location; done again it changes nothing.

        Args:
            body: ``catalog_name``, ``schema_name`` and, if it isn't to be the experiment's id,
                ``table_prefix``.

        Returns:
            The location.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment; RESOURCE_CONFLICT: it
                keeps its traces elsewhere, or has some already; INVALID_PARAMETER_VALUE: the
                location has a name that can't be used; TEMPORARILY_UNAVAILABLE: the read model, or
                the control database, can't be asked now.
        """
        with self._binding:
            experiment = self._experiment(experiment_id)
            experiment_id = experiment.experiment_id
            location = _checked(body, experiment_id)
            self._plane.experiments.forget(experiment_id)
            self._plane.experiments.get(experiment_id)  # what another server was told is known then
            told = f"Experiment {experiment.name!r} ({experiment_id})"
            if (bound := self._plane.locations.binding(experiment_id)) is not None:
                if bound.location == location:
                    return _told(location)
                raise MlflowException(
                    f"{told} keeps its traces in {bound.location}. That can't be changed: for "
                    f"{location}, take another experiment.",
                    RESOURCE_CONFLICT,
                )
            if location != DEFAULT and self._has_traces(experiment_id):
                raise MlflowException(
                    f"{told} has traces already, in {DEFAULT}. A location is chosen before the "
                    f"first trace: for {location}, take another experiment.",
                    RESOURCE_CONFLICT,
                )
            binding = Binding(location, time.time_ns() // 1_000_000)
            tag = ExperimentTag(LOCATION_TAG, binding.as_json())
            self._plane.control.set_experiment_tag(experiment_id, tag)
            return _told(self._plane.locations.note(experiment_id, binding).location)

    def _experiment(self, experiment_id: str) -> Experiment:
        if _EXPERIMENT_ID.fullmatch(experiment_id):
            experiment: Experiment = self._plane.control.get_experiment(experiment_id)
            if experiment.lifecycle_stage == LifecycleStage.ACTIVE:
                return experiment
        raise MlflowException(f"There is no experiment {experiment_id}.", RESOURCE_DOES_NOT_EXIST)

    def _has_traces(self, experiment_id: str) -> bool:
        values = {"experiment_id": int(experiment_id)}
        found = self._plane.up_to_date().execute(_SQL["has_traces"], values).fetchone()
        return found is not None


def _checked(body: Any, experiment_id: str) -> Location:
    """The location that a request's body names.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE; it says what is wrong.
    """
    if not isinstance(body, dict) or not body.keys() <= set(_NAMES):
        raise MlflowException.invalid_parameter_value(
            f"an object with {', '.join(_NAMES)} is wanted, not {body!r:.200}"
        )
    catalog, schema, prefix = (body.get(name) for name in _NAMES)
    try:
        return Location.of(catalog, schema, experiment_id if prefix is None else prefix)
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error


def _told(location: Location) -> dict[str, str]:
    return dict(zip(_NAMES, location, strict=True))
