"""What one trace is after some records: the rules by which spans and start_trace make a trace.

They are those of MLflow's SQL store (``log_spans`` and ``start_trace``), so that both orders of
arrival and spans that are sent again give what MLflow gives, with three differences:

- Once start_trace has said when a trace began and how long it took, later spans don't move that.
  MLflow lets them if they carry no tokens, cost or session.
- Tokens and cost are summed over all spans unless start_trace has told them. MLflow stops at
  start_trace even if it told none, and loses the cost of spans that arrive after it.
- A trace that nobody has named has the name of its root. MLflow leaves it without one, which is
  every trace that comes by OTLP alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from mlflow.store.tracking.utils.trace_analytics import (
    COST_COLUMN_BY_KEY,
    PROMOTED_TRACE_METADATA_KEYS,
    TOKEN_COLUMN_BY_KEY,
    analytics_columns_from_metadata,
    finite_float_or_none,
    token_count_or_none,
)
from mlflow.tracing.constant import SpansLocation, TraceMetadataKey, TraceTagKey
from mlflow.tracing.utils import (
    SpanAggregationNode,
    aggregate_cost_from_span_nodes,
    aggregate_usage_from_span_nodes,
)

from vedette.intake.records import TraceHeader
from vedette.intake.spans import DecodedSpan

TRACE_NAME_LENGTH = 4096  # characters, as in MLflow
_UNDECIDED = ("IN_PROGRESS", "STATE_UNSPECIFIED")
_TOKEN_COLUMNS = tuple(TOKEN_COLUMN_BY_KEY.values())
_COST_COLUMNS = tuple(COST_COLUMN_BY_KEY.values())

# span id -> parent, usage, cost: what aggregating over the tree of spans needs
SpanNodes = dict[str, tuple[str | None, dict[str, Any] | None, dict[str, Any] | None]]


@dataclass(slots=True)
class TraceState:
    """A row of ``traces`` with what else changes along with it. Times in ms since the epoch."""

    id: int
    trace_id: str
    experiment_id: int
    timestamp_ms: int
    first_received_ms: int
    last_received_ms: int
    execution_time_ms: int | None = None
    status: str = "IN_PROGRESS"
    finalized: bool = False
    client_request_id: str | None = None
    trace_name: str | None = None
    session_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_input_tokens_above_1hr: int | None = None
    input_cost: float | None = None
    output_cost: float | None = None
    total_cost: float | None = None
    said_tokens: bool = False
    said_cost: bool = False
    has_root: bool = False
    completed_ms: int | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    stored: bool = False  # the row exists in the read model
    nodes: SpanNodes = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)  # changes; None deletes
    metadata: dict[str, str] = field(default_factory=dict)  # changes
    default_metadata: dict[str, str] = field(default_factory=dict)  # set only where absent
    previews_changed: bool = False

    def set_tag(self, key: str, value: str | None) -> None:
        """Set a tag, or delete it with None; the trace's name is a tag to its users."""
        if key == TraceTagKey.TRACE_NAME:
            self.trace_name = value
        else:
            self.tags[key] = value


def new_trace(number: int, trace_id: str, experiment_id: int, at: int) -> TraceState:
    """A trace of which nothing is known yet but that something of it arrived at ``at``."""
    return TraceState(number, trace_id, experiment_id, 0, at, at)


def apply_start(trace: TraceState, header: TraceHeader, *, existed: bool) -> None:
    """Apply MLflow's start_trace: it says what the trace is."""
    trace.experiment_id = int(header["experiment_id"])
    trace.timestamp_ms = header["request_time"]
    trace.execution_time_ms = header["execution_duration"]
    trace.status = header["state"]
    trace.client_request_id = header["client_request_id"]
    trace.finalized = True
    columns = analytics_columns_from_metadata(header["metadata"])
    for column, value in columns.items():
        setattr(trace, column, value)
    trace.said_tokens |= any(columns.get(column) is not None for column in _TOKEN_COLUMNS)
    trace.said_cost |= any(columns.get(column) is not None for column in _COST_COLUMNS)
    if header["request_preview"] is not None or not existed:
        trace.request_preview = header["request_preview"]
        trace.previews_changed = True
    if header["response_preview"] is not None or not existed:
        trace.response_preview = header["response_preview"]
        trace.previews_changed = True
    # Also before the first span: it says where readers are to look, not what has arrived
    trace.set_tag(TraceTagKey.SPANS_LOCATION, SpansLocation.TRACKING_STORE.value)
    for key, text in header["tags"].items():
        trace.set_tag(key, text)
    for key, text in header["metadata"].items():
        if key not in PROMOTED_TRACE_METADATA_KEYS:
            trace.metadata[key] = text
    trace.metadata[TraceMetadataKey.TRACE_INFO_FINALIZED] = "true"


