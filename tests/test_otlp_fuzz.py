"""Whatever is posted to the OTLP routes: no 500, and nothing journaled that can't be read again."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities.span import LazySpan
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_server import OtlpServer
from otlp_strategies import FAMILIAR_KEYS, FOREIGN_KEYS, agent_request, request_of, spans
from vedette.intake.content import content_of_span
from vedette.intake.decode import decode_spans
from vedette.intake.otlp import JSON, PROTOBUF
from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan
from vedette.traces.fold import fold
from vedette.traces.index import TraceIndex

LIMIT = 50_000
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
logging.getLogger("opentelemetry.trace.status").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtlpServer]:
    with OtlpServer(tmp_path_factory.mktemp("fuzz"), max_body_bytes=LIMIT) as server:
        yield server


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    return TraceIndex(tmp_path_factory.mktemp("index") / "index.db").connection()


VALID = [agent_request("genai"), agent_request("mlflow", traces=2)]
bodies = st.sampled_from(VALID) | st.lists(spans(FAMILIAR_KEYS + FOREIGN_KEYS), max_size=3).map(
    lambda sent: request_of(*sent)
)


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some changed, taken out, put in or cut off."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 9)))
        body[start:end] = draw(st.binary(max_size=9))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


_NAMES = [
    *("resourceSpans", "resource", "attributes", "scopeSpans", "scope", "spans", "resource_spans"),
    *("traceId", "spanId", "parentSpanId", "trace_id", "name", "kind", "startTimeUnixNano"),
    *("endTimeUnixNano", "events", "links", "status", "code", "message", "key", "value"),
    *("stringValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "values", "flags"),
    *("bytesValue", "boolValue", "timeUnixNano", "droppedAttributesCount", "traceState", "x"),
]
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(
        ["00" * 16, "ab" * 16, "ab" * 8, "NaN", "Infinity", "1e9", "SPAN_KIND_SERVER"]
    )
)
any_json = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def broken_json(draw: st.DrawFn) -> bytes:
    """A request in JSON in which some values have been replaced."""
    request: Any = MessageToDict(ExportTraceServiceRequest.FromString(draw(bodies)))
    for group in request.get("resourceSpans", []):
        for span in group["scopeSpans"][0].get("spans", []):
            for name in ("traceId", "spanId", "parentSpanId"):
                if name in span:
                    span[name] = base64.b64decode(span[name]).hex()
    for _ in range(draw(st.integers(0, 3))):
        place = request
        for _ in range(draw(st.integers(0, 9))):
            places = list(place if isinstance(place, dict) else range(len(place)))
            if not places:
                break
            key = draw(st.sampled_from(places))
            if not isinstance(place[key], dict | list):
                place[key] = draw(any_json)
                break
            if draw(st.integers(0, 6)) == 0:
                place[key] = draw(any_json)
                break
            place = place[key]
    return json.dumps(request).encode()


def check(
    server: OtlpServer, index: sqlite3.Connection, body: bytes, headers: dict[str, str]
) -> None:
    answer = server.post(body, headers)
    assert answer.status in (200, 400, 404, 413, 415)
    records = server.records()
    assert answer.status == 200 or not records
    if answer.status != 200:
        assert len(answer.body) > 10, "an error that says nothing"
    for record in records:
        kept = decode_spans(record.body)
        assert kept
        for span in kept:
            assert isinstance(orjson.loads(span.attributes), dict)
            assert LazySpan.from_stored_content(content_of_span(span)).trace_id == span.trace_id
        assert folded(index, record, kept) == len({(span.trace_id, span.span_id) for span in kept})


def folded(index: sqlite3.Connection, record: Record, kept: list[DecodedSpan]) -> int:
    """How many spans of a record get into the read model."""
    index.execute("BEGIN IMMEDIATE")
    try:
        fold(index, [(record, kept)])
        (count,) = index.execute("SELECT count(*) FROM spans").fetchone()
    finally:
        index.execute("ROLLBACK")
    return int(count)


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes(server: OtlpServer, index: sqlite3.Connection, body: bytes) -> None:
    check(server, index, body, {})
    check(server, index, body, {"content-type": JSON})


@fuzz
@given(broken(bodies))
def test_broken_protobuf(server: OtlpServer, index: sqlite3.Connection, body: bytes) -> None:
    check(server, index, body, {})


@fuzz
@given(any_json.map(lambda value: json.dumps(value).encode()) | broken_json())
def test_broken_json(server: OtlpServer, index: sqlite3.Connection, body: bytes) -> None:
    check(server, index, body, {"content-type": JSON})


@fuzz
@given(
    broken(bodies | bodies.map(gzip.compress) | bodies.map(zlib.compress)),
    st.sampled_from([PROTOBUF, JSON, "text/html", "", "application/json;;", "é"]),
    st.sampled_from(["gzip", "deflate", "identity", "", "br", "gzip, gzip", "é"]),
    st.dictionaries(
        st.sampled_from(
            [
                "x-mlflow-experiment-id",
                "x-mlflow-run-id",
                "x-databricks-uc-table-name",
                "content-length",
            ]
        ),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12)
        | st.sampled_from(["7", "9" * 30, "-1", "main.default.mlflow_otel_spans"]),
    ),
)
def test_wrong_headers(
    server: OtlpServer,
    index: sqlite3.Connection,
    body: bytes,
    content_type: str,
    encoding: str,
    others: dict[str, str],
) -> None:
    headers = {"content-type": content_type, "content-encoding": encoding, **others}
    check(server, index, body, headers)
