"""The columns of an archive: Databricks' ``_trace_unified`` (VARIANT as JSON text), then our own.

Ours: ``experiment_id``; ``received_at``, when the trace's first span or its start_trace arrived
(UTC); ``arrival_date``, the day of that, which the table is partitioned by.
"""

from __future__ import annotations

import pyarrow as pa

from vedette.lake.schemas import EVENT, LINK, PARTITION, RESOURCE, SCOPE, STATUS, TableSpec

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_TEXTS = pa.map_(pa.string(), pa.string())

SPAN = pa.struct(
    [
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("trace_state", pa.string()),
        ("parent_span_id", pa.string()),
        ("flags", pa.int32()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("start_time_unix_nano", pa.int64()),
        ("end_time_unix_nano", pa.int64()),
        ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int32()),
        ("events", pa.list_(EVENT)),
        ("dropped_events_count", pa.int32()),
        ("links", pa.list_(LINK)),
        ("dropped_links_count", pa.int32()),
        ("status", STATUS),
        ("resource", RESOURCE),
        ("resource_schema_url", pa.string()),
        ("instrumentation_scope", SCOPE),
        ("span_schema_url", pa.string()),
    ]
)
ASSESSMENT = pa.struct(
    [
        ("assessment_id", pa.string()),
        ("assessment_name", pa.string()),
        ("source", pa.struct([("source_id", pa.string()), ("source_type", pa.string())])),
        ("create_time", _TIMESTAMP),
        ("last_update_time", _TIMESTAMP),
        ("expectation", pa.struct([("value", pa.string())])),
        (
            "feedback",
            pa.struct(
                [
                    ("value", pa.string()),
                    (
                        "error",
                        pa.struct(
                            [
                                ("error_code", pa.string()),
                                ("error_message", pa.string()),
                                ("stack_trace", pa.string()),
                            ]
                        ),
                    ),
                ]
            ),
        ),
        ("rationale", pa.string()),
        ("metadata", _TEXTS),
        ("span_id", pa.string()),
        ("overrides", pa.string()),
        ("valid", pa.bool_()),
    ]
)
ARCHIVE_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),  # OpenTelemetry's, as in the other tables
        ("client_request_id", pa.string()),
        ("request_time", _TIMESTAMP),
        ("state", pa.string()),
        ("execution_duration_ms", pa.int64()),
        ("request", pa.string()),
        ("response", pa.string()),
        ("trace_metadata", _TEXTS),
        ("tags", _TEXTS),
        ("spans", pa.list_(SPAN)),
        ("assessments", pa.list_(ASSESSMENT)),
        ("experiment_id", pa.string()),
        ("received_at", _TIMESTAMP),
        (PARTITION, pa.date32()),
    ]
)


def archive_spec(name: str) -> TableSpec:
    """What the lake's code must know of the archive ``name``."""
    return TableSpec(
        name=name,
        schema=ARCHIVE_SCHEMA,
        sort_key="trace_id",
        stats=("trace_id", "request_time", "experiment_id", "received_at"),
        identity=("trace_id",),
    )
