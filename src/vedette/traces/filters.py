"""MLflow's trace filter language as SQLite conditions over the read model (``index.sql``).

MLflow's own parser reads the filter; each clause becomes a `Condition` on a row ``t`` of ``traces``
with the meaning it has in MLflow's SQL store on SQLite, odd corners included: LIKE is
case-sensitive, ``!=`` never matches what is absent, the last of several ``run_id =`` wins, and all
span clauses must hold for one and the same span.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mlflow.store.tracking.utils.trace_analytics import TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils

from vedette.traces.conditions import Condition, Sql, compare, conjunction, invalid, number
from vedette.traces.filter_clauses import (
    analytics_condition,
    assessment_condition,
    column_condition,
    entry_condition,
    issue_condition,
    prompt_condition,
    run_condition,
    session_condition,
)

# Bound by SQLite (32766); a filter that needs more is answered with an error, not a crash.
MAX_FILTER_VALUES = 30_000
# A span may begin a little before its trace says it does (clock skew): MLflow's tolerance.
SPAN_TIME_TOLERANCE_MS = 10_000

_ATTRIBUTE_COLUMNS = {
    "request_id": "t.trace_id",
    "timestamp_ms": "t.timestamp_ms",
    "execution_time_ms": "t.execution_time_ms",
    "end_time_ms": "(t.timestamp_ms + coalesce(t.execution_time_ms, 0))",
    "status": "t.status",
    "client_request_id": "t.client_request_id",
}
_SPAN_COLUMNS = {"name": "s.name", "type": "s.type", "status": "s.status"}


@dataclass(frozen=True, slots=True)
class ContentClause:
    """A comparison (LIKE, ILIKE, RLIKE, =, !=) with the JSON text of a whole span."""

    comparator: str
    pattern: str


@dataclass(frozen=True, slots=True)
class SpanFilter:
    """What one and the same span of a trace must satisfy.

    Attributes:
        columns: boolean expression over the alias ``s`` of ``spans``.
        content: comparisons with the span's content, which is not in the read model.
    """

    columns: Sql
    content: tuple[ContentClause, ...]


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """A compiled filter: all conditions must hold, and ``spans`` too when it is there.

    Attributes:
        conditions: on traces; those on spans' columns are among them.
        spans: set only when span content is compared.
        span_values: what a column of ``spans`` must equal one of, in the span looked for.
        on_annotations: tags or assessments are compared, which may come after the trace.
    """

    conditions: tuple[Condition, ...] = ()
    spans: SpanFilter | None = None
    span_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_annotations: bool = False

    def where(self) -> Sql:
        """The conjunction of all conditions (``1`` when there are none)."""
        return conjunction([condition.sql for condition in self.conditions])


@lru_cache(maxsize=256)
def _parse(filter_string: str) -> tuple[tuple[str, str, Any, str], ...]:
    return tuple(
        (clause["type"], clause["key"], clause.get("value"), clause["comparator"].upper())
        for clause in SearchTraceUtils.parse_search_filter_for_search_traces(filter_string)
    )


def compile_filter(filter_string: str | None, experiment_ids: Sequence[int] | None) -> TraceFilter:
    """Compile a filter string.

    Args:
        filter_string: in the language of ``mlflow.search_traces``; None or empty matches all.
        experiment_ids: the experiments searched; None for all. Needed because an assessment of a
            session covers the session's traces in these experiments.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, the filter is not valid.
    """
    if not filter_string:
        return TraceFilter()
    compiler = _Compiler(experiment_ids)
    try:
        clauses = _parse(filter_string)
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise invalid(
            "The filter can't be read: a number in it has too many digits, or its brackets are "
            "nested too deep."
        ) from error
    for key_type, key, value, comparator in clauses:
        compiler.add(key_type, key, value, comparator)
    return compiler.result()


@dataclass
class _Compiler:
    """Collects the clauses of one filter."""

    experiment_ids: Sequence[int] | None
    conditions: list[Condition] = field(default_factory=list)
    span_columns: list[Sql] = field(default_factory=list)
    span_content: list[ContentClause] = field(default_factory=list)
    span_values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    has_span_clause: bool = False
    on_annotations: bool = False
    run_id: str | None = None
    started_after_ms: float | None = None

    def add(self, key_type: str, key: str, value: Any, comparator: str) -> None:
        # The order of these checks is MLflow's: it decides which error a bad clause gets.
        if SearchTraceUtils.is_issue(key_type, key, comparator):
            self.on_annotations = True
            self.conditions.append(issue_condition(value))
        elif SearchTraceUtils.is_attribute(key_type, key, comparator):
            self._attribute(key, value, comparator)
        elif SearchTraceUtils.is_tag(key_type, comparator):
            self.on_annotations = True
            self._tag(key, value, comparator)
        elif SearchTraceUtils.is_request_metadata(key_type, comparator):
            self._metadata(key, value, comparator)
        elif SearchTraceUtils.is_span(key_type, key, comparator):
            self._span(key, value, comparator)
        elif SearchTraceUtils.is_assessment(key_type, key, comparator):
            self.on_annotations = True
            self.conditions.append(
                assessment_condition(key_type, key, value, comparator, self.experiment_ids)
            )
        else:
            raise invalid(f"Invalid search expression type '{key_type}'")

    def _attribute(self, key: str, value: Any, comparator: str) -> None:
        if key == "timestamp_ms" and comparator in (">", ">="):
            # Text compares above all numbers here: it bounds no span.
            bound = value if isinstance(value, int | float) else None
            if bound is not None and bound > (self.started_after_ms or -math.inf):
                self.started_after_ms = bound
        sql = compare(_ATTRIBUTE_COLUMNS[key], comparator, value)
        if key == "request_id" and comparator in ("=", "IN"):
            found = compare("trace_id", comparator, value)
            candidates = Sql(f"SELECT id AS trace FROM traces WHERE {found.text}", found.params)
            self.conditions.append(Condition(sql, candidates, indexed=True))
        else:
            self.conditions.append(Condition(sql))

    def _tag(self, key: str, value: Any, comparator: str) -> None:
        if key == TraceTagKey.TRACE_NAME:
            self.conditions.append(column_condition("t.trace_name", value, comparator))
        elif key == TraceTagKey.LINKED_PROMPTS:
            self.conditions.append(prompt_condition(value, comparator))
        else:
            self.conditions.append(entry_condition("trace_tags", key, value, comparator))

    def _metadata(self, key: str, value: Any, comparator: str) -> None:
        if key == TraceMetadataKey.TRACE_SESSION:
            self.conditions.append(session_condition(value, comparator))
        elif key in TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY:
            self.conditions.append(Condition(analytics_condition(key, comparator, value)))
        elif key == TraceMetadataKey.SOURCE_RUN and comparator == "=":
            (self.run_id,) = compare("r.run_id", comparator, value).params
        else:
            self.conditions.append(entry_condition("trace_metadata", key, value, comparator))

    def _span(self, key: str, value: Any, comparator: str) -> None:
        self.has_span_clause = True
        if key.startswith("attributes."):
            self.span_content.append(_attribute_pattern(key, value, comparator))
        elif key == "content":
            self.span_content.append(ContentClause(comparator, value))
        else:
            sql = compare(_SPAN_COLUMNS[key], comparator, value)
            self.span_columns.append(sql)
            if comparator in ("=", "IN"):
                self.span_values[key] = sql.params

    def result(self) -> TraceFilter:
        if self.run_id:
            self.conditions.append(run_condition(self.run_id))
        spans = None
        if self.has_span_clause:
            if self.started_after_ms is not None:
                bound = (self.started_after_ms - SPAN_TIME_TOLERANCE_MS) * 1_000_000
                self.span_columns.append(Sql("s.start_ns >= ?", (number(bound),)))
            columns = conjunction(self.span_columns)
            exists = f"EXISTS (SELECT 1 FROM spans s WHERE s.trace = t.id AND {columns.text})"
            self.conditions.append(Condition(Sql(exists, columns.params)))
            if self.span_content:
                spans = SpanFilter(columns, tuple(self.span_content))
        if sum(len(condition.sql.params) for condition in self.conditions) > MAX_FILTER_VALUES:
            raise invalid(f"The filter compares with more than {MAX_FILTER_VALUES} values.")
        return TraceFilter(tuple(self.conditions), spans, self.span_values, self.on_annotations)


def _attribute_pattern(key: str, value: Any, comparator: str) -> ContentClause:
    """``span.attributes.name``: a pattern over the span's JSON, where values are JSON in JSON."""
    if comparator in ("IN", "NOT IN") or (comparator == "RLIKE" and not isinstance(value, str)):
        raise invalid(f"span.{key} is compared with one pattern, not with a list.")
    name = key[len("attributes.") :]
    if len(name) >= 2 and name.startswith("`") and name.endswith("`"):
        name = name[1:-1]
    if comparator != "RLIKE":
        return ContentClause(comparator, f'%"{name}"{value}%')
    start = '"\\\\"' if value.startswith("^") else '"\\\\".*'
    end = '\\\\"' if value.endswith("$") else ""
    body = value.removeprefix("^").removesuffix("$")
    return ContentClause(comparator, f'"{name}": {start}{body}{end}')
