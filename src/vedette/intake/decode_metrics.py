"""OTLP metrics, decoded for the lake: one row for each data point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from vedette.intake.resources import columns_of, hex_id, resource_of, signed, with_scope
from vedette.intake.values import attribute_values, json_text

_TEMPORALITIES: dict[int, str] = {number: name for name, number in AggregationTemporality.items()}


def decode_metrics(body: bytes) -> list[dict[str, Any]]:
    """The data points of an OTLP ``ExportMetricsServiceRequest``, in the order they were sent.

    Returns:
        What they say, by column of the lake's table of metrics; a time that is not said is None.

    Raises:
        google.protobuf.message.DecodeError: the body is not such a request.
    """
    rows: list[dict[str, Any]] = []
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = resource_of(group.resource, group.schema_url)
        for scoped in group.scope_metrics:
            shared = columns_of(with_scope(resource, scoped), "metric_schema_url")
            for metric in scoped.metrics:
                rows.extend({**shared, **point} for point in _points(metric))
    return rows


def _points(metric: Metric) -> Iterator[dict[str, Any]]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data: Any = getattr(metric, kind)
    read = _READERS[kind]
    shared = {
        "name": metric.name,
        "description": metric.description,
        "unit": metric.unit,
        "metric_type": kind,
        "metadata": json_text(attribute_values(metric.metadata)),
    }
    for point in data.data_points:
        yield {
            **shared,
            "start_time_unix_nano": point.start_time_unix_nano or None,
            "time_unix_nano": point.time_unix_nano or None,
            kind: {
                "attributes": json_text(attribute_values(point.attributes)),
                "flags": signed(point.flags),
                **read(data, point),
            },
        }


def _gauge(_: Any, point: Any) -> dict[str, Any]:
    return {"value": _value(point), "exemplars": _exemplars(point)}


def _sum(data: Any, point: Any) -> dict[str, Any]:
    return {
        **_gauge(data, point),
        "aggregation_temporality": _temporality(data),
        "is_monotonic": data.is_monotonic,
    }


def _histogram(data: Any, point: Any) -> dict[str, Any]:
    return {
        **_distribution(data, point),
        "bucket_counts": list(point.bucket_counts),
        "explicit_bounds": list(point.explicit_bounds),
    }


def _exponential_histogram(data: Any, point: Any) -> dict[str, Any]:
    return {
        **_distribution(data, point),
        "scale": point.scale,
        "zero_count": point.zero_count,
        "positive_bucket": _buckets(point.positive),
        "negative_bucket": _buckets(point.negative),
        "zero_threshold": point.zero_threshold,
    }


def _summary(_: Any, point: Any) -> dict[str, Any]:
    return {
        "count": point.count,
        "sum": point.sum,
        "quantile_values": [
            {"quantile": each.quantile, "value": each.value} for each in point.quantile_values
        ],
    }


_READERS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "gauge": _gauge,
    "sum": _sum,
    "histogram": _histogram,
    "exponential_histogram": _exponential_histogram,
    "summary": _summary,
}


def _distribution(data: Any, point: Any) -> dict[str, Any]:
    """What both kinds of histogram have."""
    said = {
        name: getattr(point, name) if point.HasField(name) else None
        for name in ("sum", "min", "max")
    }
    return {
        **said,
        "count": point.count,
        "exemplars": _exemplars(point),
        "aggregation_temporality": _temporality(data),
    }


def _buckets(buckets: Any) -> dict[str, Any]:
    return {"offset": buckets.offset, "bucket_counts": list(buckets.bucket_counts)}


def _exemplars(point: Any) -> list[dict[str, Any]]:
    return [
        {
            "time_unix_nano": exemplar.time_unix_nano or None,
            "value": _value(exemplar),
            "span_id": hex_id(exemplar.span_id, 8),
            "trace_id": hex_id(exemplar.trace_id, 16),
            "filtered_attributes": json_text(attribute_values(exemplar.filtered_attributes)),
        }
        for exemplar in point.exemplars
    ]


def _value(number: Any) -> float | None:
    """Of a data point or an exemplar; None if it has none, as where nothing was recorded."""
    kind = number.WhichOneof("value")
    return None if kind is None else float(getattr(number, kind))


def _temporality(data: Any) -> str:
    number: int = data.aggregation_temporality
    return _TEMPORALITIES.get(number, str(number))
