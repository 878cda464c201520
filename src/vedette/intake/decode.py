"""OTLP spans, decoded once for the lake and the read model."""

from __future__ import annotations

import base64
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ProtoResource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from vedette.intake.conventions import translate
from vedette.intake.extract import extract
from vedette.intake.resources import SERVICE_NAME, int32, resource_of, signed, with_scope
from vedette.intake.spans import DecodedSpan, Resource
from vedette.intake.values import any_value, attribute_values, json_text

TRACE_ID = "mlflow.traceRequestId"  # derived from the span's trace id on read, never taken from it

# Coding agents whose name MLflow copies from the resource to the root span, for its pages
_KNOWN_SERVICES = frozenset(
    {"claude-code", "codex_cli_rs", "codex_vscode", "gemini-cli", "qwen-code"}
)

_KINDS = {number: name for name, number in ProtoSpan.SpanKind.items()}
_STATUSES = {1: "OK", 2: "ERROR"}
_NO_PARENT = bytes(8)


def decode_spans(body: bytes) -> list[DecodedSpan]:
    """The spans of an OTLP ``ExportTraceServiceRequest``, in the order in which they were sent.

    Concatenated requests are one request, so ``body`` may be several of them.

    Raises:
        google.protobuf.message.DecodeError: the body is not such a request.
    """
    spans: list[DecodedSpan] = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        known_service = _known_service(group.resource)
        shared = resource_of(group.resource, group.schema_url)
        for scoped in group.scope_spans:
            resource = with_scope(shared, scoped)
            spans.extend(_span(span, resource, known_service) for span in scoped.spans)
    return spans


def span_trace_ids(body: bytes) -> set[str]:
    """Ids of the traces that a request has spans of, without decoding the spans."""
    return {
        "tr-" + span.trace_id.hex()
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    }


def _span(span: ProtoSpan, resource: Resource, known_service: str | None) -> DecodedSpan:
    attributes = attribute_values(span.attributes)
    attributes.pop(TRACE_ID, None)
    events = [_event(event) for event in span.events] if span.events else []
    translate(attributes, events)
    parent = span.parent_span_id
    is_root = not parent or parent == _NO_PARENT
    if is_root and known_service is not None:
        attributes[SERVICE_NAME] = known_service
    status = span.status
    text = json_text(attributes)
    decoded = DecodedSpan(
        trace_id="tr-" + span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=None if is_root else parent.hex(),
        name=span.name,
        kind=_KINDS.get(span.kind, "SPAN_KIND_UNSPECIFIED"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano or None,
        status_code=_STATUSES.get(status.code, "UNSET"),
        status_message=status.message,
        trace_state=span.trace_state,
        flags=signed(span.flags),
        attributes=text,
        dropped_attributes_count=int32(span.dropped_attributes_count),
        events=events,
        dropped_events_count=int32(span.dropped_events_count),
        links=[_link(link) for link in span.links] if span.links else [],
        dropped_links_count=int32(span.dropped_links_count),
        resource=resource,
        content_size=len(text),
    )
    extract(decoded, attributes)
    for event in events:
        event["attributes"] = json_text(event["attributes"])
    return decoded


def _event(event: ProtoSpan.Event) -> dict[str, Any]:
    return {
        "time_unix_nano": event.time_unix_nano,
        "name": event.name,
        "attributes": attribute_values(event.attributes),
        "dropped_attributes_count": int32(event.dropped_attributes_count),
    }


def _link(link: ProtoSpan.Link) -> dict[str, Any]:
    attributes = {}
    for attribute in link.attributes:
        if attribute.value.WhichOneof("value") == "bytes_value":  # in links MLflow writes base64
            attributes[attribute.key] = base64.b64encode(attribute.value.bytes_value).decode()
        else:
            attributes[attribute.key] = any_value(attribute.value)
    return {
        "trace_id": f"{int.from_bytes(link.trace_id):032x}",  # may have any length
        "span_id": f"{int.from_bytes(link.span_id):016x}",
        "trace_state": link.trace_state,
        "attributes": json_text(attributes),
        "dropped_attributes_count": int32(link.dropped_attributes_count),
        "flags": signed(link.flags),
    }


def _known_service(resource: ProtoResource) -> str | None:
    for attribute in resource.attributes:
        if attribute.key == SERVICE_NAME:
            name = attribute.value.string_value
            return name if name in _KNOWN_SERVICES else None
    return None
