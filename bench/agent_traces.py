"""OTLP requests of a support agent: five spans a trace, made before anything is timed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

SPANS_PER_TRACE = 5
TRACES_PER_SESSION = 5
ERROR_RATE = 0.03
CANARY_RATE = 0.1

_WORDS = (
    *("parcel", "courier", "depot", "label", "pallet", "customs", "invoice", "voucher", "basket"),
    *("checkout", "coupon", "carrier", "pickup", "delay", "damaged", "missing", "exchange"),
    *("return", "replacement", "store", "opening", "hours", "receipt", "guarantee", "spare"),
    *("manual", "voltage", "colour", "size", "stock", "shelf", "order", "shipped", "arrived"),
)
_MODELS = (("gpt-4o-mini", "openai"), ("claude-sonnet-4", "anthropic"), ("qwen3-32b", "alibaba"))
_PAYLOADS_PER_TRACE = 9  # places that get an equal share of the payload


class TraceRef(NamedTuple):
    """What a reader needs to find a trace again."""

    trace_id: str
    session_id: str
    env: str


class Request(NamedTuple):
    """One OTLP export request and the traces in it."""

    body: bytes
    traces: list[TraceRef]


class AgentTraces:
    """Makes requests; the same seed makes the same texts, never the same ids."""

    def __init__(self, seed: int, payload_bytes: int = 9_000) -> None:
        """
        Args:
            seed: of texts and shapes.
            payload_bytes: text per trace, in all; ids, keys and numbers come on top (about 3 kB).
        """
        self._rng = random.Random(seed)
        self._ids = random.SystemRandom()
        self._text = " ".join(self._rng.choices(_WORDS, k=40_000))
        self._share = payload_bytes // _PAYLOADS_PER_TRACE
        self._made = 0
        self._session = ""

    def requests(self, starts_ns: Sequence[int], traces_per_request: int) -> list[Request]:
        """One trace per start time, grouped into requests."""
        return [
            self.request(starts_ns[first : first + traces_per_request])
            for first in range(0, len(starts_ns), traces_per_request)
        ]

    def request(self, starts_ns: Sequence[int]) -> Request:
        """One request with a trace per start time (nanoseconds since the epoch)."""
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        for key, value in (("service.name", "support-agent"), ("deployment.environment", "prod")):
            attribute = group.resource.attributes.add()
            attribute.key, attribute.value.string_value = key, value
        scope = group.scope_spans.add()
        scope.scope.name = "support"
        traces = [self._add_trace(scope, start) for start in starts_ns]
        return Request(request.SerializeToString(), traces)

    def _some_text(self, length: int) -> str:
        first = self._rng.randrange(len(self._text) - length)
        return self._text[first : first + length]

    def _add_trace(self, scope: ScopeSpans, start_ns: int) -> TraceRef:
        rng = self._rng
        if self._made % TRACES_PER_SESSION == 0:
            self._session = f"session-{self._ids.getrandbits(64):016x}"
        self._made += 1
        trace_id = self._ids.getrandbits(128).to_bytes(16, "big")
        root_id, *child_ids = (
            self._ids.getrandbits(64).to_bytes(8, "big") for _ in range(SPANS_PER_TRACE)
        )
        duration_ns = int(rng.lognormvariate(0.3, 0.6) * 1e9)
        failed = rng.random() < ERROR_RATE
        env = "canary" if rng.random() < CANARY_RATE else "prod"
        question = self._some_text(120)
        model, provider = rng.choice(_MODELS)
        sent, received = rng.randrange(200, 2_000), rng.randrange(50, 600)
        common = {"session.id": self._session, "user.id": f"user-{rng.randrange(500):03d}"}

        def add(
            span_id: bytes, name: str, kind: str, begin: float, end: float, **extra: Any
        ) -> Span:
            span = scope.spans.add()
            span.trace_id, span.span_id, span.name = trace_id, span_id, name
            if span_id != root_id:
                span.parent_span_id = root_id
            span.kind = Span.SPAN_KIND_INTERNAL
            span.start_time_unix_nano = start_ns + int(begin * duration_ns)
            span.end_time_unix_nano = start_ns + int(end * duration_ns)
            span.status.code = Status.STATUS_CODE_OK
            _set_attributes(span, {"mlflow.spanType": kind, **common, **extra})
            return span

        root = add(
            root_id,
            "support_agent",
            "AGENT",
            0.0,
            1.0,
            **{
                "mlflow.spanInputs": json.dumps(
                    {"question": question, "history": self._some_text(self._share)}
                ),
                "mlflow.spanOutputs": json.dumps({"answer": self._some_text(self._share)}),
                "mlflow.traceTag.env": env,
            },
        )
        documents = [
            {"page_content": self._some_text(self._share // 3), "id": f"kb/{rng.randrange(9_999)}"}
            for _ in range(3)
        ]
        add(
            child_ids[0],
            "search_documents",
            "RETRIEVER",
            0.02,
            0.2,
            **{
                "mlflow.spanInputs": json.dumps({"query": question}),
                "mlflow.spanOutputs": json.dumps(documents),
            },
        )
        for child_id, name, begin in (
            (child_ids[1], "find_order", 0.22),
            (child_ids[2], "check_policy", 0.4),
        ):
            add(
                child_id,
                name,
                "TOOL",
                begin,
                begin + 0.15,
                **{
                    "mlflow.spanInputs": json.dumps(
                        {"order": rng.randrange(10**9), "note": self._some_text(self._share)}
                    ),
                    "mlflow.spanOutputs": json.dumps({"result": self._some_text(self._share)}),
                },
            )
        chat = add(
            child_ids[3],
            "chat",
            "CHAT_MODEL",
            0.56,
            0.98,
            **{
                "mlflow.spanInputs": json.dumps(
                    {"messages": [{"role": "user", "content": self._some_text(self._share)}]}
                ),
                "mlflow.spanOutputs": json.dumps({"content": self._some_text(self._share)}),
                "mlflow.chat.tokenUsage": json.dumps(
                    {
                        "input_tokens": sent,
                        "output_tokens": received,
                        "total_tokens": sent + received,
                    }
                ),
                "gen_ai.request.model": model,
                "gen_ai.provider.name": provider,
            },
        )
        if failed:
            _fail(chat, "TimeoutError: the model did not answer in 30 s")
            _fail(root, "TimeoutError: the model did not answer in 30 s")
        return TraceRef(f"tr-{trace_id.hex()}", self._session, env)


def _set_attributes(span: Span, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        attribute = span.attributes.add()
        attribute.key, attribute.value.string_value = key, value


def _fail(span: Span, message: str) -> None:
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = message
    event = span.events.add()
    event.name, event.time_unix_nano = "exception", span.end_time_unix_nano
    attribute = event.attributes.add()
    attribute.key, attribute.value.string_value = "exception.message", message