def apply_spans(trace: TraceState, spans: Sequence[DecodedSpan], *, existed: bool) -> None:
    """Apply the spans of one trace that arrived in one request."""
    _apply_times(trace, spans, existed=existed)
    roots = [span for span in spans if span.parent_span_id is None]
    if roots:
        if trace.status in _UNDECIDED:
            trace.status = "ERROR" if roots[0].status_code == "ERROR" else "OK"
        trace.has_root |= any(root.end_ns is not None for root in roots)
        _apply_previews(trace, roots[-1])
        if trace.trace_name is None:
            trace.trace_name = roots[0].name[:TRACE_NAME_LENGTH] or None
    _apply_analytics(trace, spans)
    trace.set_tag(TraceTagKey.SPANS_LOCATION, SpansLocation.TRACKING_STORE.value)
    # Tags a user has set win over those derived from the OTLP resource
    resource = next((span.resource for span in spans if span.resource.tags), None)
    if resource is not None:
        for key, value in resource.tags.items():
            trace.set_tag(key, value)
    for root in roots:
        for key, value in root.trace_tags.items():
            trace.set_tag(key, value)


def _apply_times(trace: TraceState, spans: Sequence[DecodedSpan], *, existed: bool) -> None:
    if trace.finalized:
        return
    start = min(span.start_ns for span in spans) // 1_000_000
    ends = [span.end_ns for span in spans if span.end_ns is not None]
    end = max(ends) // 1_000_000 if ends else None
    known_end = None
    if existed:
        if trace.execution_time_ms is not None:
            known_end = trace.timestamp_ms + trace.execution_time_ms
        start = min(start, trace.timestamp_ms)
    trace.timestamp_ms = start
    known = [time for time in (end, known_end) if time is not None]
    if known:
        trace.execution_time_ms = max(known) - start


def _apply_previews(trace: TraceState, root: DecodedSpan) -> None:
    if trace.request_preview is None and root.request_preview is not None:
        trace.request_preview = root.request_preview
        trace.previews_changed = True
    if trace.response_preview is None and root.response_preview is not None:
        trace.response_preview = root.response_preview
        trace.previews_changed = True


def _apply_analytics(trace: TraceState, spans: Sequence[DecodedSpan]) -> None:
    """Session, user, tokens and cost; totals are taken over the whole tree of known spans, so that
    a parent that sums up its children and arrives apart from them isn't counted twice."""
    for span in spans:
        trace.nodes[span.span_id] = (span.parent_span_id, span.usage, span.cost)
    # The first span of the request that names one speaks for all, be it with an empty name: none
    session_id = next((span.session_id for span in spans if span.session_id is not None), None)
    if session_id and trace.session_id is None:
        trace.session_id = session_id
    user_id = next((span.user_id for span in spans if span.user_id is not None), None)
    if user_id:
        trace.default_metadata.setdefault(TraceMetadataKey.TRACE_USER, user_id)
    if not trace.said_tokens and any(span.usage for span in spans):
        nodes = [SpanAggregationNode(key, up, own) for key, (up, own, _) in trace.nodes.items()]
        usage = _total(aggregate_usage_from_span_nodes, nodes)
        for key, column in TOKEN_COLUMN_BY_KEY.items():
            if (count := token_count_or_none(usage.get(key))) is not None:
                setattr(trace, column, count)
    if not trace.said_cost and any(span.cost for span in spans):
        nodes = [SpanAggregationNode(key, up, own) for key, (up, _, own) in trace.nodes.items()]
        cost = _total(aggregate_cost_from_span_nodes, nodes)
        for key, column in COST_COLUMN_BY_KEY.items():
            if (amount := finite_float_or_none(cost.get(key))) is not None:
                setattr(trace, column, amount)


def _total(
    aggregate: Callable[[list[SpanAggregationNode]], dict[str, Any] | None],
    nodes: list[SpanAggregationNode],
) -> dict[str, Any]:
    holders = [node for node in nodes if node.data is not None]
    try:
        # One holder's data is the total wherever it is in the tree; that saves walking the tree
        return aggregate(nodes if len(holders) > 1 else holders) or {}
    except TypeError:  # a span's usage or cost holds something that isn't a number
        return {}


def json_object(text: str | None) -> dict[str, Any] | None:
    """A JSON object's text as a dict; None for None."""
    return None if text is None else orjson.loads(text)
