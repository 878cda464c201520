"""Spans as clients might send them: every convention, mixed, with odd values."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from mlflow.tracing.utils.otlp import _set_otel_proto_anyvalue
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MLFLOW_KEYS = [
    "mlflow.spanType",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "mlflow.chat.tokenUsage",
    "mlflow.llm.cost",
    "mlflow.llm.model",
    "mlflow.llm.provider",
    "mlflow.chat.tools",
    "mlflow.message.format",
    "mlflow.traceRequestId",
    "mlflow.traceTag.env",
    "mlflow.traceTag.mlflow.traceName",
    "mlflow.trace.session",
    "mlflow.spanFunctionName",
]
GENAI_KEYS = [
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.definitions",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.agent.name",
    "gen_ai.conversation.id",
]
OPENINFERENCE_KEYS = [
    "openinference.span.kind",
    "input.value",
    "output.value",
    "llm.model_name",
    "llm.response.model_name",
    "llm.request.model_name",
    "embedding.model_name",
    "llm.provider",
    "llm.token_count.prompt",
    "llm.token_count.completion",
    "llm.token_count.total",
    "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_write",
]
PLAIN_KEYS = ["session.id", "user.id", "http.method", "model", "", "naïve key"]
FAMILIAR_KEYS = MLFLOW_KEYS + GENAI_KEYS + OPENINFERENCE_KEYS + PLAIN_KEYS
FOREIGN_KEYS = [
    "traceloop.span.kind",
    "traceloop.entity.input",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.usage.total_tokens",
    "usage.prompt_tokens",
    "span.type",
    "entity.type",
    "input",
    "output",
    "agent.messages",
    "voltagent.operation_id",
    "input_tokens",
    "user_prompt",
    "tool_input",
    "ai.operationId",
    "ai.prompt",
    "ai.prompt.messages",
    "ai.response.text",
    "lk.user_input",
    "lk.response.text",
    "lk.agent_name",
    "lmnr.span.type",
    "lmnr.span.input",
    "langfuse.observation.type",
    "langfuse.observation.input",
    "gcp.vertex.agent.llm_request",
]
EVENTS = [
    "exception",
    "gen_ai.user.message",
    "gen_ai.choice",
    "gen_ai.content.prompt",
    "gen_ai.content.completion",
    "tool.output",
]
EVENT_KEYS = ["content", "role", "gen_ai.prompt", "gen_ai.completion", "exception.type", "output"]

_NAMES = [
    "AGENT",
    "LLM",
    "UNKNOWN",
    "chat",
    "CHAT",
    "invoke_agent",
    "execute_tool",
    "workflow",
    "llm_call",
    "gemini-cli",
    "claude_code.llm_request",
    "interaction",
    "ai.generateText.doGenerate",
    "gpt-4o-mini",
    "claude-sonnet-4",
    "openai/gpt-4o",
    "gateway:/x",
    "databricks-claude-sonnet-4",
    "openai",
    "OpenAI",
    "anthropic",
    "../openai",
]
_ODD_TEXTS = [
    "",
    " ",
    '""',
    "{}",
    "[]",
    " { } ",
    "[\n]",
    "{]",
    "null",
    "true",
    "12",
    " 12 ",
    "1_000",
    "١٢",
    "012",
    "12.0",
    "1e3",
    "NaN",
    "{not json",
    '"unfinished',
    '"\\ud800"',
    '{"a": "\\ud83d"}',
    '{"\\u006dodel": "gpt-4o-mini"}',
    '"gemini\\u002dcli"',
    '"\\"AGENT\\""',
    '"\\"\\\\\\"x\\\\\\"\\""',
    '{"model": "\\"gpt-4o\\""}',
    '{"model": 5}',
    "[NaN]",
    "123456789012345678901234567890",
    "a\x00b\x1f\x7f",
    "ünï ☃ 𝄞",
    "x" * 1200,
]
_small = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 10**6)
    | st.text(max_size=8)
    | st.sampled_from(_NAMES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "messages", "a", "é"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_counts = st.integers(0, 10**7)
_usage = st.dictionaries(
    st.sampled_from(
        [
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "cache_creation_input_tokens_above_1hr",
        ]
    ),
    _counts,
)
_chat = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system"]),
                    "content": st.text(max_size=20)
                    | st.lists(
                        st.fixed_dictionaries(
                            {
                                "type": st.sampled_from(["text", "image"]),
                                "text": st.text(max_size=9),
                            }
                        ),
                        max_size=2,
                    ),
                }
            ),
            max_size=3,
        )
    },
    optional={"model": st.sampled_from(_NAMES)},
)


def values() -> st.SearchStrategy[Any]:
    """Attribute values: likely ones, their JSON, their JSON's JSON, and odd ones."""
    plain = st.sampled_from(_NAMES) | _counts | _usage | _chat | _json_values
    dumped = plain.map(json.dumps)
    return st.one_of(
        st.sampled_from(_NAMES),
        plain,
        dumped,
        dumped.map(json.dumps),
        _counts.map(str),
        st.sampled_from(_ODD_TEXTS),
        _small,
        st.text(max_size=20),
    )


