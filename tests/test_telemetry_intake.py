"""Logs and metrics over OTLP: taken, refused and told in part as traces are; never a 500."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from otlp_server import OtlpServer
from telemetry_support import NOON, SOUND, WHOLE, log_request, metric_request
from test_otlp_fuzz import any_json, broken
from vedette.intake.decode_logs import decode_logs
from vedette.intake.decode_metrics import decode_metrics
from vedette.intake.otlp import JSON, PROTOBUF, parse_request
from vedette.intake.records import Record
from vedette.intake.signals import LOGS, METRICS, SIGNALS, Signal
from vedette.lake.rows import SegmentRows

LIMIT = 50_000
DECODE = {LOGS: decode_logs, METRICS: decode_metrics}
COUNTS = {LOGS: 3, METRICS: 5}  # in WHOLE
fuzz = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
both = pytest.mark.parametrize("signal", [LOGS, METRICS], ids=lambda signal: signal.kind)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtlpServer]:
    with OtlpServer(tmp_path_factory.mktemp("telemetry"), max_body_bytes=LIMIT) as server:
        yield server


def in_json(signal: Signal, body: bytes) -> dict[str, Any]:
    """The request as OTLP's JSON has it: ids in hex."""
    request: dict[str, Any] = MessageToDict(signal.request.FromString(body))

    def mend(value: Any) -> None:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if name in ("traceId", "spanId"):
                value[name] = base64.b64decode(inner).hex()
            elif isinstance(inner, dict | list):
                mend(inner)

    mend(request)
    return request


def rows(record: Record) -> pa.Table:
    """What becomes of a journal record in the lake."""
    segment = SegmentRows("journal", 1)
    segment.add(record, 0)
    others = {"logs": segment.metrics, "metrics": segment.logs}
    assert others[record.kind]().num_rows == segment.annotations().num_rows == 0
    return {"logs": segment.logs, "metrics": segment.metrics}[record.kind]()


@both
def test_an_answer_comes_when_it_is_in_the_journal(server: OtlpServer, signal: Signal) -> None:
    for path in signal.paths:
        headers = {
            "x-mlflow-experiment-id": "7",
            "X-Databricks-UC-Table-Name": f"main.default.mlflow_otel_{signal.kind}",
        }
        answer = server.post(WHOLE[signal], headers, path)
        assert (answer.status, answer.body) == (200, b"")
        (record,) = server.records()
        assert (record.kind, record.body) == (signal.kind, WHOLE[signal])
        assert record.fields == {"experiment_id": "7"}
        assert rows(record)["experiment_id"].to_pylist() == ["7"] * COUNTS[signal]


