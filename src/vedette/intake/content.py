"""A stored span as MLflow's SQL store keeps it: the JSON text of ``SqlSpan.content``.

`mlflow.entities.span.LazySpan.from_stored_content` reads it, filters on ``span.content`` search it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from vedette.intake.decode import TRACE_ID
from vedette.intake.spans import DecodedSpan
from vedette.intake.values import dump, stored

_STATUS_PREFIX = "STATUS_CODE_"


def content_of_span(span: DecodedSpan) -> str:
    """The content of a decoded span."""
    return _content(
        otel_trace_id=span.trace_id.removeprefix("tr-"),
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=span.name,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        status=span.status_code,
        message=span.status_message,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
    )


def content_of_row(row: Mapping[str, Any]) -> str:
    """The content of a row of the spans table.

    Args:
        row: these columns, lists and structs as Python lists and dicts: ``trace_id``, ``span_id``,
            ``parent_span_id``, ``name``, ``start_time_unix_nano``, ``end_time_unix_nano``,
            ``status``, ``attributes``, ``events``, ``links``.
    """
    return _content(
        otel_trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_span_id=row["parent_span_id"],
        name=row["name"],
        start_ns=row["start_time_unix_nano"],
        end_ns=row["end_time_unix_nano"],
        status=row["status"]["code"].removeprefix(_STATUS_PREFIX),
        message=row["status"]["message"],
        attributes=row["attributes"],
        events=row["events"] or (),
        links=row["links"] or (),
    )


def _content(
    *,
    otel_trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    name: str,
    start_ns: int,
    end_ns: int | None,
    status: str,
    message: str,
    attributes: str,
    events: Sequence[Mapping[str, Any]],
    links: Sequence[Mapping[str, Any]],
) -> str:
    texts = {key: stored(value) for key, value in orjson.loads(attributes).items()}
    texts[TRACE_ID] = dump(f"tr-{otel_trace_id}")
    return dump(
        {
            "trace_id": _base64(otel_trace_id),
            "span_id": _base64(span_id),
            "parent_span_id": _base64(parent_span_id) if parent_span_id else None,
            "name": name,
            "start_time_unix_nano": start_ns,
            "end_time_unix_nano": end_ns or 0,
            "events": [
                {
                    "name": event["name"],
                    "time_unix_nano": event["time_unix_nano"],
                    "attributes": orjson.loads(event["attributes"]),
                }
                for event in events
            ],
            # OpenTelemetry gives a message to errors only
            "status": {
                "code": _STATUS_PREFIX + status,
                "message": message if status == "ERROR" else "",
            },
            "attributes": texts,
            "links": [
                {
                    "trace_id": f"tr-{link['trace_id']}",
                    "span_id": link["span_id"],
                    "attributes": orjson.loads(link["attributes"]) or None,
                }
                for link in links
            ],
        }
    )


def _base64(hex_id: str) -> str:
    return b64encode(bytes.fromhex(hex_id)).decode()
