"""OTLP requests: from what a client sent to bytes that are safe to journal.

Whatever encoding it came in, what is journaled is the protobuf request of which every span, log
record or data point is sound. One that isn't is left out and counted (OTLP's partial success) [1].

[1] https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from vedette.intake.otlp_json import parse_json
from vedette.intake.signals import TRACES, Signal

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_MOST = 1_000_000  # counted in one request: their numbers have five hexadecimal digits in the lake
_MESSAGES = 3  # reasons told of one request
_MEMBERS = 64  # of a gzip body; each costs a copy of what follows, and clients send one


class RequestRefused(Exception):
    """A request of which nothing is taken. ``status`` is the HTTP status to answer."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """What there is to journal. ``body`` is empty if nothing was accepted."""

    body: bytes
    accepted: int  # spans, log records or data points
    rejected: int
    message: str  # why they were rejected, for people


def media_type(content_type: str) -> str:
    """``Application/JSON; charset=utf-8`` -> ``application/json``."""
    return content_type.partition(";")[0].strip().lower()


def parse_request(
    body: bytes, content_type: str, content_encoding: str, max_bytes: int, signal: Signal = TRACES
) -> ParsedRequest:
    """Check a request.

    Args:
        body: as it came over the wire.
        content_type: its header, "" if there was none.
        content_encoding: likewise; gzip, deflate, identity or "".
        max_bytes: more than this after decompression is refused.
        signal: what it is a request of.

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
    request: Any
    if kind == JSON:
        try:
            request = parse_json(signal, data, rejections)
        except ValueError as error:
            raise RequestRefused(400, f"the body is {error}") from error
        data = b""
    else:
        request = _parse_protobuf(signal, data)
    unread = len(rejections)
    accepted = sum(
        signal.sift(scope, rejections)
        for group in getattr(request, signal.groups)
        for scope in getattr(group, signal.scopes)
    )
    if accepted > _MOST:
        counted = signal.counted.replace("_", " ")
        raise RequestRefused(413, f"the request has over {_MOST:,} {counted}: send fewer at once")
    if accepted and (not data or len(rejections) > unread):
        data = request.SerializeToString()
    return ParsedRequest(data if accepted else b"", accepted, len(rejections), _summary(rejections))


def _parse_protobuf(signal: Signal, data: bytes) -> Any:
    name = signal.request.__name__
    try:
        request = signal.request.FromString(data)
    except DecodeError as error:
        raise RequestRefused(400, f"the body is not a protobuf {name}") from error
    if data and not getattr(request, signal.groups):
        counted = signal.counted.replace("_", " ")
        raise RequestRefused(400, f"the body is not an {name}: no {counted} in it")
    return request


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
