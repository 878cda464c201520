"""Read what spans say in the conventions of many tracers, as MLflow does, only faster.

`translate` gives what `mlflow.tracing.otel.translation.translate_span_when_storing` gives: inputs,
outputs, span type, token usage, model, provider, tools and cost under MLflow's own attribute names.
The conventions that come in volume (MLflow's own attributes, GenAI semantic conventions,
OpenInference) are read here, straight from the typed values; a span on which any other of MLflow's
translators could act, or with a value of an unusual form, is given to MLflow itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, cast

from mlflow.entities import Span, SpanType
from mlflow.tracing.otel.translation import translate_span_when_storing

from vedette.intake.prices import cost_of
from vedette.intake.values import (
    DOCUMENT_STARTS,
    dump,
    is_empty,
    loaded,
    stored,
    unstored,
)

logger = logging.getLogger(__name__)

INPUTS = "mlflow.spanInputs"
OUTPUTS = "mlflow.spanOutputs"
SPAN_TYPE = "mlflow.spanType"
USAGE = "mlflow.chat.tokenUsage"
COST = "mlflow.llm.cost"
MODEL = "mlflow.llm.model"
PROVIDER = "mlflow.llm.provider"
TOOLS = "mlflow.chat.tools"

# What each convention calls things, in MLflow's order of preference
_INPUT_KEYS = ("input.value", "gen_ai.input.messages", "gen_ai.tool.call.arguments")
_OUTPUT_KEYS = ("output.value", "gen_ai.output.messages", "gen_ai.tool.call.result")
_MODEL_KEYS = (
    "llm.response.model_name",
    "llm.model_name",
    "llm.request.model_name",
    "embedding.model_name",
    "gen_ai.response.model",
    "gen_ai.request.model",
)
_PROVIDER_KEYS = ("llm.provider", "gen_ai.provider.name", "gen_ai.system")
_TOOL_KEY = "gen_ai.tool.definitions"
_AGENT_KEY = "gen_ai.agent.name"
_OPENINFERENCE_KIND = "openinference.span.kind"
_GENAI_OPERATION = "gen_ai.operation.name"
_GENAI_REQUEST_MODEL = "gen_ai.request.model"
# input, output, total, cache read, cache creation
_OPENINFERENCE_TOKENS = (
    "llm.token_count.prompt",
    "llm.token_count.completion",
    "llm.token_count.total",
    "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_write",
)
_GENAI_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    None,
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
)
_GENAI_CACHE_CREATION_BEFORE = "gen_ai.usage.cache_creation.input_tokens"

_OPENINFERENCE_TYPES = {
    "TOOL": SpanType.TOOL,
    "CHAIN": SpanType.CHAIN,
    "LLM": SpanType.LLM,
    "RETRIEVER": SpanType.RETRIEVER,
    "EMBEDDING": SpanType.EMBEDDING,
    "AGENT": SpanType.AGENT,
    "RERANKER": SpanType.RERANKER,
    "UNKNOWN": SpanType.UNKNOWN,
    "GUARDRAIL": SpanType.GUARDRAIL,
    "EVALUATOR": SpanType.EVALUATOR,
}
_GENAI_TYPES = {
    "chat": SpanType.CHAT_MODEL,
    "create_agent": SpanType.AGENT,
    "embeddings": SpanType.EMBEDDING,
    "execute_tool": SpanType.TOOL,
    "generate_content": SpanType.LLM,
    "invoke_agent": SpanType.AGENT,
    "text_completion": SpanType.LLM,
    "response": SpanType.LLM,
}

# Attributes that tracers with a translator of their own set: such spans are MLflow's to read
_FOREIGN_KEYS = frozenset(
    {
        "span.type",  # Claude Code, VoltAgent
        "entity.type",  # VoltAgent
        "agent.messages",
        "llm.messages",
        "input",
        "output",
        "gen_ai.usage.prompt_tokens",  # Traceloop
        "gen_ai.usage.completion_tokens",
    }
)
_FOREIGN_PREFIXES = (
    "ai.",  # Vercel AI
    "gcp.vertex.agent.",  # Google ADK
    "gen_ai.completion.",  # Traceloop
    "gen_ai.prompt.",
    "langfuse.",
    "lk.",  # LiveKit
    "llm.usage.",  # Traceloop, VoltAgent
    "lmnr.",  # Laminar
    "traceloop.",
    "usage.",  # VoltAgent
    "voltagent.",
)
_FOREIGN_EVENT_PREFIX = "gen_ai."  # Spring AI, LiveKit

# Keys seen and found to mean nothing to any translator but this one
_familiar: set[str] = set()
_FAMILIAR_LIMIT = 20_000

_ABSENT = object()


class _Unusual(Exception):
    """A value whose reading is left to MLflow."""


def translate(attributes: dict[str, Any], events: Sequence[dict[str, Any]] = ()) -> None:
    """Add to a span's ``attributes`` what MLflow derives from them.

    Args:
        attributes: typed values (see `vedette.intake.values`), changed in place.
        events: the span's events: ``name`` and ``attributes`` (typed values) of each.
    """
    try:
        if not _is_familiar(attributes) or _has_foreign_event(events):
            raise _Unusual
        derived = _derive(attributes)
    except _Unusual:
        derived = _derive_by_mlflow(attributes, events)
    attributes.update(derived)


def _is_familiar(attributes: dict[str, Any]) -> bool:
    if _familiar.issuperset(attributes):
        return True
    for key in attributes:
        if key in _familiar:
            continue
        if key in _FOREIGN_KEYS or key.startswith(_FOREIGN_PREFIXES):
            return False
        if len(_familiar) < _FAMILIAR_LIMIT:
            _familiar.add(key)
    return True


def _has_foreign_event(events: Sequence[dict[str, Any]]) -> bool:
    return any(event["name"].startswith(_FOREIGN_EVENT_PREFIX) for event in events)


def _derive(attributes: dict[str, Any]) -> dict[str, Any]:
    agent = attributes.get(_AGENT_KEY)
    if type(agent) is str and ("gemini" in agent or "\\" in agent):
        raise _Unusual  # Gemini CLI has a translator
    derived: dict[str, Any] = {}
    span_type = _span_type(attributes)
    if span_type and _scalar(attributes.get(SPAN_TYPE)) in (None, SpanType.UNKNOWN):
        derived[SPAN_TYPE] = span_type
    for key, sources in _COPIED:
        if key not in attributes and (value := _first(attributes, sources)) is not _ABSENT:
            derived[key] = value
    for key, derive in _DERIVED:
        if key not in attributes and (value := derive(attributes, derived)):
            derived[key] = value
    return derived


def _span_type(attributes: dict[str, Any]) -> str | None:
    get = attributes.get
    if (kind := get(_OPENINFERENCE_KIND)) is not None and (
        span_type := _OPENINFERENCE_TYPES.get(_scalar(kind))
    ):
        return span_type
    operation = get(_GENAI_OPERATION)
    if operation is not None:
        operation = _scalar(operation)
        if span_type := _GENAI_TYPES.get(operation):
            return span_type
    if _GENAI_REQUEST_MODEL in attributes:
        return SpanType.LLM
    return _GENAI_TYPES.get(operation.lower()) if isinstance(operation, str) else None


def _first(attributes: dict[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        value = attributes.get(key)
        if value is not None and not is_empty(value):
            return value
    return _ABSENT


def _scalar(value: Any) -> Any:
    """What MLflow reads where it expects a name."""
    if type(value) is str and value[:1] not in DOCUMENT_STARTS:
        return value
    value = loaded(value)
    if isinstance(value, str):
        # A name that looks like JSON, or with half a surrogate pair, takes MLflow's double encoding
        if value[:1] in DOCUMENT_STARTS or not value.isprintable():
            raise _Unusual
    elif isinstance(value, list | dict):
        raise _Unusual
    return value


def _usage(attributes: dict[str, Any], _: dict[str, Any]) -> dict[str, int] | None:
    for keys in (_OPENINFERENCE_TOKENS, _GENAI_TOKENS):
        input_key, output_key, total_key, read_key, creation_key = keys
        tokens_in, tokens_out = _count(attributes, input_key), _count(attributes, output_key)
        total = None if total_key is None else _count(attributes, total_key)
        if tokens_in is None and tokens_out is None and total is None:
            continue
        if total is None and tokens_in is not None and tokens_out is not None:
            total = tokens_in + tokens_out
        if keys is _GENAI_TOKENS and creation_key not in attributes:
            creation_key = _GENAI_CACHE_CREATION_BEFORE
        counts = {
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "total_tokens": total,
            "cache_read_input_tokens": _count(attributes, read_key),
            "cache_creation_input_tokens": _count(attributes, creation_key),
        }
        return {key: count for key, count in counts.items() if count is not None}
    return None


def _count(attributes: dict[str, Any], key: str) -> int | None:
    value = attributes.get(key)
    if value is None or type(value) is int:
        return value
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 18:
        return int(value)
    if type(value) is float:
        return None
    raise _Unusual


def _model(attributes: dict[str, Any], derived: dict[str, Any]) -> Any:
    name = _first(attributes, _MODEL_KEYS)
    if name is not _ABSENT:
        return _scalar(name)
    # Inputs and outputs may be a request to and the response of a model's API
    for key in (INPUTS, OUTPUTS):
        payload = attributes.get(key, derived.get(key))
        if isinstance(payload, str):
            # Parsing is what costs. \u006d is an m, too: nobody writes it, but it is JSON
            if '"model"' not in payload and "\\u00" not in payload:
                continue
            payload = loaded(payload)
        if isinstance(payload, dict) and (model := payload.get("model")):
            if not isinstance(model, str):
                return None
            if model[0] in DOCUMENT_STARTS or not model.isprintable():
                raise _Unusual
            return model
    return None


def _provider(attributes: dict[str, Any], _: dict[str, Any]) -> Any:
    name = _first(attributes, _PROVIDER_KEYS)
    return None if name is _ABSENT else _scalar(name)


def _cost(attributes: dict[str, Any], derived: dict[str, Any]) -> dict[str, float] | None:
    usage = attributes.get(USAGE, derived.get(USAGE))
    model = attributes.get(MODEL, derived.get(MODEL))
    if usage is None or model is None:
        return None
    provider = attributes.get(PROVIDER, derived.get(PROVIDER))
    return cost_of(loaded(model), loaded(usage), loaded(provider))


_COPIED = ((INPUTS, _INPUT_KEYS), (OUTPUTS, _OUTPUT_KEYS), (TOOLS, (_TOOL_KEY,)))
_DERIVED = ((USAGE, _usage), (MODEL, _model), (PROVIDER, _provider), (COST, _cost))


class _Stored:
    """The part of MLflow's ``Span`` that its translation looks at."""

    def __init__(self, attributes: dict[str, str], events: Sequence[dict[str, Any]]) -> None:
        self._attributes, self._events = attributes, events

    def to_dict(self) -> dict[str, Any]:
        return {"attributes": self._attributes, "events": self._events}


