"""The tables' columns: Databricks' v2 layout (VARIANT as JSON text), then columns of our own.

Ours on every table: ``received_at`` (arrival, UTC) and ``arrival_date`` (the partition). One commit
touches one partition, whatever times its spans carry, so a client can't make thousands of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pyarrow as pa

from vedette.lake.location import TABLE_PREFIX, Location

PARTITION = "arrival_date"

_MLFLOW_TRACE_ID = re.compile("tr-[0-9a-f]{32}")
_OTEL_TRACE_ID = re.compile("[0-9a-f]{32}")

_TIMESTAMP = pa.timestamp("us", tz="UTC")

EVENT = pa.struct(
    [
        ("time_unix_nano", pa.int64()),
        ("name", pa.string()),
        ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int32()),
    ]
)
LINK = pa.struct(
    [
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("trace_state", pa.string()),
        ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int32()),
        ("flags", pa.int32()),
    ]
)
STATUS = pa.struct([("message", pa.string()), ("code", pa.string())])
RESOURCE = pa.struct([("attributes", pa.string()), ("dropped_attributes_count", pa.int32())])
SCOPE = pa.struct(
    [
        ("name", pa.string()),
        ("version", pa.string()),
        ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int32()),
    ]
)

SPANS_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("time", _TIMESTAMP),
        ("date", pa.date32()),
        ("service_name", pa.string()),
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
        ("experiment_id", pa.string()),
        ("received_at", _TIMESTAMP),
        ("span_type", pa.string()),
        ("model_name", pa.string()),
        ("model_provider", pa.string()),
        ("input_cost", pa.float64()),
        ("output_cost", pa.float64()),
        ("total_cost", pa.float64()),
        (PARTITION, pa.date32()),
    ]
)

ANNOTATIONS_SCHEMA = pa.schema(
    [
        ("annotation_id", pa.string()),
        ("target_type", pa.string()),
        ("target_id", pa.string()),
        ("annotation_type", pa.string()),
        ("name", pa.string()),
        ("value", pa.string()),
        ("comment", pa.string()),
        ("metadata", pa.string()),
        ("created_at", _TIMESTAMP),
        ("created_by", pa.string()),
        ("updated_at", _TIMESTAMP),
        ("updated_by", pa.string()),
        ("deleted_at", _TIMESTAMP),
        ("deleted_by", pa.string()),
        # What an assessment has besides: the read model can be rebuilt from these tables.
        ("record_id", pa.string()),
        ("experiment_id", pa.string()),
        ("received_at", _TIMESTAMP),
        ("source_type", pa.string()),
        ("run_id", pa.string()),
        ("error", pa.string()),
        ("overrides", pa.string()),
        ("valid", pa.bool_()),
        ("last_updated_at", _TIMESTAMP),  # as the client said; updated_at is by arrival
        (PARTITION, pa.date32()),
    ]
)


DECISIONS_SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("experiment_id", pa.string()),
        ("scorer", pa.string()),
        ("version", pa.int32()),
        ("epoch", pa.int32()),
        ("stratum", pa.int32()),  # place in the epoch's strata; -1: none of them
        ("unit_type", pa.string()),
        ("unit_id", pa.string()),
        ("revision", pa.int32()),
        ("trace_id", pa.string()),
        ("decision", pa.string()),
        ("units", pa.int64()),
        ("inclusion_probability", pa.float64()),
        ("draw", pa.float64()),
        ("scores", pa.string()),  # JSON: [{assessment_id, name, value}]
        ("error_code", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("first_attempt_at", _TIMESTAMP),
        ("next_attempt_at", _TIMESTAMP),
        ("milliseconds", pa.float64()),
        ("worker", pa.string()),
        ("model", pa.string()),
        ("calls", pa.int32()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("completed_at", _TIMESTAMP),  # of a count: the hour
        ("decided_at", _TIMESTAMP),
        ("origin", pa.string()),
        ("settings", pa.string()),  # of an epoch, JSON: rate, filter, strata, reason
        ("record_id", pa.string()),
        ("received_at", _TIMESTAMP),
        (PARTITION, pa.date32()),
    ]
)


@dataclass(frozen=True)
class TableSpec:
    """What the lake's code must know of one table."""

    name: str
    schema: pa.Schema
    sort_key: str  # files are sorted by this column, then by `record_id`
    stats: tuple[str, ...]  # columns whose minimum and maximum are kept for each file
    # Rows that agree in these are versions of one thing, of which a finished day keeps the
    # newest (the highest record_id). Empty: every row is history that must stay.
    identity: tuple[str, ...]

    @property
    def trace_id_sql(self) -> str | None:
        """SQL for the id of the trace that a row tells of, as the tables have it; None: rows of
        this table tell of none."""
        if "trace_id" in self.schema.names:
            return "trace_id"
        if "target_id" in self.schema.names:
            of_span = "regexp_replace(target_id, ':[^:]*$', '')"
            return f"CASE target_type WHEN 'SPAN' THEN {of_span} ELSE target_id END"
        return None

    @property
    def configured_stats(self) -> list[str]:
        """`stats` as the table's property has to name them.

        deltalake 1.6.6 forgets the columns behind a struct of which no field is named.
        """
        structs = [column for column in self.schema if pa.types.is_struct(column.type)]
        return [*self.stats, *(f"{column.name}.{column.type[-1].name}" for column in structs)]

    def at(self, location: Location) -> TableSpec:
        """The spec of the table that is this one in another location."""
        return replace(self, name=location.key(self.name))

    @property
    def file_schema(self) -> pa.Schema:
        """The columns in the Parquet files: all but the partition, which Delta keeps in the log."""
        return pa.schema([column for column in self.schema if column.name != PARTITION])


SPANS = TableSpec(
    name=f"{TABLE_PREFIX}_otel_spans",
    schema=SPANS_SCHEMA,
    sort_key="trace_id",
    stats=("trace_id", "time", "received_at", "experiment_id"),
    identity=("trace_id", "span_id"),
)
ANNOTATIONS = TableSpec(
    name=f"{TABLE_PREFIX}_otel_annotations",
    schema=ANNOTATIONS_SCHEMA,
    sort_key="target_id",
    stats=("target_id", "received_at"),
    identity=(),
)


DECISIONS = TableSpec(
    name=f"{TABLE_PREFIX}_monitor_decisions",
    schema=DECISIONS_SCHEMA,
    sort_key="decision_id",
    stats=("decision_id", "received_at", "completed_at"),
    identity=("decision_id", "attempts"),  # each attempt has its cost
)


def lake_trace_id(trace_id: str) -> str:
    """The id as the tables hold it: OTel's bare hex for "tr-" + 32 hex, anything else unchanged."""
    return trace_id[3:] if _MLFLOW_TRACE_ID.fullmatch(trace_id) else trace_id


def mlflow_trace_id(trace_id: str) -> str:
    """The inverse of `lake_trace_id`.

    A client may choose 32 bare hex digits as its own trace id; it can't be told from "tr-" + the
    same digits and comes back as that.
    """
    return f"tr-{trace_id}" if _OTEL_TRACE_ID.fullmatch(trace_id) else trace_id