@both
@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_json_and_compressed_bodies_are_the_same(
    server: OtlpServer, signal: Signal, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    said = json.dumps(in_json(signal, WHOLE[signal])).encode()
    packed = {"content-encoding": encoding}
    assert server.post(pack(WHOLE[signal]), packed, signal.path).status == 200
    answer = server.post(pack(said), {**packed, "content-type": JSON}, signal.path)
    assert (answer.status, answer.json()) == (200, {})
    first, second = server.records()
    assert DECODE[signal](first.body) == DECODE[signal](second.body)


@both
@pytest.mark.parametrize(
    ("body", "headers", "status", "hint"),
    [
        (b"\xff" * 40, {}, 400, "ServiceRequest"),
        (b"{", {"content-type": JSON}, 400, "not JSON"),
        (b"[]", {"content-type": JSON}, 400, "no JSON object"),
        (b'{"resourceSpans": []}', {"content-type": JSON}, 200, ""),
        (b'{"resourceLogs": 1, "resourceMetrics": 1}', {"content-type": JSON}, 400, "Service"),
        (b"x", {"content-encoding": "gzip"}, 400, "not gzip"),
        (b"x", {"content-type": "text/plain"}, 415, PROTOBUF),
        (b"", {"x-mlflow-experiment-id": "99"}, 404, "99"),
        (b"", {"X-Databricks-UC-Table-Name": "a.b.c_otel_spans"}, 404, "as main.default"),
        (b"x" * (LIMIT + 1), {}, 413, "50,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(
    server: OtlpServer,
    signal: Signal,
    body: bytes,
    headers: dict[str, str],
    status: int,
    hint: str,
) -> None:
    answer = server.post(body, headers, signal.path)
    assert answer.status == status
    assert hint.encode() in answer.body
    assert server.records() == []


@both
def test_a_full_journal_asks_to_come_again(tmp_path: Path, signal: Signal) -> None:
    with OtlpServer(tmp_path, max_body_bytes=LIMIT, journal_bytes=50) as server:
        answer = server.post(WHOLE[signal], path=signal.path)
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert server.records() == []


def test_a_bad_log_record_does_not_sink_its_batch(server: OtlpServer) -> None:
    request = LOGS.request.FromString(log_request())
    request.resource_logs[0].scope_logs[0].log_records[1].time_unix_nano = 2**63
    answer = server.post(request.SerializeToString(), path=LOGS.path)
    assert answer.status == 200
    partial = LOGS.response.FromString(answer.body).partial_success
    assert partial.rejected_log_records == 1
    assert partial.error_message == (
        "log record: a time of it is after the year 2262: times are nanoseconds since 1970"
    )
    (record,) = server.records()
    whole = decode_logs(log_request())
    assert decode_logs(record.body) == [whole[0], whole[2]]


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("gauge", {"time_unix_nano": 2**63}, "after the year 2262"),
        ("summary", {"count": 2**63}, "over 63 bits"),
        ("histogram", {"bucket_counts": [1, 2]}, "2 bucket_counts for 0 explicit_bounds"),
        ("histogram", {"explicit_bounds": [1.0]}, "0 bucket_counts for 1 explicit_bounds"),
        ("exponential_histogram", {"zero_count": 2**64 - 1}, "over 63 bits"),
    ],
)
def test_a_bad_data_point_does_not_sink_its_metric(
    server: OtlpServer, kind: str, fields: dict[str, Any], reason: str
) -> None:
    request: Any = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="queue")
    points = getattr(metric, kind).data_points
    points.add(time_unix_nano=NOON)
    points.add(**{"time_unix_nano": NOON, **fields})
    answer = server.post(request.SerializeToString(), path=METRICS.path)
    partial = METRICS.response.FromString(answer.body).partial_success
    assert (answer.status, partial.rejected_data_points) == (200, 1)
    assert partial.error_message.startswith("data point of metric 'queue': ")
    assert reason in partial.error_message
    (record,) = server.records()
    assert len(decode_metrics(record.body)) == 1


def test_a_metric_of_no_known_kind_is_told(server: OtlpServer) -> None:
    request = METRICS.request.FromString(metric_request())
    request.resource_metrics[0].scope_metrics[0].metrics.add(name="odd")
    partial = METRICS.response.FromString(
        server.post(request.SerializeToString(), path=METRICS.path).body
    ).partial_success
    assert partial.rejected_data_points == 1
    assert "'odd': the metric has no data of a known kind" in partial.error_message
    assert len(decode_metrics(server.records()[0].body)) == 5


def test_in_json_no_more_is_lost_than_what_is_wrong(server: OtlpServer) -> None:
    request = in_json(METRICS, metric_request())
    queue, calls, seconds, *_ = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    queue["gauge"]["dataPoints"].append({"timeUnixNano": "soon"})
    calls["unit"] = {"no": "text"}
    seconds["gauge"] = {"dataPoints": [{"asInt": "1"}]}
    answer = server.post(json.dumps(request).encode(), {"content-type": JSON}, METRICS.path)
    partial = answer.json()["partialSuccess"]
    assert (answer.status, partial["rejectedDataPoints"]) == (200, "4")
    for name in ("'queue'", "'calls'", "'seconds': there is data of more than one kind"):
        assert name in partial["errorMessage"]
    (record,) = server.records()
    kept = [row["name"] for row in decode_metrics(record.body)]
    assert kept == ["queue", "tokens", "lags"]

    logs = in_json(LOGS, log_request())
    logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["timeUnixNano"] = "soon"
    answer = server.post(json.dumps(logs).encode(), {"content-type": JSON}, LOGS.path)
    assert answer.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    assert decode_logs(server.records()[0].body) == decode_logs(log_request())[1:]


