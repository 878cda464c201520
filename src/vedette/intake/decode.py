"""OTLP spans, decoded once for the lake and the read model."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ProtoResource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from vedette.intake.conventions import translate
from vedette.intake.extract import extract, resource_tags
from vedette.intake.spans import DecodedSpan, Resource
from vedette.intake.values import any_value, text_of
from vedette.unicode import storable

TRACE_ID = "mlflow.traceRequestId"  # derived from the span's trace id on read, never taken from it
_SERVICE_NAME = "service.name"

# Coding agents whose name MLflow copies from the resource to the root span, for its pages
_KNOWN_SERVICES = frozenset(
    {"claude-code", "codex_cli_rs", "codex_vscode", "gemini-cli", "qwen-code"}
)

_KINDS = {number: name for name, number in ProtoSpan.SpanKind.items()}
_STATUSES = {1: "OK", 2: "ERROR"}
_NO_PARENT = bytes(8)
_INT32_MAX = 2**31 - 1


def decode_spans(body: bytes) -> list[DecodedSpan]:
    """The spans of an OTLP ``ExportTraceServiceRequest``, in the order in which they were sent.

    Concatenated requests are one request, so ``body`` may be several of them.

    Raises:
        google.protobuf.message.DecodeError: the body is not such a request.
    """
    spans: list[DecodedSpan] = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        known_service = _known_service(group.resource)
        shared = _resource(group.resource, group.schema_url)
        for scoped in group.scope_spans:
            resource = _with_scope(shared, scoped)
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


def encode_attributes(attributes: dict[str, Any]) -> str:
    """A JSON object as text."""
    try:
        return orjson.dumps(attributes).decode()
    except TypeError:  # half a surrogate pair (becomes "?"), or an integer of more than 64 bits
        text = json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))
        return storable(text)


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    # Most values are non-empty strings; reading the field costs less than asking which it is
    return {
        attribute.key: attribute.value.string_value or any_value(attribute.value)
        for attribute in attributes
    }


def _span(span: ProtoSpan, resource: Resource, known_service: str | None) -> DecodedSpan:
    attributes = _values(span.attributes)
    attributes.pop(TRACE_ID, None)
    events = [_event(event) for event in span.events] if span.events else []
    translate(attributes, events)
    parent = span.parent_span_id
    is_root = not parent or parent == _NO_PARENT
    if is_root and known_service is not None:
        attributes[_SERVICE_NAME] = known_service
    status = span.status
    text = encode_attributes(attributes)
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
        flags=_signed(span.flags),
        attributes=text,
        dropped_attributes_count=_int32(span.dropped_attributes_count),
        events=events,
        dropped_events_count=_int32(span.dropped_events_count),
        links=[_link(link) for link in span.links] if span.links else [],
        dropped_links_count=_int32(span.dropped_links_count),
        resource=resource,
        content_size=len(text),
    )
    extract(decoded, attributes)
    for event in events:
        event["attributes"] = encode_attributes(event["attributes"])
    return decoded


def _event(event: ProtoSpan.Event) -> dict[str, Any]:
    return {
        "time_unix_nano": event.time_unix_nano,
        "name": event.name,
        "attributes": _values(event.attributes),
        "dropped_attributes_count": _int32(event.dropped_attributes_count),
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
        "attributes": encode_attributes(attributes),
        "dropped_attributes_count": _int32(link.dropped_attributes_count),
        "flags": _signed(link.flags),
    }


def _resource(resource: ProtoResource, schema_url: str) -> Resource:
    attributes = _values(resource.attributes)
    service = attributes.get(_SERVICE_NAME)
    return Resource(
        attributes=encode_attributes(attributes),
        dropped_attributes_count=_int32(resource.dropped_attributes_count),
        schema_url=schema_url,
        service_name=None if service is None else text_of(service),
        tags=resource_tags(attributes),
    )


def _with_scope(resource: Resource, scoped: ScopeSpans) -> Resource:
    scope = scoped.scope
    return Resource(
        attributes=resource.attributes,
        dropped_attributes_count=resource.dropped_attributes_count,
        schema_url=resource.schema_url,
        service_name=resource.service_name,
        scope_name=scope.name,
        scope_version=scope.version,
        scope_attributes=encode_attributes(_values(scope.attributes)),
        scope_dropped_attributes_count=_int32(scope.dropped_attributes_count),
        span_schema_url=scoped.schema_url,
        tags=resource.tags,
    )


def _known_service(resource: ProtoResource) -> str | None:
    for attribute in resource.attributes:
        if attribute.key == _SERVICE_NAME:
            name = attribute.value.string_value
            return name if name in _KNOWN_SERVICES else None
    return None


def _int32(count: int) -> int:
    return min(count, _INT32_MAX)


def _signed(flags: int) -> int:
    """The lake's integers are signed; the bits stay what they are."""
    return flags - 2**32 if flags > _INT32_MAX else flags
