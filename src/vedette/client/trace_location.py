"""``vedette.set_experiment``: MLflow's, with a location of the experiment's own for its traces."""

from __future__ import annotations

from urllib.parse import quote

import mlflow
from mlflow.entities import Experiment, UnityCatalog
from mlflow.exceptions import MlflowException

from vedette.client.rest import ask_server
from vedette.lake.location import Location
from vedette.lake.locations import LOCATION_TAG, Binding


def set_experiment(
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    trace_location: UnityCatalog | None = None,
) -> Experiment:
    """Make an experiment the active one, as ``mlflow.set_experiment`` does; one with a new name is
    created.

    Args:
        experiment_name: its name; or
        experiment_id: its id.
        trace_location: whose tables its traces are kept in, ``table_prefix`` being the experiment's
            id if it is None. It is chosen once, before the first trace. Several experiments may
            share one. Those that choose none share ``main.default.mlflow``.

    Returns:
        The experiment; its ``trace_location`` is None if it has chosen none.

    Raises:
        MlflowException: RESOURCE_CONFLICT (HTTP 409): it keeps its traces elsewhere, or has some
            already; INVALID_PARAMETER_VALUE: a name that can't be used; as
            ``mlflow.set_experiment``. The active experiment is then what it was.
    """
    if trace_location is not None:
        experiment_id = _bound(experiment_name, experiment_id, trace_location)
        experiment_name = None
    experiment = mlflow.set_experiment(experiment_name, experiment_id)
    if (tag := experiment.tags.get(LOCATION_TAG)) is not None:
        experiment.trace_location = UnityCatalog(*Binding.of(tag).location)
    return experiment


def _bound(name: str | None, experiment_id: str | None, wanted: UnityCatalog) -> str:
    """The id of the experiment, which keeps its traces where that is wanted."""
    if not isinstance(wanted, UnityCatalog):
        raise MlflowException.invalid_parameter_value(
            f"trace_location must be a mlflow.entities.UnityCatalog, not {wanted!r:.200}"
        )
    if (name is None) == (experiment_id is None):
        raise MlflowException.invalid_parameter_value(
            "Must specify exactly one of: `experiment_id` or `experiment_name`."
        )
    prefix = wanted.table_prefix
    try:  # before an experiment is created for nothing
        Location.of(wanted.catalog_name, wanted.schema_name, "0" if prefix is None else prefix)
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
    found = experiment_id if name is None else _named(name)
    body = {
        "catalog_name": wanted.catalog_name,
        "schema_name": wanted.schema_name,
        "table_prefix": prefix,
    }
    ask_server("PUT", f"/api/trace-locations/{quote(str(found), safe='')}", body)
    return str(found)


def _named(name: str) -> str:
    """The id of the experiment of that name, which is created if there is none."""
    client = mlflow.MlflowClient()
    if (experiment := client.get_experiment_by_name(name)) is not None:
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        if (experiment := client.get_experiment_by_name(name)) is None:
            raise
        return str(experiment.experiment_id)  # somebody else has just created it
