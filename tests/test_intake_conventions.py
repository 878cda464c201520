"""What a span says in any tracer's convention is read as MLflow reads it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities.span import Span
from mlflow.tracing.otel import translation
from mlflow.tracing.otel.translation import translate_span_when_storing
from mlflow.tracing.utils import TraceJSONEncoder, calculate_cost_by_model_and_token_usage
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from otlp_strategies import FAMILIAR_KEYS, FOREIGN_KEYS, agent_request, request_of, spans
from vedette.intake import conventions
from vedette.intake.content import content_of_span
from vedette.intake.decode import decode_spans
from vedette.intake.prices import cost_of

many = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# MLflow's conversion of a status with a message but no error warns each time
logging.getLogger("opentelemetry.trace.status").setLevel(logging.ERROR)


def mlflow_content(span: ProtoSpan) -> dict[str, Any] | None:
    """What MLflow's own path stores of a span; None if MLflow refuses it."""
    try:
        stored = translate_span_when_storing(Span.from_otel_proto(span))
        text = json.dumps(stored, cls=TraceJSONEncoder, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return None
    # Half a surrogate pair would make MLflow's database refuse the span; it becomes "?" here
    content: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return content


def our_content(span: ProtoSpan) -> dict[str, Any]:
    """What is rebuilt from what we keep of a span."""
    (decoded,) = decode_spans(request_of(span))
    content: dict[str, Any] = json.loads(content_of_span(decoded))
    return content


def read(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as MLflow reads them back."""

    def value(text: Any) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError):
            return text

    return {key: value(text) for key, text in attributes.items()}


@many
@given(spans(FAMILIAR_KEYS))
def test_the_common_conventions_give_what_mlflow_stores_to_the_letter(span: ProtoSpan) -> None:
    del span.events[:]
    expected, ours = mlflow_content(span), our_content(span)
    assert expected is None or ours == expected


@many
@given(spans(FAMILIAR_KEYS + 2 * FOREIGN_KEYS))
def test_any_convention_reads_as_with_mlflow(span: ProtoSpan) -> None:
    expected, ours = mlflow_content(span), our_content(span)
    if expected is not None:
        assert read(ours.pop("attributes")) == read(expected.pop("attributes"))
        assert ours == expected


@pytest.mark.parametrize("convention", ["mlflow", "genai", "openinference"])
def test_a_usual_trace_is_read_without_mlflow(
    convention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("left to MLflow's translators, which take ten times as long")

    monkeypatch.setattr(conventions, "translate_span_when_storing", refuse)
    body = agent_request(convention)
    agent, tool, chat = decode_spans(body)
    assert (agent.span_type, tool.span_type) == ("AGENT", "TOOL")
    assert chat.span_type == ("LLM" if convention == "openinference" else "CHAT_MODEL")
    assert chat.usage == {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    assert (chat.model_name, chat.model_provider) == ("gpt-4o-mini", "openai")
    assert chat.cost == pytest.approx(
        {"input_cost": 1.5e-05, "output_cost": 1.2e-05, "total_cost": 2.7e-05}
    )
    assert (agent.session_id, agent.user_id) == ("s-1", "u-1")
    assert agent.request_preview == "Where is my parcel? ☃"
    assert agent.response_preview == '{"answer": "On its way."}'

    sent = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    for decoded, span in zip((agent, tool, chat), sent, strict=True):
        assert json.loads(content_of_span(decoded)) == mlflow_content(span)


class _Recorded(dict[str, Any]):
    """Attributes that remember which of them were asked for."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__(attributes)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def test_every_attribute_that_mlflows_translators_ask_for_is_known_here() -> None:
    """Fails when a newer MLflow reads something else; then conventions.py has to learn it."""
    attributes = _Recorded({"gen_ai.agent.name": '"gemini-cli"'})
    for translator in translation._TRANSLATORS:
        for name in dir(translator):
            if name.startswith(("get_", "translate_")) and not name.startswith("get_attribute"):
                method = getattr(translator, name)
                method([], attributes) if name.endswith("_events") else method(attributes)
    read_here = {
        *conventions._INPUT_KEYS,
        *conventions._OUTPUT_KEYS,
        *conventions._MODEL_KEYS,
        *conventions._PROVIDER_KEYS,
        *conventions._OPENINFERENCE_TOKENS,
        *conventions._GENAI_TOKENS,
        conventions._GENAI_CACHE_CREATION_BEFORE,
        conventions._TOOL_KEY,
        conventions._AGENT_KEY,
        conventions._OPENINFERENCE_KIND,
        conventions._GENAI_OPERATION,
        conventions.MODEL,
    }
    left_to_mlflow = {
        key
        for key in attributes.asked
        if key in conventions._FOREIGN_KEYS or key.startswith(conventions._FOREIGN_PREFIXES)
    }
    assert attributes.asked - read_here - left_to_mlflow == set()
    assert len(attributes.asked) > 50


_counts = st.none() | st.integers(-5, 10**9) | st.integers(10**300, 10**320)


@many
@given(
    st.sampled_from(
        ["gpt-4o-mini", "openai/gpt-4o", "claude-sonnet-4", "databricks-claude-sonnet-4", "x", ""]
    ),
    st.sampled_from([None, "", "openai", "OpenAI", "anthropic", "databricks", "nobody", "../a", 5]),
    st.dictionaries(
        st.sampled_from(
            [
                "input_tokens",
                "output_tokens",
                "cache_read_input_tokens",
                "cache_creation_input_tokens",
                "cache_creation_input_tokens_above_1hr",
            ]
        ),
        _counts | st.floats(0, 10) | st.booleans() | st.just("12"),
    ),
)
def test_prices_are_those_of_mlflow(model: str, provider: Any, usage: dict[str, Any]) -> None:
    try:
        expected = calculate_cost_by_model_and_token_usage(model, usage, provider)
    except (TypeError, OverflowError):
        expected = None
    assert cost_of(model, usage, provider) == expected


def test_prices_are_not_fetched_from_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked a server for prices")

    monkeypatch.setattr("mlflow.utils.providers.cloud_storage_http_request", refuse)
    assert cost_of("gpt-4o", {"input_tokens": 7}, "openai") is not None
    assert cost_of("a-model", {"input_tokens": 7}, "a-provider") is None
