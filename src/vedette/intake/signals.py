"""OTLP's three signals, traces, logs and metrics: what a request of each is, and what is unsound.

What OTLP counts in its partial success is a span, a log record, or a data point of a metric [1].

[1] https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_LATEST_NS = 2**63 - 1
_LARGEST_COUNT = 2**63 - 1

# Fields of messages that hold messages, down to what is counted, which has none: {}
Branches: TypeAlias = Mapping[str, "Branches"]


@dataclass(frozen=True, eq=False)
class Signal:
    """One kind of telemetry."""

    kind: str  # of journal records, and the end of the table's name: otel_<kind>
    path: str  # where OTLP/HTTP has it
    request: type[Message]
    response: type[Message]
    branches: Branches
    counted: str  # what it is counted in, as OTLP names it: rejected_<counted>
    one: str  # of those, for people
    # Takes what is unsound out of a scope's message, appending the reasons; returns what is left
    sift: Callable[[Any, list[str]], int]

    @property
    def paths(self) -> tuple[str, str]:
        """OTLP's path and Databricks' for the same."""
        return self.path, f"/api/2.0/otel{self.path}"

    @property
    def ending(self) -> str:
        """Of the names of the tables that it goes to."""
        return f"_otel_{self.kind}"

    @property
    def groups(self) -> str:
        """The request's only field."""
        return next(iter(self.branches))

    @property
    def scopes(self) -> str:
        """The field of a group that holds its scopes."""
        return next(iter(self.branches[self.groups]))

    def told(self, name: object, problem: str) -> str:
        """A reason of a rejection; ``name`` is the span's or the metric's."""
        return f"{self.one}: {problem}" if name is None else f"{self.one} {str(name)!r}: {problem}"


def _take_unsound(items: Any, problem: Callable[[Any], str | None]) -> list[tuple[Any, str]]:
    """Take unsound messages out of a repeated field; returns each with what is wrong with it."""
    unsound = [(item, reason) for item in items if (reason := problem(item))]
    if unsound:
        sound = [item for item in items if problem(item) is None]
        del items[:]
        items.extend(sound)
    return unsound


def _sift_spans(scope: Any, rejections: list[str]) -> int:
    for span, reason in _take_unsound(scope.spans, _span_problem):
        rejections.append(TRACES.told(span.name, reason))
    return len(scope.spans)


def _span_problem(span: Span) -> str | None:
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
    return _time_problem(times)


def _time_problem(times: list[int]) -> str | None:
    if max(times) > _LATEST_NS:
        return "a time of it is after the year 2262: times are nanoseconds since 1970"
    return None


def _sift_logs(scope: Any, rejections: list[str]) -> int:
    for _, reason in _take_unsound(scope.log_records, _log_problem):
        rejections.append(LOGS.told(None, reason))
    return len(scope.log_records)


def _log_problem(record: LogRecord) -> str | None:
    """Ids of a wrong length are no problem: OTLP wants such records taken as of no trace."""
    return _time_problem([record.time_unix_nano, record.observed_time_unix_nano])


def _sift_metrics(scope: Any, rejections: list[str]) -> int:
    kept = 0
    for metric in scope.metrics:
        kind = metric.WhichOneof("data")
        if kind is None:
            rejections.append(METRICS.told(metric.name, "the metric has no data of a known kind"))
            continue
        points = getattr(metric, kind).data_points
        for _, reason in _take_unsound(points, _POINT_PROBLEMS[kind]):
            rejections.append(METRICS.told(metric.name, reason))
        kept += len(points)
    return kept


def _point_problem(point: Any) -> str | None:
    """Of a number or a summary; what all data points have in common."""
    times = [point.start_time_unix_nano, point.time_unix_nano]
    if hasattr(point, "exemplars"):
        times += [exemplar.time_unix_nano for exemplar in point.exemplars]
    return _time_problem(times) or _count_problem(getattr(point, "count", 0))


def _count_problem(*counts: int) -> str | None:
    return "a count of it has over 63 bits" if max(counts, default=0) > _LARGEST_COUNT else None


def _histogram_problem(point: Any) -> str | None:
    counts, bounds = point.bucket_counts, point.explicit_bounds
    if len(counts) != (len(bounds) + 1 if counts or bounds else 0):
        return f"it has {len(counts)} bucket_counts for {len(bounds)} explicit_bounds, not one more"
    return _point_problem(point) or _count_problem(*counts)


def _exponential_problem(point: Any) -> str | None:
    counts = (*point.positive.bucket_counts, *point.negative.bucket_counts)
    return _point_problem(point) or _count_problem(point.zero_count, *counts)


_POINT_PROBLEMS: dict[str, Callable[[Any], str | None]] = {
    "gauge": _point_problem,
    "sum": _point_problem,
    "histogram": _histogram_problem,
    "exponential_histogram": _exponential_problem,
    "summary": _point_problem,
}

TRACES = Signal(
    kind="spans",
    path="/v1/traces",
    request=trace_service.ExportTraceServiceRequest,
    response=trace_service.ExportTraceServiceResponse,
    branches={"resource_spans": {"scope_spans": {"spans": {}}}},
    counted="spans",
    one="span",
    sift=_sift_spans,
)
LOGS = Signal(
    kind="logs",
    path="/v1/logs",
    request=logs_service.ExportLogsServiceRequest,
    response=logs_service.ExportLogsServiceResponse,
    branches={"resource_logs": {"scope_logs": {"log_records": {}}}},
    counted="log_records",
    one="log record",
    sift=_sift_logs,
)
METRICS = Signal(
    kind="metrics",
    path="/v1/metrics",
    request=metrics_service.ExportMetricsServiceRequest,
    response=metrics_service.ExportMetricsServiceResponse,
    branches={
        "resource_metrics": {
            "scope_metrics": {"metrics": {kind: {"data_points": {}} for kind in _POINT_PROBLEMS}}
        }
    },
    counted="data_points",
    one="data point of metric",
    sift=_sift_metrics,
)
SIGNALS = (TRACES, LOGS, METRICS)
