"""What is taken from a span for the lake and the read model, against MLflow's SQL store."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities.span import LazySpan, Span
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlSpan
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from sqlalchemy.exc import SQLAlchemyError

from otlp_strategies import (
    FAMILIAR_KEYS,
    agent_request,
    fill_attributes,
    spans,
    values,
)
from vedette.intake.content import content_of_row, content_of_span
from vedette.intake.decode import decode_spans, span_trace_ids
from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan
from vedette.lake.rows import SegmentRows

logging.getLogger("opentelemetry.trace.status").setLevel(logging.ERROR)

_EXTRACTED = ["session.id", "user.id", "mlflow.traceTag.a b/c:d", "mlflow.traceTag.ü!"]
_RESOURCE = ["service.name", "host", "", "mlflow.x", "telemetry.sdk.name", "b!"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SqlAlchemyStore:
    """MLflow's own store."""
    directory = tmp_path_factory.mktemp("mlflow")
    return SqlAlchemyStore(f"sqlite:///{directory}/mlflow.db", str(directory))


_ids = iter(range(1, 2**64))


def request_with(span: ProtoSpan, resource: dict[str, Any] | None = None) -> bytes:
    """A request with one span."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    fill_attributes(group.resource.attributes, resource or {})
    group.scope_spans.add().spans.append(span)
    return request.SerializeToString()


def decode(span: ProtoSpan, resource: dict[str, Any] | None = None) -> DecodedSpan:
    (decoded,) = decode_spans(request_with(span, resource))
    return decoded


def span_with(**attributes: Any) -> ProtoSpan:
    """A finished root span."""
    span = ProtoSpan(
        trace_id=next(_ids).to_bytes(16),
        span_id=b"spanspan",
        start_time_unix_nano=10**18,
        end_time_unix_nano=10**18 + 1,
    )
    fill_attributes(span.attributes, attributes)
    return span


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    spans(FAMILIAR_KEYS + 5 * _EXTRACTED),
    st.dictionaries(st.sampled_from(_RESOURCE), values(), max_size=3),
)
def test_columns_are_those_mlflow_fills(
    store: SqlAlchemyStore, span: ProtoSpan, attributes: dict[str, Any]
) -> None:
    span.trace_id = next(_ids).to_bytes(16)
    del span.events[:]  # of text taken from an event, MLflow's preview has no quotes, ours has
    decoded = decode(span, attributes)
    resource = Resource()
    fill_attributes(resource.attributes, attributes)
    try:
        store.log_spans("0", [Span.from_otel_proto(span, resource=resource)])
    except (MlflowException, SQLAlchemyError, TypeError, ValueError, AttributeError):
        return
    info = store.get_trace_info(decoded.trace_id)
    with store.ManagedSessionMaker() as session:
        row = session.query(SqlSpan).filter(SqlSpan.trace_id == decoded.trace_id).one()
        assert decoded.parent_span_id == row.parent_span_id
        assert decoded.status_code == row.status
        assert (decoded.end_ns or 0) == row.end_time_unix_nano
        assert (decoded.model_name, decoded.model_provider) == (row.model_name, row.model_provider)
        assert (decoded.cost or {}).get("total_cost") == row.total_cost
    assert (decoded.session_id or None) == info.trace_metadata.get("mlflow.trace.session")
    assert (decoded.user_id or None) == info.trace_metadata.get("mlflow.trace.user")
    assert decoded.request_preview == info.request_preview
    assert decoded.response_preview == info.response_preview
    assert {**decoded.resource.tags, **decoded.trace_tags} == {
        key: value
        for key, value in info.tags.items()
        if key not in ("mlflow.trace.spansLocation", "mlflow.artifactLocation")
    }


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(spans(FAMILIAR_KEYS))
def test_a_row_of_the_lake_gives_the_content_again(span: ProtoSpan) -> None:
    span.start_time_unix_nano %= 9 * 10**18
    body = request_with(span)
    (decoded,) = decode_spans(body)
    rows = SegmentRows("j", 1)
    rows.add(Record("spans", 1_000, {"experiment_id": "0"}, body), 0, [decoded])
    (row,) = rows.spans().to_pylist()
    content = content_of_row(row)
    assert content == content_of_span(decoded)
    stored = LazySpan.from_stored_content(content)
    assert stored.trace_id == decoded.trace_id
    assert stored.span_id == decoded.span_id
    assert stored.parent_id == decoded.parent_span_id
    assert stored.end_time_ns == decoded.end_ns
    assert stored.status.status_code == decoded.status_code


def test_numbers_that_json_does_not_have_become_names() -> None:
    """MLflow writes NaN into its JSON, which browsers and SQL engines refuse."""
    decoded = decode(span_with(a=float("nan"), b=[float("-inf")], c=float("inf")))
    assert json.loads(decoded.attributes) == {"a": "NaN", "b": ["-Infinity"], "c": "Infinity"}


def test_attributes_keep_their_types() -> None:
    sent = {"text": "1", "int": 1, "float": 1.0, "flag": True, "none": None, "list": [1, "a"]}
    decoded = decode(span_with(**sent, map={"a": {"b": [2]}}, bytes=b"\x00a"))
    kept = json.loads(decoded.attributes)
    assert kept == {**sent, "map": {"a": {"b": [2]}}, "bytes": "b'\\x00a'"}
    assert isinstance(kept["float"], float)


def test_the_trace_id_is_the_spans_whatever_its_attributes_say() -> None:
    decoded = decode(span_with(**{"mlflow.traceRequestId": '"tr-of-another"', "a": 1}))
    assert json.loads(decoded.attributes) == {"a": 1}
    assert LazySpan.from_stored_content(content_of_span(decoded)).trace_id == decoded.trace_id


@pytest.mark.parametrize(
    ("service", "parent", "shown"),
    [("claude-code", b"", True), ("claude-code", b"parentid", False), ("my-agent", b"", False)],
)
def test_coding_agents_are_named_on_their_root_spans(
    service: str, parent: bytes, shown: bool
) -> None:
    span = span_with()
    span.parent_span_id = parent
    decoded = decode(span, {"service.name": service})
    assert json.loads(decoded.attributes) == ({"service.name": service} if shown else {})
    assert decoded.resource.service_name == service


@pytest.mark.parametrize(
    "usage", ['{"input_tokens": "many", "output_tokens": 3}', {"x": None}, "[]"]
)
def test_token_counts_that_cannot_be_added_up_are_left_out(usage: Any) -> None:
    """MLflow refuses every span of the request."""
    decoded = decode(span_with(**{"mlflow.chat.tokenUsage": usage}))
    assert decoded.usage in ({"output_tokens": 3}, {}, None)


def test_an_attribute_that_mlflow_stumbles_over_keeps_its_span() -> None:
    deep = "[" * 5_000 + "]" * 5_000
    kind = {"openinference.span.kind": ["LLM"], "input.value": deep, "traceloop.span.kind": "task"}
    assert json.loads(decode(span_with(**kind)).attributes) == kind


def test_names_too_long_for_mlflow_are_cut() -> None:
    long = {"session.id": "s" * 300, "mlflow.llm.model": "m" * 600}
    decoded = decode(span_with(**long, **{"mlflow.traceTag.mlflow.traceName": "n" * 9_000}))
    assert decoded.session_id == "s" * 250
    assert decoded.model_name == "m" * 500
    assert decoded.trace_tags == {"mlflow.traceName": "n" * 4_096}


def test_concatenated_requests_are_one() -> None:
    one, two = request_with(span_with(a=1)), agent_request("mlflow", traces=2)
    assert decode_spans(one + two) == decode_spans(one) + decode_spans(two)
    assert span_trace_ids(one + two) == {s.trace_id for s in decode_spans(one + two)}


def test_entries_of_a_resource_that_have_no_name_are_no_part_of_its_tag() -> None:
    host = {"": None, "name": "a", "disks": [{"": 1, "size": 2}]}
    tags = decode(span_with(), {"host": host}).resource.tags
    assert tags == {"host": '{"name": "a", "disks": [{"size": 2}]}'}
