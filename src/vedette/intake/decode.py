"""OTLP spans, decoded once for the lake and the read model."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ProtoResource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from vedette.intake.conventions import (
    COST,
    INPUTS,
    MODEL,
    OUTPUTS,
    PROVIDER,
    SPAN_TYPE,
    USAGE,
    translate,
)
from vedette.intake.previews import preview
from vedette.intake.spans import DecodedSpan, Resource
from vedette.intake.values import any_value, loaded, text_of

TRACE_ID = "mlflow.traceRequestId"  # derived from the span's trace id on read, never taken from it
_TRACE_TAG = "mlflow.traceTag."
_TRACE_NAME = "mlflow.traceName"
_SERVICE_NAME = "service.name"

# Coding agents whose name MLflow copies from the resource to the root span, for its pages
_KNOWN_SERVICES = frozenset(
    {"claude-code", "codex_cli_rs", "codex_vscode", "gemini-cli", "qwen-code"}
)

# MLflow's limits, in characters
_SESSION_LENGTH = 250
_MODEL_LENGTH = 500
_TAG_KEY_LENGTH = 250
_TAG_VALUE_LENGTH = 8000
_TRACE_NAME_LENGTH = 4096
_TAG_KEY = re.compile(r"^[/\w.\- :]*$")

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
        return text.encode("utf-8", "replace").decode()


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
    get = attributes.get
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
        attributes=encode_attributes(attributes),
        dropped_attributes_count=_int32(span.dropped_attributes_count),
        events=events,
        dropped_events_count=_int32(span.dropped_events_count),
        links=[_link(link) for link in span.links] if span.links else [],
        dropped_links_count=_int32(span.dropped_links_count),
        resource=resource,
        span_type=_optional_text(get(SPAN_TYPE)),
        session_id=_session(attributes),
        user_id=text_of(attributes["user.id"]) if "user.id" in attributes else None,
    )
    for event in events:
        event["attributes"] = encode_attributes(event["attributes"])
    if MODEL in attributes:
        decoded.model_name = text_of(attributes[MODEL])[:_MODEL_LENGTH]
    if PROVIDER in attributes:
        decoded.model_provider = text_of(attributes[PROVIDER])[:_MODEL_LENGTH]
    if USAGE in attributes:
        decoded.usage = _numbers(attributes[USAGE])
    if COST in attributes:
        decoded.cost = _numbers(attributes[COST])
    if is_root:
        if INPUTS in attributes:
            decoded.request_preview = preview(attributes[INPUTS], "user")
        if OUTPUTS in attributes:
            decoded.response_preview = preview(attributes[OUTPUTS], "assistant")
        decoded.trace_tags = _trace_tags(attributes)
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


def _session(attributes: dict[str, Any]) -> str | None:
    for key in ("session.id", "gen_ai.conversation.id"):
        if key in attributes:
            return text_of(attributes[key])[:_SESSION_LENGTH]
    return None


def _optional_text(value: Any) -> str | None:
    return None if value is None else text_of(value)


def _numbers(value: Any) -> dict[str, Any] | None:
    """Token counts or costs; what isn't a number can't be added up and is left out."""
    value = loaded(value)
    if not isinstance(value, dict):
        return None
    return {
        key: number
        for key, number in value.items()
        if isinstance(number, int | float) and math.isfinite(number) and abs(number) < 2**63
    }


def _trace_tags(attributes: dict[str, Any]) -> dict[str, str]:
    """Tags of the trace that MLflow's SDK sends along as attributes of the root span."""
    tags = {}
    for key, value in attributes.items():
        if key.startswith(_TRACE_TAG):
            name = key[len(_TRACE_TAG) :]
            if is_tag_key(name):
                limit = _TRACE_NAME_LENGTH if name == _TRACE_NAME else _TAG_VALUE_LENGTH
                tags[name] = text_of(value)[:limit]
    return tags


def is_tag_key(key: str) -> bool:
    """Whether MLflow accepts a tag of this name."""
    return len(key) <= _TAG_KEY_LENGTH and _TAG_KEY.match(key) is not None


def _resource(resource: ProtoResource, schema_url: str) -> Resource:
    attributes = _values(resource.attributes)
    service = attributes.get(_SERVICE_NAME)
    tags = {}
    for key, value in attributes.items():
        if key and not key.startswith(("telemetry.sdk.", "mlflow.")) and is_tag_key(key):
            text = value if isinstance(value, str) else json.dumps(value)
            tags[key] = text[:_TAG_VALUE_LENGTH]
    return Resource(
        attributes=encode_attributes(attributes),
        dropped_attributes_count=_int32(resource.dropped_attributes_count),
        schema_url=schema_url,
        service_name=None if service is None else text_of(service),
        tags=tags,
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
