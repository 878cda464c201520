"""OTLP logs and metrics for tests: requests that hold one of everything, and generated ones."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from otlp_strategies import PLAIN_KEYS, attributes, fill_attributes, values
from vedette.intake.signals import LOGS, METRICS

NOON = 1_767_268_800_000_000_000  # 2026-01-01 12:00 UTC, in nanoseconds


def _scope(request: Any, groups: str, scopes: str) -> Any:
    group = getattr(request, groups).add(schema_url="resource-url")
    fill_attributes(group.resource.attributes, {"service.name": "shop", "host.cores": 2})
    group.resource.dropped_attributes_count = 1
    scope = getattr(group, scopes).add(schema_url="scope-url")
    scope.scope.name, scope.scope.version = "agent", "1.0"
    fill_attributes(scope.scope.attributes, {"k": [1, 2]})
    return scope


def log_request(count: int = 3) -> bytes:
    """Log records with everything that they can have; their bodies are counted from 0."""
    request = ExportLogsServiceRequest()
    scope = _scope(request, "resource_logs", "scope_logs")
    for number in range(count):
        record = scope.log_records.add(
            time_unix_nano=NOON + number,
            observed_time_unix_nano=NOON + number + 5,
            severity_number="SEVERITY_NUMBER_WARN",
            severity_text="WARNING",
            event_name="order.late",
            trace_id=(number + 1).to_bytes(16),
            span_id=(number + 1).to_bytes(8),
            flags=2**32 - 1,
            dropped_attributes_count=7,
        )
        record.body.string_value = f"late {number}"
        fill_attributes(record.attributes, {"order": number, "tags": ["a"]})
    return request.SerializeToString()


def metric_request() -> bytes:
    """One metric of each kind, each with one data point."""
    request = ExportMetricsServiceRequest()
    metrics = _scope(request, "resource_metrics", "scope_metrics").metrics

    def add(name: str, kind: str, **fields: Any) -> Any:
        metric = metrics.add(name=name, description=f"{name}, told", unit="1")
        fill_attributes(metric.metadata, {"prometheus.type": "unknown"})
        data = getattr(metric, kind)
        point = data.data_points.add(
            start_time_unix_nano=NOON, time_unix_nano=NOON + 1, flags=1, **fields
        )
        fill_attributes(point.attributes, {"model": "m"})
        if kind != "summary":
            exemplar = point.exemplars.add(
                time_unix_nano=NOON, as_int=3, trace_id=b"t" * 16, span_id=b"s" * 8
            )
            fill_attributes(exemplar.filtered_attributes, {"user": "ada"})
        if hasattr(data, "aggregation_temporality"):
            data.aggregation_temporality = "AGGREGATION_TEMPORALITY_DELTA"
        return data

    add("queue", "gauge", as_double=1.5)
    add("calls", "sum", as_int=4).is_monotonic = True
    add("seconds", "histogram", count=3, sum=2.5, min=0.5, max=1.5).data_points[0].MergeFrom(
        _point("histogram", bucket_counts=[1, 2, 0], explicit_bounds=[0.5, 1.0])
    )
    tokens = add(
        "tokens", "exponential_histogram", count=6, scale=-1, zero_count=1, zero_threshold=0.25
    )
    tokens.data_points[0].positive.MergeFrom(_buckets(offset=-2, bucket_counts=[2, 3]))
    lags = add("lags", "summary", count=2, sum=8.0)
    lags.data_points[0].quantile_values.add(quantile=0.5, value=4.0)
    return request.SerializeToString()


def _point(kind: str, **fields: Any) -> Message:
    metric = ExportMetricsServiceRequest().resource_metrics.add().scope_metrics.add().metrics.add()
    point: Message = getattr(metric, kind).data_points.add(**fields)
    return point


def _buckets(**fields: Any) -> Message:
    point: Any = _point("exponential_histogram")
    point.positive.MergeFrom(type(point.positive)(**fields))
    buckets: Message = point.positive
    return buckets


WHOLE = {LOGS: log_request(), METRICS: metric_request()}
_times = st.integers(0, 2**63 - 1) | st.sampled_from([0, NOON])
_counts = st.integers(0, 2**63 - 1)
_flags = st.integers(0, 2**32 - 1)


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    """A sound request of log records."""
    request = ExportLogsServiceRequest()
    scope = _scope(request, "resource_logs", "scope_logs")
    for _ in range(draw(st.integers(1, 3))):
        record = scope.log_records.add(
            time_unix_nano=draw(_times),
            observed_time_unix_nano=draw(_times),
            severity_number=draw(st.integers(0, 30)),
            severity_text=draw(st.text(max_size=5)),
            event_name=draw(st.text(max_size=5)),
            trace_id=draw(st.binary(max_size=17)),
            span_id=draw(st.binary(max_size=9)),
            flags=draw(_flags),
            dropped_attributes_count=draw(_flags),
        )
        fill_attributes(record.attributes, draw(attributes(PLAIN_KEYS)))
        if draw(st.booleans()):
            fill_attributes(record.attributes, {"said": draw(values())})
            record.body.CopyFrom(record.attributes[-1].value)
    return request.SerializeToString()


@st.composite
def metrics(draw: st.DrawFn) -> bytes:
    """A sound request of metrics of any kinds."""
    request = ExportMetricsServiceRequest()
    scope = _scope(request, "resource_metrics", "scope_metrics")
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)):
        metric = scope.metrics.add(name=draw(st.text(max_size=5)), unit=draw(st.text(max_size=3)))
        point = getattr(metric, kind).data_points.add(
            start_time_unix_nano=draw(_times), time_unix_nano=draw(_times), flags=draw(_flags)
        )
        fill_attributes(point.attributes, draw(attributes(PLAIN_KEYS)))
        if kind in ("gauge", "sum"):
            if draw(st.booleans()):
                point.as_double = draw(st.floats())
            elif draw(st.booleans()):
                point.as_int = draw(st.integers(-(2**63), 2**63 - 1))
            continue
        point.count, point.sum = draw(_counts), draw(st.floats())
        if kind == "summary":
            point.quantile_values.add(quantile=draw(st.floats()), value=draw(st.floats()))
            continue
        exemplar = point.exemplars.add(time_unix_nano=draw(_times), as_double=draw(st.floats()))
        exemplar.trace_id = draw(st.binary(max_size=17))
        if kind == "histogram":
            bounds = draw(st.lists(st.floats(), max_size=3))
            point.explicit_bounds.extend(bounds)
            point.bucket_counts.extend(draw(_counts) for _ in range(len(bounds) + bool(bounds)))
        else:
            point.scale = draw(st.integers(-(2**31), 2**31 - 1))
            point.zero_count = draw(_counts)
            point.positive.offset = draw(st.integers(-(2**31), 2**31 - 1))
            point.positive.bucket_counts.extend(draw(st.lists(_counts, max_size=3)))
    return request.SerializeToString()


KINDS = ["gauge", "sum", "histogram", "exponential_histogram", "summary"]
SOUND = {LOGS: logs(), METRICS: metrics()}
