"""Archival: one row per trace of an experiment, kept up to date in a Delta table."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mlflow.tracking.fluent import _get_experiment_id

from vedette.client.rest import ask_server, ask_server_json


def enable_trace_archival(
    *,
    delta_table_fullname: str,
    experiment_id: str | None = None,
    retention_days: float | None = None,
    vacuum_hours: int | None = None,
    optimize: bool = True,
) -> None:
    """Keep one row per trace of an experiment in a Delta table of the lake.

    The traces that are there are copied, newer ones and all changes follow within a minute, and
    deleted traces leave. To change how a table is kept, call it again with the same table.

    Args:
        delta_table_fullname: ``catalog.schema.table``; made if it is missing. One that is there
            must have an archive's columns, as another experiment's archive has.
        experiment_id: by default that of the active experiment.
        retention_days: delete rows of traces that arrived longer ago; None keeps all.
        vacuum_hours: how long files that were replaced stay for queries that still read them; None
            leaves the table's property ``delta.deletedFileRetentionDuration``, of a new table 6
            hours.
        optimize: False leaves merging small files to somebody else.

    Raises:
        MlflowException: RESOURCE_CONFLICT (HTTP 409): it is archived in another table;
            RESOURCE_DOES_NOT_EXIST: no such experiment; INVALID_PARAMETER_VALUE: a wrong name or
            number, or a table that can't be an archive; TEMPORARILY_UNAVAILABLE: the lake can't be
            reached.
    """
    body = {
        "delta_table_fullname": delta_table_fullname,
        "retention_days": retention_days,
        "vacuum_hours": vacuum_hours,
        "optimize": optimize,
    }
    ask_server("PUT", _path(experiment_id), body)


def disable_trace_archival(*, experiment_id: str | None = None) -> None:
    """Stop archiving an experiment. The table stays as it is.

    Args:
        experiment_id: by default that of the active experiment.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment, or it isn't archived.
    """
    ask_server("DELETE", _path(experiment_id))


def trace_archival_status(*, experiment_id: str | None = None) -> dict[str, Any] | None:
    """How the archive of an experiment is; None if there is none.

    Args:
        experiment_id: by default that of the active experiment.

    Returns:
        ``delta_table_fullname``, ``uri``, ``retention_days``, ``optimize``; ``state`` (starting,
        filling, current, behind or failing), ``filled`` (the share of the traces that were there
        before, 0..1), ``lag_seconds``, ``last_commit`` (Unix seconds), ``rows`` and ``files`` of
        the table, ``error``.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment.
    """
    wanted = quote(_experiment(experiment_id), safe="")
    found = ask_server_json("GET", f"/api/archival?experiment_id={wanted}")["archives"]
    return dict(found[0]) if found else None


def _path(experiment_id: str | None) -> str:
    return f"/api/archival/{quote(_experiment(experiment_id), safe='')}"


def _experiment(experiment_id: str | None) -> str:
    return str(_get_experiment_id() if experiment_id is None else experiment_id)
