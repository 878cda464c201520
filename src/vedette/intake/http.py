"""The HTTP routes that take OTLP: answered when the journal has on disk what was sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import orjson
from prometheus_client import CollectorRegistry, Counter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vedette.intake.journal import JournalFull, JournalUnavailable, JournalWriter
from vedette.intake.otlp import (
    JSON,
    PROTOBUF,
    ParsedRequest,
    RequestRefused,
    media_type,
    parse_request,
)
from vedette.intake.otlp_json import camel
from vedette.intake.records import Record
from vedette.intake.signals import SIGNALS, TRACES, Signal

METRICS = CollectorRegistry()
_REQUESTS = Counter("vedette_otlp_requests", "OTLP requests.", ["status"], registry=METRICS)
_ACCEPTED = {
    signal.kind: Counter(f"vedette_otlp_{signal.counted}", "Acknowledged.", registry=METRICS)
    for signal in SIGNALS
}
_REJECTED = {
    signal.kind: Counter(
        f"vedette_otlp_rejected_{signal.counted}", "Rejected as unsound.", registry=METRICS
    )
    for signal in SIGNALS
}

_EXPERIMENT_HEADER = "x-mlflow-experiment-id"
_RUN_HEADER = "x-mlflow-run-id"
_TABLE_HEADER = "x-databricks-uc-table-name"
_RETRY_SECONDS = "2"
# Bytes after decompression; larger bodies are parsed beside the event loop. JSON takes 100 times as
# long as protobuf.
_LARGE = {PROTOBUF: 256 * 1024, JSON: 8 * 1024}
_PARSED_AT_ONCE = 4  # of those: each may become a body of the largest size, and its messages
_BODIES_AT_ONCE = 8  # of the largest size; the bodies being received take no more than that

# google.rpc.Code, which OTLP's error bodies carry
_CODES = {400: 3, 404: 5, 413: 3, 415: 3, 503: 14}


# Gives the id of an experiment that takes traces, or raises RequestRefused
class Destination(NamedTuple):
    """Where what is sent goes.

    Attributes:
        location: of the tables, as journal records have it; None: that by default.
    """

    experiment_id: str
    location: str | None = None


# Of the experiment and of the location, "catalog.schema.prefix", that a request names
Resolve = Callable[[str | None, str | None], Awaitable[Destination]]


def otlp_routes(journal: JournalWriter, resolve: Resolve, max_body_bytes: int) -> list[Route]:
    """``POST /v1/traces``, ``/v1/logs``, ``/v1/metrics`` and Databricks' paths for the same.

    Args:
        journal: what is sent goes there.
        resolve: checks what a request names, and chooses what it doesn't.
        max_body_bytes: after decompression; more is answered 413.
    """

    bodies = _Bodies(_BODIES_AT_ONCE * max_body_bytes)
    parsing = asyncio.Semaphore(_PARSED_AT_ONCE)

    async def take(signal: Signal, request: Request) -> Response:
        reply = JSON if media_type(request.headers.get("content-type", "")) == JSON else PROTOBUF
        try:
            destination = await resolve(*_named(signal, request))
            with bodies.room() as room:
                body = await _body(request, max_body_bytes, room)
                parsed = await _parse(signal, body, request.headers, max_body_bytes, parsing)
                await _journal(
                    journal, signal, parsed, destination, request.headers.get(_RUN_HEADER)
                )
        except RequestRefused as refusal:
            return _refuse(reply, refusal.status, str(refusal))
        except (JournalFull, JournalUnavailable) as error:
            return _refuse(reply, 503, str(error))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        _REQUESTS.labels("200").inc()
        _ACCEPTED[signal.kind].inc(parsed.accepted)
        _REJECTED[signal.kind].inc(parsed.rejected)
        return _acknowledge(signal, reply, parsed)

    return [
        Route(path, partial(take, signal), methods=["POST"])
        for signal in SIGNALS
        for path in signal.paths
    ]


class _Bodies:
    """The bodies of all requests under way, which together are held in bounded memory."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """For one body: call it with the size of each piece before keeping that.

        It raises RequestRefused, 503, when there is no room left.
        """
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self._held + size > self._most:
                raise RequestRefused(503, "too many large requests at once: send again later")
            self._held += size
            mine += size

        try:
            yield take
        finally:
            self._held -= mine


async def _journal(
    journal: JournalWriter,
    signal: Signal,
    parsed: ParsedRequest,
    destination: Destination,
    run_id: str | None,
) -> None:
    if not parsed.accepted:
        return
    fields: dict[str, Any] = {"experiment_id": destination.experiment_id}
    if destination.location is not None:
        fields["location"] = destination.location
    if signal is TRACES:
        fields["run_id"] = run_id
    record = Record(signal.kind, time.time_ns() // 1_000_000, fields, parsed.body)
    # Shielded: a request that is given up must not cancel a write the journal has begun
    await asyncio.shield(asyncio.wrap_future(journal.append(record)))


async def _parse(
    signal: Signal, body: bytes, headers: Headers, max_bytes: int, parsing: asyncio.Semaphore
) -> ParsedRequest:
    content_type, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
    large = _LARGE.get(media_type(content_type), 0)
    if len(body) <= large:
        try:
            return parse_request(body, content_type, encoding, min(large, max_bytes), signal)
        except RequestRefused as refusal:
            if refusal.status != 413 or max_bytes <= large:
                raise
    async with parsing:
        return await run_in_threadpool(
            parse_request, body, content_type, encoding, max_bytes, signal
        )


async def _body(request: Request, max_bytes: int, room: Callable[[int], None]) -> bytes:
    """The body as sent; never more than ``max_bytes`` of it are held."""
    declared = request.headers.get("content-length", "")
    received = int(declared) if declared.isdecimal() and len(declared) < 20 else 0
    chunks: list[bytes] = []
    if received <= max_bytes:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                break
            room(len(chunk))
            chunks.append(chunk)
    if received > max_bytes:
        raise RequestRefused(413, f"the body is over {max_bytes:,} bytes: send smaller batches")
    return b"".join(chunks)


def _named(signal: Signal, request: Request) -> tuple[str | None, str | None]:
    """The experiment and the location that a request's headers name."""
    experiment_id = request.headers.get(_EXPERIMENT_HEADER) or None
    table = request.headers.get(_TABLE_HEADER)
    if table is None:
        return experiment_id, None
    location, ending, rest = table.lower().rpartition(signal.ending)
    if not ending or rest:
        raise RequestRefused(
            404,
            f"there is no table {table!r}, which {_TABLE_HEADER} names, for what is sent to "
            f"{signal.path}: such a one ends in {signal.ending}, "
            f"as main.default.mlflow{signal.ending}",
        )
    return experiment_id, location


def _acknowledge(signal: Signal, reply: str, parsed: ParsedRequest) -> Response:
    rejected = f"rejected_{signal.counted}"
    if reply == PROTOBUF:
        message: Any = signal.response()
        if parsed.rejected:
            setattr(message.partial_success, rejected, parsed.rejected)
            message.partial_success.error_message = parsed.message
        return Response(message.SerializeToString(), media_type=PROTOBUF)
    content = {}
    if parsed.rejected:
        content["partialSuccess"] = {
            camel(rejected): str(parsed.rejected),
            "errorMessage": parsed.message,
        }
    return Response(orjson.dumps(content), media_type=JSON)


def _refuse(reply: str, status: int, message: str) -> Response:
    """An error as OTLP wants it: a google.rpc.Status in the format of the request."""
    _REQUESTS.labels(str(status)).inc()
    headers = {"retry-after": _RETRY_SECONDS} if status == 503 else None
    code = _CODES.get(status, 2)
    if reply == JSON:
        return Response(
            orjson.dumps({"code": code, "message": message}), status, headers, media_type=JSON
        )
    text = message.encode()
    content = bytes([0x08, code, 0x12]) + _varint(len(text)) + text
    return Response(content, status, headers, media_type=PROTOBUF)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
