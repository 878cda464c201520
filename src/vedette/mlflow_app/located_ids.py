"""Trace ids that say where the trace is: ``trace:/catalog.schema.prefix/id``.

MLflow's client lets them through where it sends ids in a request's body, not in its path: for whole
traces, links to runs, and deletions. The id may be OpenTelemetry's, as it is in the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlflow.entities import TraceInfo
from mlflow.tracing.constant import TRACE_ID_V4_PREFIX

from vedette.lake.location import Location
from vedette.lake.locations import Locations
from vedette.lake.schemas import mlflow_trace_id


def bare_ids(trace_ids: Iterable[str]) -> list[str]:
    """The ids without where the traces are."""
    return [_split(trace_id)[1] for trace_id in trace_ids]


def in_place(
    infos: Sequence[TraceInfo], asked: Iterable[str], locations: Locations
) -> list[TraceInfo]:
    """Those of the traces that are where the ids that were asked for say."""
    said = {trace_id: place for place, trace_id in map(_split, asked) if place is not None}
    found = []
    for info in infos:
        own = locations.of(str(info.experiment_id))
        if said.get(info.trace_id, own) == own:
            found.append(info)
    return found


def _split(trace_id: str) -> tuple[Location | None, str]:
    """Where it says that the trace is, if it does, and the id itself."""
    location, _, rest = trace_id.removeprefix(TRACE_ID_V4_PREFIX).partition("/")
    if not rest or not trace_id.startswith(TRACE_ID_V4_PREFIX):
        return None, trace_id
    try:
        return Location.parse(location), mlflow_trace_id(rest)
    except ValueError:
        return None, trace_id  # there is no such trace
