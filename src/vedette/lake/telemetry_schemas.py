"""The columns of the tables of log records and metric data points, Databricks' and then ours.

Rows lie in the order of arrival, for queries of a stretch of time, metrics in that of their names.
"""

from __future__ import annotations

import pyarrow as pa

from vedette.lake.location import TABLE_PREFIX
from vedette.lake.schemas import PARTITION, RESOURCE, SCOPE, TableSpec

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_PLACED = [("record_id", pa.string()), ("time", _TIMESTAMP), ("date", pa.date32())]
_OURS = [("experiment_id", pa.string()), ("received_at", _TIMESTAMP), (PARTITION, pa.date32())]

LOGS_SCHEMA = pa.schema(
    [
        *_PLACED,
        ("service_name", pa.string()),
        ("event_name", pa.string()),
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("time_unix_nano", pa.int64()),
        ("observed_time_unix_nano", pa.int64()),
        ("severity_number", pa.string()),  # SEVERITY_NUMBER_INFO, ... (OTLP enum name)
        ("severity_text", pa.string()),
        ("body", pa.string()),  # JSON
        ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int32()),
        ("flags", pa.int32()),
        ("resource", RESOURCE),
        ("resource_schema_url", pa.string()),
        ("instrumentation_scope", SCOPE),
        ("log_schema_url", pa.string()),
        *_OURS,
    ]
)

_EXEMPLARS = pa.list_(
    pa.struct(
        [
            ("time_unix_nano", pa.int64()),
            ("value", pa.float64()),
            ("span_id", pa.string()),
            ("trace_id", pa.string()),
            ("filtered_attributes", pa.string()),
        ]
    )
)
_BUCKETS = pa.struct([("offset", pa.int32()), ("bucket_counts", pa.list_(pa.int64()))])
_GAUGE = [
    ("value", pa.float64()),
    ("exemplars", _EXEMPLARS),
    ("attributes", pa.string()),
    ("flags", pa.int32()),
]
_TEMPORALITY = ("aggregation_temporality", pa.string())

METRICS_SCHEMA = pa.schema(
    [
        *_PLACED,
        ("service_name", pa.string()),
        ("start_time_unix_nano", pa.int64()),
        ("time_unix_nano", pa.int64()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("unit", pa.string()),
        ("metric_type", pa.string()),  # which of the next five the point has
        ("gauge", pa.struct(_GAUGE)),
        ("sum", pa.struct([*_GAUGE, _TEMPORALITY, ("is_monotonic", pa.bool_())])),
        (
            "histogram",
            pa.struct(
                [
                    ("count", pa.int64()),
                    ("sum", pa.float64()),
                    ("bucket_counts", pa.list_(pa.int64())),
                    ("explicit_bounds", pa.list_(pa.float64())),
                    ("exemplars", _EXEMPLARS),
                    ("attributes", pa.string()),
                    ("flags", pa.int32()),
                    ("min", pa.float64()),
                    ("max", pa.float64()),
                    _TEMPORALITY,
                ]
            ),
        ),
        (
            "exponential_histogram",
            pa.struct(
                [
                    ("attributes", pa.string()),
                    ("count", pa.int64()),
                    ("sum", pa.float64()),
                    ("scale", pa.int32()),
                    ("zero_count", pa.int64()),
                    ("positive_bucket", _BUCKETS),
                    ("negative_bucket", _BUCKETS),
                    ("flags", pa.int32()),
                    ("exemplars", _EXEMPLARS),
                    ("min", pa.float64()),
                    ("max", pa.float64()),
                    ("zero_threshold", pa.float64()),
                    _TEMPORALITY,
                ]
            ),
        ),
        (
            "summary",
            pa.struct(
                [
                    ("count", pa.int64()),
                    ("sum", pa.float64()),
                    (
                        "quantile_values",
                        pa.list_(pa.struct([("quantile", pa.float64()), ("value", pa.float64())])),
                    ),
                    ("attributes", pa.string()),
                    ("flags", pa.int32()),
                ]
            ),
        ),
        ("metadata", pa.string()),
        ("resource", RESOURCE),
        ("resource_schema_url", pa.string()),
        ("instrumentation_scope", SCOPE),
        ("metric_schema_url", pa.string()),
        *_OURS,
    ]
)

LOGS = TableSpec(
    name=f"{TABLE_PREFIX}_otel_logs",
    schema=LOGS_SCHEMA,
    sort_key="record_id",
    stats=("time", "received_at", "experiment_id"),
    identity=(),
)
METRICS = TableSpec(
    name=f"{TABLE_PREFIX}_otel_metrics",
    schema=METRICS_SCHEMA,
    sort_key="name",
    stats=("name", "time", "received_at", "experiment_id"),
    identity=(),
)
