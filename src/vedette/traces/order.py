"""MLflow's ``order_by`` of traces as an SQLite ORDER BY over the read model.

Whatever is asked for, newest first and then the trace id break ties; what is absent comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.store.tracking.utils.trace_analytics import TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils

from vedette.traces.conditions import Sql, invalid

# column, whether it can be null
_ATTRIBUTES = {
    "experiment_id": ("t.experiment_id", False),
    "timestamp_ms": ("t.timestamp_ms", False),
    "execution_time_ms": ("t.execution_time_ms", True),
    "end_time_ms": ("(t.timestamp_ms + coalesce(t.execution_time_ms, 0))", False),
    "status": ("t.status", False),
    "request_id": ("t.trace_id", False),
}
_NEWEST_FIRST = "t.timestamp_ms DESC"
_BY_ID = "t.trace_id"


@dataclass(frozen=True, slots=True)
class Order:
    """How to sort rows ``t`` of ``traces``.

    Attributes:
        by: the ORDER BY expressions.
        joins: left joins they need, each with its values.
        newest_first: it is the natural order, which the index ``traces_by_time`` has.
    """

    by: str
    joins: Sql
    newest_first: bool


def compile_order(order_by: Sequence[str] | None) -> Order:
    """Compile ``order_by`` clauses such as ``"timestamp DESC"`` or ``"tags.region"``.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, a clause is not valid or a field appears twice.
    """
    terms: list[str] = []
    joins: list[Sql] = []
    seen: set[tuple[str, str]] = set()
    for number, clause in enumerate(order_by or ()):
        kind, key, ascending = SearchTraceUtils.parse_order_by_for_search_traces(clause)
        column, nullable, join = _sort_value(kind, key, f"o{number}")
        if join is not None:
            joins.append(join)
        if (kind, key) in seen:
            raise invalid(f"`order_by` contains duplicate fields: {order_by}")
        seen.add((kind, key))
        if nullable:
            terms.append(f"({column} IS NULL)")
        terms.append(column if ascending else f"{column} DESC")
    if ("attribute", "timestamp_ms") not in seen:
        terms.append(_NEWEST_FIRST)
    if ("attribute", "request_id") not in seen:
        terms.append(_BY_ID)
    return Order(
        ", ".join(terms),
        Sql(" ".join(j.text for j in joins), tuple(param for j in joins for param in j.params)),
        newest_first=terms == [_NEWEST_FIRST, _BY_ID],
    )


def _sort_value(kind: str, key: str, alias: str) -> tuple[str, bool, Sql | None]:
    """The expression to sort by, whether it can be null, and the join that provides it."""
    if SearchTraceUtils.is_request_metadata(kind, "="):
        if key in TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY:
            raise invalid(
                f"Ordering by reserved metadata '{key}' is not supported because it is "
                "represented by multiple columns."
            )
        if key == TraceMetadataKey.TRACE_SESSION:
            return "t.session_id", True, None
        return _entry("trace_metadata", key, alias)
    if SearchTraceUtils.is_attribute(kind, key, "="):
        column, nullable = _ATTRIBUTES[key]
        return column, nullable, None
    if SearchTraceUtils.is_tag(kind, "="):
        if key == TraceTagKey.TRACE_NAME:
            return "t.trace_name", True, None
        return _entry("trace_tags", key, alias)
    raise invalid(f"Invalid identifier type '{kind}'")


def _entry(table: str, key: str, alias: str) -> tuple[str, bool, Sql]:
    join = f"LEFT JOIN {table} {alias} ON {alias}.trace = t.id AND {alias}.key = ?"
    return f"{alias}.value", True, Sql(join, (key,))
