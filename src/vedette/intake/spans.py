"""The span as the lake and the read model need it: decoded once from OTLP, used by both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Resource:
    """The OTLP resource and instrumentation scope that a group of spans shares."""

    attributes: str = "{}"  # JSON object
    dropped_attributes_count: int = 0
    schema_url: str = ""
    service_name: str | None = None
    scope_name: str = ""
    scope_version: str = ""
    scope_attributes: str = "{}"
    scope_dropped_attributes_count: int = 0
    span_schema_url: str = ""
    # What MLflow makes trace tags of: resource attributes but telemetry.sdk.* and mlflow.*
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class DecodedSpan:
    """One span. ``attributes`` is a JSON object: OTLP's typed values, as sent, and what MLflow's
    convention translators derive (mlflow.spanInputs, mlflow.chat.tokenUsage, ...)."""

    trace_id: str  # "tr-" + 32 hex
    span_id: str  # 16 hex
    parent_span_id: str | None
    name: str
    kind: str  # SPAN_KIND_INTERNAL, ... (OTLP enum name)
    start_ns: int
    end_ns: int | None  # None when OTLP says 0: still running
    status_code: str  # OK | ERROR | UNSET
    status_message: str
    trace_state: str
    flags: int
    attributes: str
    dropped_attributes_count: int
    events: list[
        dict[str, Any]
    ]  # {time_unix_nano, name, attributes (JSON), dropped_attributes_count}
    dropped_events_count: int
    links: list[dict[str, Any]]  # {trace_id, span_id, trace_state, attributes (JSON),
    #                               dropped_attributes_count, flags}
    dropped_links_count: int
    resource: Resource
    # What the read model keeps in columns, extracted from the translated attributes
    content_size: int = 0  # characters of `attributes`, which a rebuild does not keep
    span_type: str | None = None
    usage: dict[str, Any] | None = None  # mlflow.chat.tokenUsage
    cost: dict[str, Any] | None = None  # mlflow.llm.cost
    model_name: str | None = None
    model_provider: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    request_preview: str | None = None  # root spans only
    response_preview: str | None = None  # root spans only
    trace_tags: dict[str, str] = field(default_factory=dict)  # root spans: mlflow.traceTag.*