def attributes(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Attributes of one span, with names among ``keys``."""
    return st.dictionaries(st.sampled_from(keys), values(), max_size=9)


@st.composite
def spans(draw: st.DrawFn, keys: list[str]) -> Span:
    """A valid OTLP span."""
    times = st.integers(0, 2**63 - 1)
    span = Span(
        trace_id=draw(st.binary(min_size=16, max_size=16).filter(any)),
        span_id=draw(st.binary(min_size=8, max_size=8).filter(any)),
        parent_span_id=draw(st.sampled_from([b"", bytes(8)]) | st.binary(min_size=8, max_size=8)),
        name=draw(st.text(max_size=10)),
        kind=draw(st.integers(0, 7)),
        start_time_unix_nano=draw(times),
        end_time_unix_nano=draw(st.just(0) | times),
        trace_state=draw(st.text(max_size=5)),
        flags=draw(st.integers(0, 2**32 - 1)),
    )
    span.status.code = draw(st.integers(0, 4))
    span.status.message = draw(st.text(max_size=8))
    fill_attributes(span.attributes, draw(attributes(keys)))
    for name in draw(st.lists(st.sampled_from(EVENTS), max_size=2)):
        event = span.events.add(name=name, time_unix_nano=draw(times))
        values = draw(attributes(EVENT_KEYS))
        if name != "exception":  # MLflow can't take a message of bytes
            values = {key: value for key, value in values.items() if not isinstance(value, bytes)}
        fill_attributes(event.attributes, values)
    for _ in range(draw(st.integers(0, 1))):
        link = span.links.add(
            trace_id=draw(st.binary(max_size=20)), span_id=draw(st.binary(max_size=10))
        )
        fill_attributes(link.attributes, draw(attributes(PLAIN_KEYS)))
    return span


def fill_attributes(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        attribute = target.add()
        attribute.key = key
        attribute.value.SetInParent()
        _set_otel_proto_anyvalue(attribute.value, value)


def request_of(*spans: Span) -> bytes:
    """A request with these spans."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


def agent_request(convention: str, traces: int = 1) -> bytes:
    """A request with traces of three spans, as tracers of a convention write them.

    Args:
        convention: ``mlflow``, ``genai`` or ``openinference``.
        traces: how many; the ids are counted from 1.
    """
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for trace in range(1, traces + 1):
        for number, (kind, inputs, outputs) in enumerate(_STEPS, start=1):
            span = scope.spans.add(
                trace_id=trace.to_bytes(16),
                span_id=number.to_bytes(8),
                parent_span_id=b"" if number == 1 else (1).to_bytes(8),
                name=kind.lower(),
                kind="SPAN_KIND_CLIENT" if kind == "CHAT_MODEL" else "SPAN_KIND_INTERNAL",
                start_time_unix_nano=10**18 + number,
                end_time_unix_nano=10**18 + 10**9,
            )
            span.status.code = "STATUS_CODE_OK"
            said = {"session.id": "s-1", "user.id": "u-1", **_SAID[convention](kind)}
            said |= zip(_PAYLOAD_KEYS[convention], map(json.dumps, (inputs, outputs)), strict=True)
            if kind == "TOOL":
                span.status.code = "STATUS_CODE_ERROR"
                span.status.message = "no such order"
                event = span.events.add(name="exception", time_unix_nano=10**18 + 5)
                fill_attributes(event.attributes, {"exception.type": "KeyError"})
            fill_attributes(span.attributes, said)
    return request.SerializeToString()


_QUESTION = {"role": "user", "content": "Where is my parcel? ☃"}
_ANSWER = {"role": "assistant", "content": "On its way."}
_STEPS = [
    ("AGENT", {"messages": [_QUESTION], "context": "x" * 500}, {"answer": "On its way."}),
    ("TOOL", {"order_id": 7}, None),
    ("CHAT_MODEL", {"messages": [_QUESTION]}, {"choices": [{"message": _ANSWER}]}),
]
_PAYLOAD_KEYS = {
    "mlflow": ("mlflow.spanInputs", "mlflow.spanOutputs"),
    "genai": ("gen_ai.input.messages", "gen_ai.output.messages"),
    "openinference": ("input.value", "output.value"),
}


def _say_mlflow(kind: str) -> dict[str, Any]:
    said = {"mlflow.spanType": kind, "mlflow.traceTag.env": "prod"}
    if kind == "CHAT_MODEL":
        said["mlflow.llm.model"], said["mlflow.llm.provider"] = "gpt-4o-mini", "openai"
        said["mlflow.chat.tokenUsage"] = json.dumps(
            {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
        )
    return said


def _say_genai(kind: str) -> dict[str, Any]:
    operation = {"AGENT": "invoke_agent", "TOOL": "execute_tool", "CHAT_MODEL": "chat"}[kind]
    said: dict[str, Any] = {"gen_ai.operation.name": operation, "gen_ai.agent.name": "support"}
    if kind == "CHAT_MODEL":
        said["gen_ai.request.model"] = said["gen_ai.response.model"] = "gpt-4o-mini"
        said["gen_ai.provider.name"] = "openai"
        said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"] = 100, 20
    return said


def _say_openinference(kind: str) -> dict[str, Any]:
    said: dict[str, Any] = {"openinference.span.kind": kind.replace("CHAT_MODEL", "LLM")}
    if kind == "CHAT_MODEL":
        said["llm.model_name"], said["llm.provider"] = "gpt-4o-mini", "openai"
        said["llm.token_count.prompt"], said["llm.token_count.completion"] = 100, 20
        said["llm.token_count.total"] = 120
    return said


_SAID = {"mlflow": _say_mlflow, "genai": _say_genai, "openinference": _say_openinference}
