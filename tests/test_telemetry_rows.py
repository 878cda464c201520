"""Logs and metrics as rows of their tables, and what maintenance does to them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from lake_support import DAY, JOURNAL, NEXT_DAY, compactor, file_names, open_lake, stored
from telemetry_support import NOON, log_request, metric_request
from vedette.intake.records import Record
from vedette.intake.signals import LOGS as LOGS_SIGNAL
from vedette.lake import rewrite
from vedette.lake.maintenance import vacuum_files
from vedette.lake.rows import SegmentRows
from vedette.lake.table import Lake
from vedette.lake.telemetry_schemas import LOGS_SCHEMA, METRICS_SCHEMA

SPEC_LOGS = (
    "record_id time date service_name event_name trace_id span_id time_unix_nano "
    "observed_time_unix_nano severity_number severity_text body attributes "
    "dropped_attributes_count flags resource resource_schema_url instrumentation_scope "
    "log_schema_url"
)
SPEC_METRICS = (
    "record_id time date service_name start_time_unix_nano time_unix_nano name description unit "
    "metric_type gauge sum histogram exponential_histogram summary metadata resource "
    "resource_schema_url instrumentation_scope metric_schema_url"
)
SHARED = {
    "service_name": "shop",
    "resource": {
        "attributes": '{"service.name":"shop","host.cores":2}',
        "dropped_attributes_count": 1,
    },
    "resource_schema_url": "resource-url",
    "instrumentation_scope": {
        "name": "agent",
        "version": "1.0",
        "attributes": '{"k":[1,2]}',
        "dropped_attributes_count": 0,
    },
    "experiment_id": "7",
    "received_at": datetime.fromtimestamp((DAY + 1) / 1000, UTC),
    "arrival_date": date(2026, 1, 1),
}


def segment(number: int, *, logs: int = 3, at: int = DAY + 1) -> SegmentRows:
    """A segment with a record of logs and one of metrics."""
    rows = SegmentRows(JOURNAL, number)
    rows.add(Record("logs", at, {"experiment_id": "7"}, log_request(logs)), 0)
    rows.add(Record("metrics", at, {"experiment_id": "7"}, metric_request()), 512)
    return rows


def append(lake: Lake, number: int, *, logs: int = 3, at: int = DAY + 1) -> bool:
    """Commit such a segment as the engine does."""
    rows = segment(number, logs=logs, at=at)
    done = lake.logs.append_segment(JOURNAL, number, rows.logs())
    return lake.metrics.append_segment(JOURNAL, number, rows.metrics()) and done


def test_the_documented_columns_come_first_and_in_order() -> None:
    assert " ".join(LOGS_SCHEMA.names).startswith(SPEC_LOGS + " ")
    assert " ".join(METRICS_SCHEMA.names).startswith(SPEC_METRICS + " ")


def test_a_log_record_keeps_everything_it_has() -> None:
    row = segment(9).logs().to_pylist()[1]
    assert row == {
        "record_id": f"{DAY + 1:011x}-{JOURNAL}-00000009-00000000-00001",
        "time": datetime.fromtimestamp(NOON / 1e9, UTC),
        "date": date(2026, 1, 1),
        "event_name": "order.late",
        "trace_id": f"{2:032x}",
        "span_id": f"{2:016x}",
        "time_unix_nano": NOON + 1,
        "observed_time_unix_nano": NOON + 6,
        "severity_number": "SEVERITY_NUMBER_WARN",
        "severity_text": "WARNING",
        "body": '"late 1"',
        "attributes": '{"order":1,"tags":["a"]}',
        "dropped_attributes_count": 7,
        "flags": -1,
        "log_schema_url": "scope-url",
        **SHARED,
    }


@pytest.mark.parametrize(
    ("said", "observed", "expected"),
    [(NOON, 5_000, NOON), (0, NOON, NOON), (0, 0, (DAY + 1) * 1_000_000)],
)
def test_a_log_record_that_does_not_say_when_was_when_it_was_seen(
    said: int, observed: int, expected: int
) -> None:
    request = LOGS_SIGNAL.request.FromString(log_request(1))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.time_unix_nano, record.observed_time_unix_nano = said, observed
    rows = SegmentRows(JOURNAL, 1)
    rows.add(Record("logs", DAY + 1, {"experiment_id": "7"}, request.SerializeToString()), 0)
    (row,) = rows.logs().to_pylist()
    assert row["time"] == datetime.fromtimestamp(expected / 1e9, UTC)
    assert row["time_unix_nano"] == (said or None)


def test_a_log_record_that_says_nothing_has_no_body() -> None:
    request = LOGS_SIGNAL.request.FromString(log_request(2))
    first, second = request.resource_logs[0].scope_logs[0].log_records
    first.ClearField("body")
    second.body.string_value = ""
    rows = SegmentRows(JOURNAL, 1)
    rows.add(Record("logs", DAY, {"experiment_id": "7"}, request.SerializeToString()), 0)
    assert rows.logs()["body"].to_pylist() == [None, '""']


def test_a_data_point_of_each_kind_keeps_everything_it_has() -> None:
    exemplar = {
        "time_unix_nano": NOON,
        "value": 3.0,
        "span_id": "73" * 8,
        "trace_id": "74" * 16,
        "filtered_attributes": '{"user":"ada"}',
    }
    point = {"attributes": '{"model":"m"}', "flags": 1}
    sampled = {**point, "exemplars": [exemplar]}
    delta = {"aggregation_temporality": "AGGREGATION_TEMPORALITY_DELTA"}
    expected: dict[str, dict[str, Any]] = {
        "gauge": {**sampled, "value": 1.5},
        "sum": {**sampled, **delta, "value": 4.0, "is_monotonic": True},
        "histogram": {
            **sampled,
            **delta,
            "count": 3,
            "sum": 2.5,
            "min": 0.5,
            "max": 1.5,
            "bucket_counts": [1, 2, 0],
            "explicit_bounds": [0.5, 1.0],
        },
        "exponential_histogram": {
            **sampled,
            **delta,
            "count": 6,
            "sum": None,
            "min": None,
            "max": None,
            "scale": -1,
            "zero_count": 1,
            "zero_threshold": 0.25,
            "positive_bucket": {"offset": -2, "bucket_counts": [2, 3]},
            "negative_bucket": {"offset": 0, "bucket_counts": []},
        },
        "summary": {
            **point,
            "count": 2,
            "sum": 8.0,
            "quantile_values": [{"quantile": 0.5, "value": 4.0}],
        },
    }
    names = ["queue", "calls", "seconds", "tokens", "lags"]
    rows = segment(9).metrics().to_pylist()
    for number, (name, kind, row) in enumerate(zip(names, expected, rows, strict=True)):
        assert row == {
            "record_id": f"{DAY + 1:011x}-{JOURNAL}-00000009-00000200-{number:05x}",
            "time": datetime.fromtimestamp(NOON / 1e9, UTC),
            "date": date(2026, 1, 1),
            "start_time_unix_nano": NOON,
            "time_unix_nano": NOON + 1,
            "name": name,
            "description": f"{name}, told",
            "unit": "1",
            "metric_type": kind,
            **dict.fromkeys(expected),
            kind: expected[kind],
            "metadata": '{"prometheus.type":"unknown"}',
            "metric_schema_url": "scope-url",
            **SHARED,
        }


def test_a_replayed_segment_gives_the_same_rows_and_is_committed_once(tmp_path: Path) -> None:
    assert segment(3).logs().equals(segment(3).logs())
    assert segment(3).metrics().equals(segment(3).metrics())
    lake = open_lake(tmp_path)
    assert append(lake, 3)
    assert not append(open_lake(tmp_path), 3)
    assert (stored(lake.logs).num_rows, stored(lake.metrics).num_rows) == (3, 5)


@pytest.mark.parametrize("pass_bytes", [rewrite._PASS_BYTES, 4_000])
def test_maintenance_changes_no_row(
    tmp_path: Path, pass_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are merged, the day is sorted, a range of keys at a time, the rest vacuumed."""
    monkeypatch.setattr(rewrite, "_PASS_BYTES", pass_bytes)
    lake = open_lake(tmp_path)
    for number in range(1, 10):
        assert append(lake, number, at=DAY + number)
    append(lake, 10, at=NEXT_DAY)
    for table, key in ((lake.logs, "record_id"), (lake.metrics, "name")):
        before = sorted(stored(table).to_pylist(), key=lambda row: str(row["record_id"]))
        assert compactor(table, tmp_path).merge_small() is not None
        assert compactor(table, tmp_path).sort_day("2026-01-02") is not None
        assert sorted(name.split("-")[0] for name in file_names(table)) == ["day", "part"]
        rows = stored(table)
        assert rows.schema.equals(table.spec.file_schema)
        found = rows.to_pylist()
        assert sorted(found, key=lambda row: str(row["record_id"])) == before
        of_day = [row[key] for row in found if row["received_at"].day == 1]
        assert of_day == sorted(of_day)
        vacuum_files(table)
        assert stored(table).num_rows == len(before)
