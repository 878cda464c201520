"""OTLP over HTTP: what is taken, what is refused and how, and that an answer means "on disk"."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otlp_server import OtlpServer
from otlp_strategies import agent_request
from vedette.intake.decode import decode_spans
from vedette.intake.otlp import JSON, PROTOBUF, RequestRefused, parse_request

LIMIT = 100_000
GOOD = agent_request("genai", traces=2)  # six spans


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OtlpServer]:
    with OtlpServer(tmp_path, max_body_bytes=LIMIT) as server:
        yield server


def in_json(body: bytes) -> dict[str, Any]:
    """The request as OTLP's JSON has it: ids in hex."""
    request: dict[str, Any] = MessageToDict(ExportTraceServiceRequest.FromString(body))
    for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                span[name] = base64.b64decode(span[name]).hex()
    return request


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


def faulty(**fields: Any) -> bytes:
    """Six spans, of which the third has these fields."""
    request = ExportTraceServiceRequest.FromString(GOOD)
    span = request.resource_spans[0].scope_spans[0].spans[2]
    for name, value in fields.items():
        setattr(span, name, value)
    return request.SerializeToString()


def test_an_answer_comes_when_the_spans_are_in_the_journal(server: OtlpServer) -> None:
    answer = server.post(GOOD)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == PROTOBUF
    (record,) = server.records()
    assert (record.kind, record.body) == ("spans", GOOD)
    assert record.fields == {"experiment_id": "0", "run_id": None}


@pytest.mark.parametrize("path", ["/v1/traces", "/api/2.0/otel/v1/traces"])
def test_headers_say_where_spans_belong(server: OtlpServer, path: str) -> None:
    headers = {
        "x-mlflow-experiment-id": "7",
        "x-mlflow-run-id": "run",
        "X-Databricks-UC-Table-Name": "main.default.mlflow_otel_spans",
    }
    assert server.post(GOOD, headers, path=path).status == 200
    (record,) = server.records()
    assert record.fields == {"experiment_id": "7", "run_id": "run"}


def test_json_is_kept_as_protobuf(server: OtlpServer) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = server.post(json.dumps(in_json(GOOD)).encode(), headers)
    assert (answer.status, answer.json()) == (200, {})
    (record,) = server.records()
    assert decode_spans(record.body) == decode_spans(GOOD)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(GOOD)),
        ("GZIP", gzip.compress(GOOD)),
        ("gzip", gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:])),
        ("deflate", zlib.compress(GOOD)),
        ("deflate", raw_deflate(GOOD)),
        ("identity", GOOD),
    ],
)
def test_compressed_bodies_are_unpacked(server: OtlpServer, encoding: str, body: bytes) -> None:
    assert server.post(body, {"content-encoding": encoding}).status == 200
    assert [record.body for record in server.records()] == [GOOD]


def test_a_request_without_spans_is_no_error(server: OtlpServer) -> None:
    assert server.post(b"").status == 200
    assert server.post(b"{}", {"content-type": JSON}).status == 200
    assert server.records() == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b"short"}, "trace_id must be 16 bytes"),
        ({"trace_id": bytes(16)}, "trace_id must be 16 bytes, not all zero"),
        ({"span_id": b""}, "span_id must be 8 bytes"),
        ({"span_id": bytes(8)}, "span_id must be 8 bytes, not all zero"),
        ({"parent_span_id": b"123456789"}, "parent_span_id must be 8 bytes"),
        ({"start_time_unix_nano": 2**63}, "after the year 2262"),
        ({"end_time_unix_nano": 2**64 - 1}, "after the year 2262"),
    ],
)
def test_a_bad_span_does_not_sink_its_batch(
    server: OtlpServer, fields: dict[str, Any], reason: str
) -> None:
    answer = server.post(faulty(**fields))
    assert answer.status == 200
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_spans == 1
    assert reason in partial.error_message
    (record,) = server.records()
    good = decode_spans(GOOD)
    assert decode_spans(record.body) == good[:2] + good[3:]


def test_a_bad_span_in_json_does_not_sink_its_batch(server: OtlpServer) -> None:
    request = in_json(GOOD)
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[0]["traceId"] = "not hex"
    spans[1]["startTimeUnixNano"] = "soon"
    answer = server.post(json.dumps(request).encode(), {"content-type": JSON})
    assert answer.status == 200
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "2"
    (record,) = server.records()
    assert decode_spans(record.body) == decode_spans(GOOD)[2:]


def test_half_a_character_in_json_costs_that_character_alone(server: OtlpServer) -> None:
    request = in_json(GOOD)
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans[0]["name"] = "cut \ud83d"
    spans[1]["name"] = "whole \U0001f600"
    answer = server.post(json.dumps(request).encode(), {"content-type": JSON})
    assert answer.status == 200
    (record,) = server.records()
    first, second, *_ = decode_spans(record.body)
    assert (first.name, second.name) == ("cut ?", "whole \U0001f600")


def test_spans_that_end_before_they_start_are_kept(server: OtlpServer) -> None:
    body = faulty(start_time_unix_nano=2**62, end_time_unix_nano=5)
    assert server.post(body).body == b""
    assert [record.body for record in server.records()] == [body]