def test_a_log_record_with_ids_that_are_none_is_of_no_trace() -> None:
    request = LOGS.request.FromString(log_request())
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.trace_id, record.span_id = b"short", bytes(8)
    parsed = parse_request(request.SerializeToString(), PROTOBUF, "", LIMIT, LOGS)
    assert (parsed.accepted, parsed.rejected) == (3, 0)
    first, second, _ = decode_logs(parsed.body)
    assert (first["trace_id"], first["span_id"]) == (None, None)
    assert second["trace_id"] == f"{2:032x}"


def test_bytes_of_a_sound_request_are_not_touched() -> None:
    odd = WHOLE[METRICS] + b"\xa2\x06\x03abc" + WHOLE[METRICS]
    parsed = parse_request(odd, PROTOBUF, "", LIMIT, METRICS)
    assert (parsed.body, parsed.accepted, parsed.rejected) == (odd, 10, 0)


requests = st.sampled_from([LOGS, METRICS]).flatmap(
    lambda signal: st.tuples(st.just(signal), SOUND[signal])
)


@fuzz
@given(requests)
def test_whatever_is_sound_becomes_rows(server: OtlpServer, request: tuple[Signal, bytes]) -> None:
    signal, body = request
    answer = server.post(body, path=signal.path)
    assert (answer.status, answer.body) == (200, b"")
    (record,) = server.records()
    table = rows(record)
    assert table.num_rows == len(DECODE[signal](body))
    assert table.column("record_id").to_pylist() == sorted(set(table["record_id"].to_pylist()))
    for row in table.to_pylist():
        assert row["time"] is not None
        if signal is LOGS:
            assert isinstance(orjson.loads(row["attributes"]), dict)
            assert row["body"] is None or orjson.loads(row["body"]) is not ...
        else:
            assert isinstance(orjson.loads(row[row["metric_type"]]["attributes"]), dict)


def check(server: OtlpServer, signal: Signal, body: bytes, headers: dict[str, str]) -> None:
    answer = server.post(body, headers, signal.path)
    assert answer.status in (200, 400, 404, 413, 415)
    records = server.records()
    assert answer.status == 200 or not records
    if answer.status != 200:
        assert len(answer.body) > 10, "an error that says nothing"
    for record in records:
        assert rows(record).num_rows


@fuzz
@given(requests.flatmap(lambda r: st.tuples(st.just(r[0]), broken(st.just(r[1])))))
def test_broken_protobuf(server: OtlpServer, request: tuple[Signal, bytes]) -> None:
    check(server, *request, {})


@st.composite
def broken_json(draw: st.DrawFn) -> tuple[Signal, bytes]:
    """A request in JSON in which some values have been replaced."""
    signal, body = draw(requests)
    request: Any = in_json(signal, body)
    for _ in range(draw(st.integers(1, 3))):
        place = request
        while places := list(place if isinstance(place, dict) else range(len(place))):
            key = draw(st.sampled_from(places))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 9)) == 0:
                place[key] = draw(any_json)
                break
            place = place[key]
    return signal, json.dumps(request).encode()


@fuzz
@given(broken_json())
def test_broken_json(server: OtlpServer, request: tuple[Signal, bytes]) -> None:
    check(server, *request, {"content-type": JSON})


@fuzz
@given(st.sampled_from(SIGNALS[1:]), any_json, st.binary(max_size=200))
def test_anything_else(server: OtlpServer, signal: Signal, value: Any, body: bytes) -> None:
    group = json.dumps({f"resource{signal.kind.capitalize()}": value}).encode()
    check(server, signal, group, {"content-type": JSON})
    check(server, signal, body, {"content-type": JSON})
    check(server, signal, body, {"content-encoding": "gzip"})
    check(server, signal, body, {})
