"""Trace metrics as MLflow's ``query_trace_metrics`` computes them, from the columnar mirror.

What can be asked for, and every error, is MLflow's; the SQL below is that of its SQLite dialect in
DuckDB's terms, to the arithmetic of time buckets (floating point) and percentiles (linear).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa
from mlflow.entities.trace_metrics import (
    AggregationType,
    MetricAggregation,
    MetricDataPoint,
    MetricViewType,
)
from mlflow.store.tracking.utils.sql_trace_metrics_utils import (
    TIME_BUCKET_LABEL,
    validate_query_trace_metrics_params,
)
from mlflow.store.tracking.utils.trace_analytics import TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from mlflow.utils.search_utils import SearchTraceMetricsUtils

from vedette.traces.columns import Columns
from vedette.traces.conditions import Sql, conjunction, in_list, invalid
from vedette.traces.filter_clauses import analytics_condition

_NS_PER_MS = 1_000_000
# Times beyond this are beyond any value of a column; it keeps them within DuckDB's integers.
_TIME_BOUND_MS = 2**64
_MOST_POINTS = 2**62
_MOST_AGGREGATIONS = 100  # each is a column with a state of its own for every group


@dataclass(frozen=True, slots=True)
class _View:
    """How one kind of metrics is laid out in the mirror.

    Attributes:
        table: what is counted.
        trace: its column with the trace's row id.
        trace_time: its column with the trace's time in ms.
        bucket_time: the time in ms (floating point) by which buckets are formed.
        metrics: the expression aggregated for each metric.
        dimensions: the column of each dimension.
        filters: the column of each thing that a filter on this view can name.
    """

    table: str
    trace: str
    trace_time: str
    bucket_time: str
    metrics: dict[str, str]
    dimensions: dict[str, str]
    filters: dict[str, str]


_VIEWS = {
    MetricViewType.TRACES: _View(
        table="traces",
        trace="id",
        trace_time="timestamp_ms",
        bucket_time="timestamp_ms::DOUBLE",
        metrics={
            "trace_count": "id",
            "session_count": "session_id",
            "latency": "execution_time_ms",
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            "total_tokens": "total_tokens",
            "cache_read_input_tokens": "cache_read_input_tokens",
            "cache_creation_input_tokens": "cache_creation_input_tokens",
        },
        dimensions={"trace_name": "trace_name", "trace_status": "status"},
        filters={},
    ),
    MetricViewType.SPANS: _View(
        table="spans",
        trace="trace",
        trace_time="trace_timestamp_ms",
        bucket_time="(start_ns::DOUBLE / 1000000)",
        metrics={
            "span_count": "trace",
            "latency": "latency_ms",
            "input_cost": "input_cost",
            "output_cost": "output_cost",
            "total_cost": "total_cost",
        },
        dimensions={
            "span_name": "name",
            "span_type": "type",
            "span_status": "status",
            "span_model_name": "model_name",
            "span_model_provider": "model_provider",
        },
        filters={"name": "name", "status": "status", "type": "type"},
    ),
    MetricViewType.ASSESSMENTS: _View(
        table="assessments",
        trace="trace",
        trace_time="trace_timestamp_ms",
        bucket_time="trace_timestamp_ms::DOUBLE",
        metrics={"assessment_count": "trace", "assessment_value": "aggregate_value"},
        dimensions={"assessment_name": "name", "assessment_value": "value"},
        filters={"name": "name", "type": "assessment_type"},
    ),
}
_FILTER_VIEWS = {"span": MetricViewType.SPANS, "assessment": MetricViewType.ASSESSMENTS}


@dataclass(frozen=True, slots=True)
class MetricsQuery:
    """The arguments of ``query_trace_metrics``; times in ms, both ends inclusive.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, there is no such metric, or it doesn't have that
            dimension or aggregation, a percentile is no number, aggregations are over 100, or
            buckets are wanted without a time range.
    """

    experiment_ids: Sequence[int]
    view_type: MetricViewType
    metric_name: str
    aggregations: Sequence[MetricAggregation]
    dimensions: Sequence[str] | None = None
    filters: Sequence[str] | None = None
    time_interval_seconds: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    max_results: int | None = None

    def __post_init__(self) -> None:
        validate_query_trace_metrics_params(
            self.view_type, self.metric_name, list(self.aggregations), list(self.dimensions or ())
        )
        if self.time_interval_seconds and None in (self.start_time_ms, self.end_time_ms):
            raise invalid(
                "start_time_ms and end_time_ms are required if time_interval_seconds is set"
            )
        if len(self.aggregations) > _MOST_AGGREGATIONS:
            raise invalid(
                f"aggregations has {len(self.aggregations)} entries, {_MOST_AGGREGATIONS} at most"
            )
        if any(math.isnan(one.percentile_value or 0.0) for one in self.aggregations):
            raise invalid("percentile_value is NaN, not a number between 0 and 100")


def query_metrics(
    index: sqlite3.Connection, columns: Columns, query: MetricsQuery
) -> list[MetricDataPoint]:
    """Compute a metric.

    Args:
        index: the read model; filters on tags and metadata are answered by it.
        columns: its mirror.

    Returns:
        A point for each combination of time bucket and dimensions that has values, in their order.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, a filter is not valid, there is nothing to
            compute, or buckets are too long.
    """
    view = _VIEWS[query.view_type]
    value = view.metrics[query.metric_name]
    terms = [in_list("experiment_id", query.experiment_ids)] if query.experiment_ids else [Sql("0")]
    terms.append(Sql(f"{value} IS NOT NULL"))
    terms += _time_range(view, query)
    tables: dict[str, pa.Table] = {}
    for text in query.filters or ():
        terms.append(_filter(index, query.view_type, text, tables))
    groups, names = [], list(query.dimensions or ())
    params: list[Any] = []
    if query.time_interval_seconds:
        bucket_ms = float(query.time_interval_seconds * 1000)
        groups.append(f"floor({view.bucket_time} / {bucket_ms!r}) * {bucket_ms!r}")
        names.insert(0, TIME_BUCKET_LABEL)
    for dimension in query.dimensions or ():
        groups.append(view.dimensions[dimension])
        terms.append(Sql(f"{view.dimensions[dimension]} IS NOT NULL"))
    where = conjunction(terms)
    params += where.params
    shares = [_share(one) for one in query.aggregations if one.percentile_value is not None]
    values = [_aggregate(query.metric_name, value, one, shares) for one in query.aggregations]
    if not (groups or values):
        raise invalid(
            "aggregations is empty: name at least one, such as {'aggregation_type': 'COUNT'}"
        )
    sql = f"SELECT {', '.join([*groups, *values])} FROM {view.table} WHERE {where.text}"
    if groups:
        places = ", ".join(str(place + 1) for place in range(len(groups)))
        sql += f" GROUP BY {places} ORDER BY {places}"
    if query.max_results is not None and query.max_results >= 0:
        sql += f" LIMIT {min(int(query.max_results), _MOST_POINTS)}"
    rows = columns.query(index, sql, params, tables)
    return _points(query, names, rows)


def _aggregate(
    metric: str, value: str, aggregation: MetricAggregation, shares: Sequence[float]
) -> str:
    kind = aggregation.aggregation_type
    if kind == AggregationType.PERCENTILE:
        # The same list for each of them: DuckDB then sorts the values once
        place = shares.index(_share(aggregation)) + 1
        return f"quantile_cont({value}, {list(shares)!r}::DOUBLE[])[{place}]"
    if metric == "session_count":
        return f"count(DISTINCT {value})"
    return f"{kind.value.lower()}({value})"


def _share(percentile: MetricAggregation) -> float:
    assert percentile.percentile_value is not None
    return float(percentile.percentile_value) / 100.0


def _time_range(view: _View, query: MetricsQuery) -> list[Sql]:
    """The time range; of costs it is over the span's start, of all else over the trace's."""
    by_span = query.view_type == MetricViewType.SPANS and query.metric_name.endswith("_cost")
    column, unit = ("start_ns", _NS_PER_MS) if by_span else (view.trace_time, 1)
    terms = []
    if query.start_time_ms is not None:
        terms.append(Sql(f"{column} >= {_bounded(query.start_time_ms) * unit}"))
    if query.end_time_ms is not None:
        terms.append(Sql(f"{column} < {(_bounded(query.end_time_ms) + 1) * unit}"))
    return terms


def _bounded(time_ms: int) -> int:
    return max(-_TIME_BOUND_MS, min(int(time_ms), _TIME_BOUND_MS))


def _filter(
    index: sqlite3.Connection, view_type: MetricViewType, text: str, tables: dict[str, pa.Table]
) -> Sql:
    """One filter; a list of traces that the read model has to provide is put in ``tables``."""
    parsed = _parsed_filter(text)
    view = _VIEWS[view_type]
    if (of := _FILTER_VIEWS.get(parsed.view_type)) is not None:
        if of != view_type:
            raise invalid(
                f"Filtering by {parsed.view_type} is only supported for {of} view type, "
                f"got {view_type}"
            )
        return Sql(f"{view.filters[parsed.entity]} = ?", (parsed.value,))
    column = _trace_column(parsed.entity, parsed.key)
    if column is not None:
        if view_type == MetricViewType.TRACES:
            return Sql(f"{column} = ?", (parsed.value,))
        among = f"{view.trace} IN (SELECT id FROM traces WHERE {column} = ?)"
        return Sql(among, (parsed.value,))
    ids = _traces_with(parsed.entity, parsed.key or "", parsed.value)
    found = index.execute(ids.text, ids.params).fetchall()
    name = f"filter{len(tables)}"
    tables[name] = pa.table({"id": pa.array([row[0] for row in found], pa.int64())})
    return Sql(f"{view.trace} IN (SELECT id FROM {name})")


def _trace_column(entity: str, key: str | None) -> str | None:
    """The column of ``traces`` that a filter on traces compares, if it is one."""
    if entity == "status":
        return "status"
    if entity == "metadata" and key == TraceMetadataKey.TRACE_SESSION:
        return "session_id"
    if entity == "tag" and key == TraceTagKey.TRACE_NAME:
        return "trace_name"
    return None


def _traces_with(entity: str, key: str, value: str) -> Sql:
    """A query of the read model for the traces with a tag or a metadata entry."""
    if entity == "tag":
        return Sql("SELECT trace FROM trace_tags WHERE key = ? AND value = ?", (key, value))
    if key in TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY:
        equal = analytics_condition(key, "=", value)
        return Sql(f"SELECT t.id FROM traces t WHERE {equal.text}", equal.params)
    entry = Sql("SELECT trace FROM trace_metadata WHERE key = ? AND value = ?", (key, value))
    if key != TraceMetadataKey.SOURCE_RUN:
        return entry
    # A run's traces are those that say so and those linked to it later.
    linked = (
        " UNION SELECT t.id FROM run_links r JOIN traces t ON t.trace_id = r.trace_id"
        " WHERE r.run_id = ?"
    )
    return Sql(entry.text + linked, (*entry.params, value))


def _points(
    query: MetricsQuery, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> list[MetricDataPoint]:
    labels = [str(aggregation) for aggregation in query.aggregations]
    points = []
    for row in rows:
        dimensions = dict(zip(names, row[: len(names)], strict=True))
        if TIME_BUCKET_LABEL in dimensions:
            dimensions[TIME_BUCKET_LABEL] = _iso_time(dimensions[TIME_BUCKET_LABEL])
        found = zip(labels, row[len(names) :], strict=True)
        if values := {label: value for label, value in found if value is not None}:
            points.append(
                MetricDataPoint(metric_name=query.metric_name, dimensions=dimensions, values=values)
            )
    return points


@lru_cache(maxsize=1_000)  # the pages ask with the same few, and parsing one takes 0.3 ms
def _parsed_filter(text: str) -> Any:
    return SearchTraceMetricsUtils.parse_search_filter(text)


@lru_cache(maxsize=10_000)
def _iso_time(time_ms: float) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000.0, tz=UTC).isoformat()
    except (OverflowError, ValueError, OSError) as error:
        raise invalid(
            "time_interval_seconds makes buckets that begin outside of the years 1 to 9999"
        ) from error
