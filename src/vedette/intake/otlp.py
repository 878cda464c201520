"""OTLP trace requests: from what a client sent to bytes that are safe to journal.

Whatever encoding it came in, what is journaled is a protobuf ``ExportTraceServiceRequest`` of which
every span is sound. A span that isn't is left out and counted (OTLP's partial success) [1].

[1] https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.json_format import Error as JsonFormatError
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from vedette.unicode import storable

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_LATEST_NS = 2**63 - 1
_MOST_SPANS = 1_000_000  # in one request: their numbers have five hexadecimal digits in the lake
_MESSAGES = 3  # reasons told of one request
_NESTING = 100  # of JSON; protobuf's own limit for values within values
_MEMBERS = 64  # of a gzip body; each costs a copy of what follows, and clients send one


class RequestRefused(Exception):
    """A request of which nothing is taken. ``status`` is the HTTP status to answer."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """What there is to journal. ``body`` is empty if no span was accepted."""

    body: bytes
    accepted: int
    rejected: int
    message: str  # why spans were rejected, for people


def media_type(content_type: str) -> str:
    """``Application/JSON; charset=utf-8`` -> ``application/json``."""
    return content_type.partition(";")[0].strip().lower()


def parse_request(
    body: bytes, content_type: str, content_encoding: str, max_bytes: int
) -> ParsedRequest:
    """Check a trace request.

    Args:
        body: as it came over the wire.
        content_type: its header, "" if there was none.
        content_encoding: likewise; gzip, deflate, identity or "".
        max_bytes: more than this after decompression is refused.

    Raises:
        RequestRefused: 400 malformed, 413 too large, 415 neither protobuf nor JSON.
    """
    kind = media_type(content_type)
    if kind not in (PROTOBUF, JSON):
        raise RequestRefused(
            415, f"Content-Type is {content_type or 'missing'}: send {PROTOBUF} or {JSON}"
        )
    data = _decompress(body, content_encoding.strip().lower(), max_bytes)
    rejections: list[str] = []
    if kind == JSON:
        request = _parse_json(data, rejections)
        data = b""
    else:
        try:
            request = ExportTraceServiceRequest.FromString(data)
        except DecodeError as error:
            raise RequestRefused(
                400, "the body is not a protobuf ExportTraceServiceRequest"
            ) from error
        if data and not request.resource_spans:
            raise RequestRefused(
                400, "the body is not an ExportTraceServiceRequest: no spans in it"
            )
    changed = not data
    accepted = 0
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            spans = scope_spans.spans
            problems = [(span, problem) for span in spans if (problem := _problem(span))]
            if problems:
                rejections += [f"span {span.name!r}: {problem}" for span, problem in problems]
                sound = [span for span in spans if _problem(span) is None]
                del spans[:]
                spans.extend(sound)
                changed = True
            accepted += len(spans)
    if accepted > _MOST_SPANS:
        raise RequestRefused(413, f"the request has over {_MOST_SPANS:,} spans: send fewer at once")
    if accepted and changed:
        data = request.SerializeToString()
    return ParsedRequest(data if accepted else b"", accepted, len(rejections), _summary(rejections))


def _problem(span: Span) -> str | None:
    """What makes a span unfit to be kept; None if nothing does."""
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id must be 16 bytes, not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id must be 8 bytes, not all zero"
    if len(span.parent_span_id) not in (0, 8):
        return "parent_span_id must be 8 bytes, or empty"
    times = [span.start_time_unix_nano, span.end_time_unix_nano]
    if span.events:
        times += [event.time_unix_nano for event in span.events]
    if max(times) > _LATEST_NS:
        return "a time of it is after the year 2262: times are nanoseconds since 1970"
    return None


def _summary(rejections: list[str]) -> str:
    if not rejections:
        return ""
    more = len(rejections) - _MESSAGES
    return "; ".join(rejections[:_MESSAGES]) + (f"; and {more} more" if more > 0 else "")


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """At most ``max_bytes`` are ever produced, however much the body would expand to."""
    if encoding in ("", "identity"):
        data = body
    elif encoding in ("gzip", "deflate"):
        inflated = _inflate(body, zlib.MAX_WBITS | 32, max_bytes + 1)
        if inflated is None and encoding == "deflate":  # some clients send no zlib header
            inflated = _inflate(body, -zlib.MAX_WBITS, max_bytes + 1)
        if inflated is None:
            raise RequestRefused(400, f"the body is not {encoding}, as Content-Encoding says")
        data = inflated
    else:
        raise RequestRefused(
            415, f"Content-Encoding {encoding} is not supported: use gzip, deflate or none"
        )
    if len(data) > max_bytes:
        raise RequestRefused(413, f"the body is over {max_bytes:,} bytes: send smaller batches")
    return data


def _inflate(body: bytes, window_bits: int, most: int) -> bytes | None:
    """Decompress all members of ``body``; None if it isn't compressed data, or not whole.

    Stops at ``most`` bytes.
    """
    data = b""
    if not body:
        return data
    for _ in range(_MEMBERS):
        stream = zlib.decompressobj(window_bits)
        try:
            data += stream.decompress(body, most - len(data))
        except zlib.error:
            return None
        if len(data) >= most:
            return data
        if not stream.eof:
            return None
        body = stream.unused_data
        if not body:
            return data
    return None


def _parse_json(data: bytes, rejections: list[str]) -> ExportTraceServiceRequest:
    content = _loads(data)
    if not isinstance(content, dict):
        raise RequestRefused(400, "the body is not an ExportTraceServiceRequest: no JSON object")
    request = ExportTraceServiceRequest()
    for resource_spans in _objects(content, "resourceSpans", "resource_spans"):
        for scope_spans in _objects(resource_spans, "scopeSpans", "scope_spans"):
            for span in _objects(scope_spans, "spans"):
                _read_ids(span)
    try:
        _fill(request, content)
        return request
    except ValueError:
        pass
    # Something in it is wrong: take it apart, to lose no more than what is wrong
    request = ExportTraceServiceRequest()
    for resource_spans in _objects(content, "resourceSpans", "resource_spans"):
        group = request.resource_spans.add()
        problem = _fill_alone(group, resource_spans, "scopeSpans", "scope_spans")
        for scope_spans in _objects(resource_spans, "scopeSpans", "scope_spans"):
            scope = group.scope_spans.add()
            problem_here = problem or _fill_alone(scope, scope_spans, "spans")
            for span in _objects(scope_spans, "spans"):
                reason = problem_here or _fill_alone(scope.spans.add(), span)
                if reason is not None:
                    rejections.append(f"span {str(span.get('name'))!r}: {reason}")
                    if problem_here is None:
                        del scope.spans[-1]
    if not request.resource_spans and not rejections:
        raise RequestRefused(400, "the body is not an ExportTraceServiceRequest")
    return request


def _fill_alone(message: Message, content: dict[str, Any], *without: str) -> str | None:
    """Fill a message from its JSON but for some fields; what is wrong if that can't be done."""
    try:
        _fill(message, {name: value for name, value in content.items() if name not in without})
    except ValueError as error:
        return str(error).rpartition("field: ")[2]
    return None


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError as error:
        refusal = RequestRefused(400, f"the body is not JSON: {error}")
        if b"\\ud" not in data.lower():
            raise refusal from error
    # Half a surrogate pair must not cost the whole batch
    try:
        text = json.dumps(json.loads(data.decode()), ensure_ascii=False)
        return orjson.loads(storable(text))
    except (ValueError, RecursionError):
        raise refusal from None


def _fill(message: Message, content: dict[str, Any]) -> None:
    """Raises ValueError."""
    try:
        ParseDict(content, message, ignore_unknown_fields=True, max_recursion_depth=_NESTING)
    except (JsonFormatError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


def _objects(parent: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        found = parent.get(name)
        if isinstance(found, list):
            yield from (item for item in found if isinstance(item, dict))


def _read_ids(span: dict[str, Any]) -> None:
    """OTLP's JSON has ids in hex, protobuf's JSON has bytes in base64."""
    holders = [span, *_objects(span, "links")]
    for holder in holders:
        for name in ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"):
            value = holder.get(name)
            if isinstance(value, str) and value:
                try:
                    raw = bytes.fromhex(value)
                except (ValueError, binascii.Error):
                    raw = b"?"  # of no valid length: the span is rejected for it
                holder[name] = base64.b64encode(raw).decode()