def _derive_by_mlflow(
    attributes: dict[str, Any], events: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    sent = {key: dump(value) for key, value in attributes.items()}
    priced = COST in sent
    sent.setdefault(COST, "null")  # so that MLflow doesn't look the price up itself
    try:
        translated = translate_span_when_storing(cast(Span, _Stored(sent, events)))["attributes"]
    except Exception as error:
        # MLflow refuses the whole request here; the span is kept, without what it derives
        logger.debug("MLflow can't read a span's attributes, which are kept as sent: %s", error)
        return {}
    if not priced:
        del translated[COST]
    derived = {
        key: unstored(text)
        for key, text in translated.items()
        if key not in attributes or stored(attributes[key]) != text
    }
    if USAGE in derived and stored(usage := loaded(derived[USAGE])) == derived[USAGE]:
        derived[USAGE] = usage
    if not priced and (cost := _cost_of_stored(translated)):
        derived[COST] = cost
    return derived


def _cost_of_stored(translated: dict[str, Any]) -> dict[str, float] | None:
    try:
        usage, model = json.loads(translated[USAGE]), json.loads(translated[MODEL])
        provider = json.loads(translated[PROVIDER]) if PROVIDER in translated else None
    except (KeyError, TypeError, ValueError):
        return None
    return cost_of(model, usage, provider)
