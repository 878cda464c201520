"""What the read model keeps of a span's attributes, once MLflow's translators have been at them.

Decoding does this with the attributes as they came, a rebuild of the read model with those that the
lake holds. The two give the same, but for text that is no Unicode: the lake has it replaced.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from vedette.intake.conventions import COST, INPUTS, MODEL, OUTPUTS, PROVIDER, SPAN_TYPE, USAGE
from vedette.intake.previews import preview
from vedette.intake.spans import DecodedSpan
from vedette.intake.values import loaded, text_of

_TRACE_TAG = "mlflow.traceTag."
_TRACE_NAME = "mlflow.traceName"

# MLflow's limits, in characters
_SESSION_LENGTH = 250
_MODEL_LENGTH = 500
_TAG_KEY_LENGTH = 250
_TAG_VALUE_LENGTH = 8000
_TRACE_NAME_LENGTH = 4096
_TAG_KEY = re.compile(r"^[/\w.\- :]*$")


def extract(span: DecodedSpan, attributes: dict[str, Any]) -> None:
    """Set the fields of ``span`` that come from its translated attributes."""
    get = attributes.get
    span.span_type = _optional_text(get(SPAN_TYPE))
    span.session_id = _session(attributes)
    span.user_id = text_of(attributes["user.id"]) if "user.id" in attributes else None
    if MODEL in attributes:
        span.model_name = text_of(attributes[MODEL])[:_MODEL_LENGTH]
    if PROVIDER in attributes:
        span.model_provider = text_of(attributes[PROVIDER])[:_MODEL_LENGTH]
    if USAGE in attributes:
        span.usage = _numbers(attributes[USAGE])
    if COST in attributes:
        span.cost = _numbers(attributes[COST])
    if span.parent_span_id is None:
        if INPUTS in attributes:
            span.request_preview = preview(attributes[INPUTS], "user")
        if OUTPUTS in attributes:
            span.response_preview = preview(attributes[OUTPUTS], "assistant")
        span.trace_tags = _trace_tags(attributes)


def resource_tags(attributes: dict[str, Any]) -> dict[str, str]:
    """Trace tags that MLflow makes of resource attributes: all but telemetry.sdk.* and mlflow.*."""
    tags = {}
    for key, value in attributes.items():
        if key and not key.startswith(("telemetry.sdk.", "mlflow.")) and _is_tag_key(key):
            text = value if isinstance(value, str) else json.dumps(_named(value))
            tags[key] = text[:_TAG_VALUE_LENGTH]
    return tags


def _named(value: Any) -> Any:
    """The value as OpenTelemetry's SDK has it in a resource: without entries that have no name."""
    if isinstance(value, dict):
        return {key: _named(entry) for key, entry in value.items() if key}
    return [_named(entry) for entry in value] if isinstance(value, list) else value


def _session(attributes: dict[str, Any]) -> str | None:
    for key in ("session.id", "gen_ai.conversation.id"):
        if key in attributes:
            return text_of(attributes[key])[:_SESSION_LENGTH]
    return None


def _optional_text(value: Any) -> str | None:
    return None if value is None else text_of(value)


def _numbers(value: Any) -> dict[str, Any] | None:
    """Token counts or costs; what isn't a number can't be added up and is left out."""
    value = loaded(value)
    if not isinstance(value, dict):
        return None
    return {
        key: number
        for key, number in value.items()
        if isinstance(number, int | float) and math.isfinite(number) and abs(number) < 2**63
    }


def _trace_tags(attributes: dict[str, Any]) -> dict[str, str]:
    """Tags of the trace that MLflow's SDK sends along as attributes of the root span."""
    tags = {}
    for key, value in attributes.items():
        if key.startswith(_TRACE_TAG):
            name = key[len(_TRACE_TAG) :]
            if _is_tag_key(name):
                limit = _TRACE_NAME_LENGTH if name == _TRACE_NAME else _TAG_VALUE_LENGTH
                tags[name] = text_of(value)[:limit]
    return tags


def _is_tag_key(key: str) -> bool:
    """Whether MLflow accepts a tag of this name."""
    return len(key) <= _TAG_KEY_LENGTH and _TAG_KEY.match(key) is not None
