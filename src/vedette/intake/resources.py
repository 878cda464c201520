"""What the spans, log records or metrics of one group have in common: their resource and scope."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ProtoResource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from vedette.intake.extract import resource_tags
from vedette.intake.spans import Resource
from vedette.intake.values import attribute_values, json_text, text_of

SERVICE_NAME = "service.name"
_INT32_MAX = 2**31 - 1


def resource_of(resource: ProtoResource, schema_url: str) -> Resource:
    """The resource of a group, without a scope."""
    attributes = attribute_values(resource.attributes)
    service = attributes.get(SERVICE_NAME)
    return Resource(
        attributes=json_text(attributes),
        dropped_attributes_count=int32(resource.dropped_attributes_count),
        schema_url=schema_url,
        service_name=None if service is None else text_of(service),
        tags=resource_tags(attributes),
    )


def with_scope(resource: Resource, scoped: ScopeSpans | ScopeLogs | ScopeMetrics) -> Resource:
    """The resource with the scope of one of the group's members."""
    scope = scoped.scope
    return Resource(
        attributes=resource.attributes,
        dropped_attributes_count=resource.dropped_attributes_count,
        schema_url=resource.schema_url,
        service_name=resource.service_name,
        scope_name=scope.name,
        scope_version=scope.version,
        scope_attributes=json_text(attribute_values(scope.attributes)),
        scope_dropped_attributes_count=int32(scope.dropped_attributes_count),
        span_schema_url=scoped.schema_url,
        tags=resource.tags,
    )


def columns_of(resource: Resource, schema_url_column: str) -> dict[str, Any]:
    """The lake's columns for it; ``schema_url_column`` is what the scope's schema URL is called."""
    return {
        "service_name": resource.service_name,
        "resource": {
            "attributes": resource.attributes,
            "dropped_attributes_count": resource.dropped_attributes_count,
        },
        "resource_schema_url": resource.schema_url,
        "instrumentation_scope": {
            "name": resource.scope_name,
            "version": resource.scope_version,
            "attributes": resource.scope_attributes,
            "dropped_attributes_count": resource.scope_dropped_attributes_count,
        },
        schema_url_column: resource.span_schema_url,
    }


def hex_id(raw: bytes, size: int) -> str | None:
    """An id as the lake has it; None if it is none: OTLP then wants it taken as not there."""
    return raw.hex() if len(raw) == size and any(raw) else None


def int32(count: int) -> int:
    """A count that is told no higher than fits."""
    return min(count, _INT32_MAX)


def signed(flags: int) -> int:
    """The lake's integers are signed; the bits stay what they are."""
    return flags - 2**32 if flags > _INT32_MAX else flags
