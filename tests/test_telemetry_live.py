"""Logs and metrics as OpenTelemetry's exporters send them, and through kills of what takes them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from running import RunningVedette, start_vedette

SENDERS = 2
KILLS = ("engine", "server")
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def vedette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVedette]:
    """A Vedette that the tests of this file share, the one that kills parts of it coming last."""
    data = tmp_path_factory.mktemp("telemetry")
    running = start_vedette(data, segment_seconds=0.2, max_body_bytes=MOST_BYTES)
    yield running
    assert running.stop() == 0, running.log.read_text()


def rows_of(vedette: RunningVedette, table: str) -> list[dict[str, Any]]:
    """All rows of a table, read without our code."""
    path = vedette.data / "lake" / "main" / "default" / f"mlflow_otel_{table}"
    if not (path / "_delta_log").exists():
        return []
    return pa.table(DeltaTable(str(path)).to_pyarrow_table()).to_pylist()


def test_what_opentelemetrys_exporters_send_gets_into_the_tables(
    vedette: RunningVedette,
) -> None:
    experiment = "0"
    resource = Resource.create({"service.name": "shop"})
    headers = {"x-mlflow-experiment-id": experiment}
    provider = LoggerProvider(resource)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(
            OTLPLogExporter(f"{vedette.url}/v1/logs", headers=headers, compression=Compression.Gzip)
        )
    )
    with TracerProvider().get_tracer("shop").start_as_current_span("answer") as span:
        provider.get_logger("agent", "1.0").emit(
            severity_number=SeverityNumber.ERROR,
            severity_text="ERROR",
            body={"order": 7, "late": True},
            attributes={"attempt": 2},
            event_name="order.late",
        )
    provider.shutdown()

    meters = MeterProvider(
        [
            PeriodicExportingMetricReader(
                OTLPMetricExporter(
                    f"{vedette.url}/v1/metrics", headers=headers, compression=Compression.Deflate
                )
            )
        ],
        resource,
        views=[View(instrument_name="tokens", aggregation=ExponentialBucketHistogramAggregation())],
    )
    meter = meters.get_meter("agent")
    meter.create_counter("calls", unit="{call}").add(3, {"model": "m"})
    meter.create_gauge("queue").set(1.5)
    seconds, tokens = meter.create_histogram("seconds"), meter.create_histogram("tokens")
    for value in (1.0, 30.0):
        seconds.record(value)
        tokens.record(value)
    meters.shutdown()

    def found(table: str, count: int) -> Callable[[], Any]:
        def look() -> list[dict[str, Any]] | None:
            rows = [r for r in rows_of(vedette, table) if r["experiment_id"] == experiment]
            return rows if len(rows) >= count else None

        return look

    (log,) = vedette.wait_until(found("logs", 1))
    assert log["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert log["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert json.loads(log["body"]) == {"order": 7, "late": True}
    assert json.loads(log["attributes"]) == {"attempt": 2}
    assert (log["severity_number"], log["severity_text"]) == ("SEVERITY_NUMBER_ERROR", "ERROR")
    assert (log["event_name"], log["service_name"]) == ("order.late", "shop")
    assert log["instrumentation_scope"]["name"] == "agent"

    points = {row["name"]: row for row in vedette.wait_until(found("metrics", 4))}
    assert {name: row["metric_type"] for name, row in points.items()} == {
        "calls": "sum",
        "queue": "gauge",
        "seconds": "histogram",
        "tokens": "exponential_histogram",
    }
    assert (points["calls"]["sum"]["value"], points["calls"]["sum"]["is_monotonic"]) == (3.0, True)
    assert json.loads(points["calls"]["sum"]["attributes"]) == {"model": "m"}
    assert points["queue"]["gauge"]["value"] == 1.5
    assert (points["seconds"]["histogram"]["count"], points["seconds"]["histogram"]["sum"]) == (
        2,
        31.0,
    )
    with urllib.request.urlopen(f"{vedette.url}/metrics", timeout=10) as answer:
        counted = answer.read().decode()
    assert "vedette_otlp_log_records_total 1.0" in counted
    assert "vedette_otlp_data_points_total 4.0" in counted
    buckets = points["tokens"]["exponential_histogram"]["positive_bucket"]["bucket_counts"]
    assert sum(buckets) == 2


@pytest.mark.parametrize("path", ["/v1/logs", "/api/2.0/otel/v1/metrics"])
def test_too_large_a_body_is_answered_as_otlp_wants(vedette: RunningVedette, path: str) -> None:
    request = urllib.request.Request(
        f"{vedette.url}{path}", bytes(MOST_BYTES + 1), {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code == 413
    assert "send smaller batches" in json.load(refusal.value)["message"]


class _Sender(threading.Thread):
    """Sends numbered log records and data points, each once, and notes what is acknowledged."""

    def __init__(self, url: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._number = number
        self._stop_sending = stop
        self.acknowledged: dict[str, set[str]] = {"logs": set(), "metrics": set()}

    def run(self) -> None:
        count = 0
        while not self._stop_sending.is_set():
            for kind, body in (("logs", _one_log), ("metrics", _one_point)):
                name = f"{self._number}-{count}"
                request = urllib.request.Request(
                    f"{self._url}/v1/{kind}",
                    json.dumps(body(name)).encode(),
                    {"content-type": "application/json"},
                )
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        assert json.load(answer) == {}
                    self.acknowledged[kind].add(name)
                except (OSError, urllib.error.URLError):
                    time.sleep(0.05)  # not acknowledged: it may be there, or not
            count += 1
            time.sleep(0.005)


def _one_log(name: str) -> dict[str, Any]:
    record = {"timeUnixNano": "1764000000000000000", "body": {"stringValue": name}}
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}


def _one_point(name: str) -> dict[str, Any]:
    metric = {"name": name, "gauge": {"dataPoints": [{"timeUnixNano": "5", "asInt": "1"}]}}
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}


def test_what_was_acknowledged_survives_kills_and_nothing_is_twice(
    vedette: RunningVedette,
) -> None:
    stop = threading.Event()
    senders = [_Sender(vedette.url, number, stop) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for part in KILLS:
        time.sleep(1.0)
        killed = vedette.health()["parts"][part]["pid"]
        os.kill(killed, signal.SIGKILL)
        vedette.wait_until(
            lambda part=part, killed=killed: (
                vedette.health()["status"] == "ok"
                and vedette.health()["parts"][part]["pid"] != killed
            )
        )
    time.sleep(0.5)
    stop.set()
    for sender in senders:
        sender.join()

    def stored(table: str, column: str) -> list[str]:
        return [row[column] for row in rows_of(vedette, table)]

    for table, column in (("logs", "body"), ("metrics", "name")):
        sent = set().union(*(sender.acknowledged[table] for sender in senders))
        if table == "logs":
            sent = {json.dumps(name) for name in sent}
        assert len(sent) > 50
        vedette.wait_until(lambda sent=sent, t=table, c=column: sent <= set(stored(t, c)))
        found = stored(table, column)
        assert len(found) == len(set(found))
    assert "left out" not in vedette.log.read_text()