@pytest.mark.parametrize(
    ("body", "headers", "status", "hint"),
    [
        (b"\xff" * 40, {}, 400, "ExportTraceServiceRequest"),
        (GOOD[:-3], {}, 400, "ExportTraceServiceRequest"),
        (b"{", {"content-type": JSON}, 400, "not JSON"),
        (b'{"\\ud83d": NaN}', {"content-type": JSON}, 400, "not JSON"),
        (b'"\\ud83d"' + b"[" * 9_000, {"content-type": JSON}, 400, "not JSON"),
        (b"[]", {"content-type": JSON}, 400, "no JSON object"),
        (b'{"resourceSpans": 1}', {"content-type": JSON}, 400, "ExportTraceServiceRequest"),
        (GOOD, {"content-encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(GOOD)[:-9], {"content-encoding": "gzip"}, 400, "not gzip"),
        (GOOD, {"content-encoding": "deflate"}, 400, "not deflate"),
        (GOOD, {"content-encoding": "br"}, 415, "gzip, deflate or none"),
        (GOOD, {"content-type": "text/plain"}, 415, PROTOBUF),
        (GOOD, {"x-mlflow-experiment-id": "99"}, 404, "99"),
        (GOOD, {"X-Databricks-UC-Table-Name": "a.b.c"}, 404, "main.default.mlflow_otel_spans"),
        (b"x" * (LIMIT + 1), {}, 413, "100,000 bytes"),
        (gzip.compress(bytes(LIMIT * 50)), {"content-encoding": "gzip"}, 413, "100,000 bytes"),
        (zlib.compress(bytes(LIMIT * 50)), {"content-encoding": "deflate"}, 413, "100,000 bytes"),
        (gzip.compress(b"") * 4_000, {"content-encoding": "gzip"}, 400, "not gzip"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(
    server: OtlpServer, body: bytes, headers: dict[str, str], status: int, hint: str
) -> None:
    answer = server.post(body, headers)
    assert answer.status == status
    assert hint.encode() in answer.body
    assert server.records() == []


def test_errors_are_of_otlps_form(server: OtlpServer) -> None:
    in_protobuf = server.post(b"\xff")
    assert in_protobuf.headers["content-type"] == PROTOBUF
    assert in_protobuf.body[:3] == b"\x08\x03\x12"  # google.rpc.Status: code 3, message
    assert in_protobuf.body[3] == len(in_protobuf.body) - 4
    in_json = server.post(b"{", {"content-type": JSON}).json()
    assert in_json["code"] == 3
    assert "not JSON" in in_json["message"]


def test_a_body_of_no_declared_length_is_cut_at_the_limit(server: OtlpServer) -> None:
    assert server.post([bytes(10_000)] * 100).status == 413


def test_bodies_under_way_together_take_bounded_memory(server: OtlpServer) -> None:
    statuses = [answer.status for answer in server.post_together([bytes(LIMIT)] * 10)]
    assert statuses == [400] * 8 + [503] * 2
    assert server.post(GOOD).status == 200  # the room is given back


def test_what_is_said_once_is_kept_once(server: OtlpServer) -> None:
    request = in_json(GOOD)
    resource = request["resourceSpans"][0]
    resource["resource"] = {"attributes": [{"key": "k", "value": {"stringValue": "x" * 20_000}}]}
    resource["scopeSpans"][0]["spans"][0]["startTimeUnixNano"] = "soon"
    parsed = parse_request(json.dumps(request).encode(), JSON, "", 10_000_000)
    assert (parsed.accepted, parsed.rejected) == (len(decode_spans(GOOD)) - 1, 1)
    assert parsed.body.count(b"x" * 20_000) == 1


def test_a_resource_that_is_wrong_rejects_its_spans_alone(server: OtlpServer) -> None:
    request = in_json(GOOD)
    wrong = {**request["resourceSpans"][0], "resource": {"attributes": 7}}
    request["resourceSpans"].append(wrong)
    parsed = parse_request(json.dumps(request).encode(), JSON, "", 10_000_000)
    count = len(decode_spans(GOOD))
    assert (parsed.accepted, parsed.rejected) == (count, count)
    assert decode_spans(parsed.body) == decode_spans(GOOD)


def test_a_full_journal_asks_to_come_again(tmp_path: Path) -> None:
    with OtlpServer(tmp_path, max_body_bytes=LIMIT, journal_bytes=len(GOOD)) as server:
        answer = server.post(GOOD)
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert server.records() == []


def test_a_stopping_journal_asks_to_come_again(server: OtlpServer) -> None:
    server.journal.close()
    answer = server.post(GOOD, {"content-type": PROTOBUF})
    assert answer.status == 503
    assert "retry-after" in answer.headers


def test_bytes_of_a_sound_request_are_not_touched() -> None:
    # An unknown field, and an order of fields that no serializer would choose
    odd = GOOD + b"\xa2\x06\x03abc" + GOOD
    parsed = parse_request(odd, PROTOBUF, "", LIMIT)
    assert (parsed.body, parsed.accepted, parsed.rejected) == (odd, 12, 0)


def test_an_event_too_far_in_the_future_is_a_fault_of_its_span() -> None:
    request = ExportTraceServiceRequest.FromString(GOOD)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].events.add(time_unix_nano=2**63)
    parsed = parse_request(request.SerializeToString(), PROTOBUF, "", LIMIT)
    assert (parsed.accepted, parsed.rejected) == (5, 1)


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(200_000_000))
    with pytest.raises(RequestRefused) as refusal:
        parse_request(bomb, PROTOBUF, "gzip", LIMIT)
    assert refusal.value.status == 413
