"""The support agent once more, traced with plain OpenTelemetry: no MLflow in this process.

    python examples/otlp_client.py

Any OTLP/HTTP exporter will do: point it at <vedette>/v1/traces, with the header
x-mlflow-experiment-id if the traces shall go to a certain experiment. In Python that is
`OTLPSpanExporter(endpoint=..., headers=...)` of opentelemetry-exporter-otlp-proto-http; the class
`Exporter` below stands in for it, to show what goes over the wire.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import requests
import shop
from customers import conversations, talk
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

tracer = trace.get_tracer("support_agent")


@tracer.start_as_current_span("support_agent")
def answer(question: str, session: str, user: str) -> str:
    """The answer to one question. The outermost span of a trace says who asked what, and when.

    The attributes are OpenTelemetry's conventions for generative AI (gen_ai.*); OpenInference's and
    MLflow's own are understood as well.
    """
    root = trace.get_current_span()
    root.set_attributes(
        {
            "gen_ai.operation.name": "invoke_agent",
            "session.id": session,  # groups the traces of one conversation
            "user.id": user,
            "gen_ai.input.messages": messages("user", question),
        }
    )
    with tracer.start_as_current_span("search_help_pages") as span:
        pages = shop.search(question)
        span.set_attributes(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.call.arguments": json.dumps({"question": question}),
                "gen_ai.tool.call.result": json.dumps([page.title for page in pages]),
            }
        )
    if not pages:
        # An exception that leaves the span marks it, and so the trace, as failed.
        raise LookupError("no help page fits the question")
    with tracer.start_as_current_span("write_answer") as span:
        time.sleep(0.03)
        reply = f"{pages[0].text.split('. ')[0]}. [source: {pages[0].title}]"
        span.set_attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "rules-small",
                "gen_ai.usage.input_tokens": (len(question) + len(pages[0].text)) // 4,
                "gen_ai.usage.output_tokens": len(reply) // 4,
                "gen_ai.input.messages": messages("user", question),
                "gen_ai.output.messages": messages("assistant", reply),
            }
        )
    root.set_attribute("gen_ai.output.messages", messages("assistant", reply))
    return reply


def messages(role: str, text: str) -> str:
    """One chat message, as the JSON list that the gen_ai attributes hold."""
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


class Exporter(SpanExporter):
    """Sends finished spans to Vedette as OTLP protobuf."""

    def __init__(self, url: str, experiment_id: str | None) -> None:
        self._url = f"{url}/v1/traces"
        self._headers = {"Content-Type": "application/x-protobuf"}
        if experiment_id is not None:
            self._headers["x-mlflow-experiment-id"] = experiment_id

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch. The answer 200 means that it is on Vedette's disk."""
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name", value=wire_value("support-agent"))
        group.scope_spans.add().spans.extend(wire_span(span) for span in spans)
        for _ in range(5):
            reply = requests.post(
                self._url, request.SerializeToString(), headers=self._headers, timeout=30
            )
            if reply.status_code not in (429, 503):
                break
            # Vedette is full or its disk is: it says when to come back.
            time.sleep(float(reply.headers.get("Retry-After", 1)))
        return SpanExportResult.SUCCESS if reply.ok else SpanExportResult.FAILURE


def wire_span(span: ReadableSpan) -> WireSpan:
    """One finished span as OTLP's protobuf message."""
    wire = WireSpan(
        trace_id=span.context.trace_id.to_bytes(16, "big"),
        span_id=span.context.span_id.to_bytes(8, "big"),
        parent_span_id=span.parent.span_id.to_bytes(8, "big") if span.parent else b"",
        name=span.name,
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
    )
    wire.status.code = Status.STATUS_CODE_OK if span.status.is_ok else Status.STATUS_CODE_ERROR
    wire.status.message = span.status.description or ""
    for key, value in (span.attributes or {}).items():
        wire.attributes.add(key=key, value=wire_value(value))
    for event in span.events:  # exceptions arrive as events
        sent = wire.events.add(name=event.name, time_unix_nano=event.timestamp)
        for key, value in (event.attributes or {}).items():
            sent.attributes.add(key=key, value=wire_value(value))
    return wire


def wire_value(value: Any) -> AnyValue:
    """An attribute's value as OTLP's protobuf message."""
    if isinstance(value, bool):  # before int: True is an int
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))


def main() -> None:
    """Let made-up customers talk to the agent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="where Vedette listens")
    parser.add_argument("--experiment-id", help="default: the server's default experiment")
    parser.add_argument("--questions", type=int, default=30, help="how many are asked in all")
    options = parser.parse_args()

    provider = TracerProvider(resource=Resource.create({"service.name": "support-agent"}))
    provider.add_span_processor(BatchSpanProcessor(Exporter(options.url, options.experiment_id)))
    trace.set_tracer_provider(provider)
    outcomes = list(talk(answer, conversations(options.questions, seed=random.randrange(10_000))))
    provider.shutdown()  # sends what is still in the batch
    failed = [outcome for outcome in outcomes if outcome is not None]
    print(f"{len(outcomes)} questions answered, {len(failed)} failed.")


if __name__ == "__main__":
    main()
