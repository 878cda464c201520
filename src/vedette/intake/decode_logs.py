"""OTLP log records, decoded for the lake."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from vedette.intake.resources import columns_of, hex_id, int32, resource_of, signed, with_scope
from vedette.intake.values import any_value, attribute_values, json_text

_SEVERITIES = {number: name for name, number in SeverityNumber.items()}


def decode_logs(body: bytes) -> list[dict[str, Any]]:
    """The log records of an OTLP ``ExportLogsServiceRequest``, in the order they were sent.

    Returns:
        What they say, by column of the lake's table of logs; a time that is not said is None.

    Raises:
        google.protobuf.message.DecodeError: the body is not such a request.
    """
    rows: list[dict[str, Any]] = []
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        resource = resource_of(group.resource, group.schema_url)
        for scoped in group.scope_logs:
            shared = columns_of(with_scope(resource, scoped), "log_schema_url")
            rows.extend({**shared, **_log(record)} for record in scoped.log_records)
    return rows


def _log(record: LogRecord) -> dict[str, Any]:
    said = record.HasField("body") and record.body.WhichOneof("value") is not None
    return {
        "event_name": record.event_name or None,
        "trace_id": hex_id(record.trace_id, 16),
        "span_id": hex_id(record.span_id, 8),
        "time_unix_nano": record.time_unix_nano or None,
        "observed_time_unix_nano": record.observed_time_unix_nano or None,
        "severity_number": _SEVERITIES.get(record.severity_number, str(record.severity_number)),
        "severity_text": record.severity_text,
        "body": json_text(any_value(record.body)) if said else None,
        "attributes": json_text(attribute_values(record.attributes)),
        "dropped_attributes_count": int32(record.dropped_attributes_count),
        "flags": signed(record.flags),
    }
