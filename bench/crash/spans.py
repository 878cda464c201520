"""The spans of a known trace as OTLP: its number is in its inputs and outputs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bench.crash.ledger import KnownTrace


def spans_request(parts: Iterable[tuple[KnownTrace, Sequence[str]]]) -> bytes:
    """An OTLP request with the given spans of the given traces, as protobuf."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    service = group.resource.attributes.add()
    service.key, service.value.string_value = "service.name", "crash"
    scope = group.scope_spans.add()
    now = time.time_ns()
    for trace, span_ids in parts:
        for span_id in span_ids:
            is_root = trace.has_root and span_id == trace.span_ids[0]
            span = scope.spans.add()
            span.trace_id = bytes.fromhex(trace.trace_id.removeprefix("tr-"))
            span.span_id = bytes.fromhex(span_id)
            span.name = "answer" if is_root else "look up"
            span.kind = Span.SPAN_KIND_INTERNAL
            span.start_time_unix_nano, span.end_time_unix_nano = now - 1_500_000_000, now
            span.status.code = Status.STATUS_CODE_OK
            inputs, outputs = {"n": trace.number}, {"double": 2 * trace.number}
            if is_root:
                session = span.attributes.add()
                session.key, session.value.string_value = (
                    "session.id",
                    f"session-{trace.number // 5}",
                )
            else:
                span.parent_span_id = bytes.fromhex(
                    trace.span_ids[0] if trace.has_root else "11" * 8
                )
            for key, value in (
                ("mlflow.spanType", "AGENT" if is_root else "TOOL"),
                ("mlflow.spanInputs", json.dumps(inputs)),
                ("mlflow.spanOutputs", json.dumps(outputs)),
            ):
                attribute = span.attributes.add()
                attribute.key, attribute.value.string_value = key, value
    body: bytes = request.SerializeToString()
    return body
