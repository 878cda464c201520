"""MLflow's trace filter language as SQLite conditions over the read model (``index.sql``).

MLflow's own parser reads the filter; each clause becomes a `Condition` on a row ``t`` of ``traces``
with the meaning it has in MLflow's SQL store on SQLite, odd corners included: LIKE is
case-sensitive, ``!=`` never matches what is absent, the last of several ``run_id =`` wins, and all
span clauses must hold for one and the same span.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.utils.trace_analytics import (
    TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY,
    finite_float_or_none,
    token_count_or_none,
)
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils

# Bound by SQLite (32766); a filter that needs more is answered with an error, not a crash.
MAX_FILTER_VALUES = 30_000
# A span may begin a little before its trace says it does (clock skew): MLflow's tolerance.
SPAN_TIME_TOLERANCE_MS = 10_000

_NULL_CHECKS = ("IS NULL", "IS NOT NULL")
_SESSION_SCOPED = f"instr(a.assessment_metadata, '\"{TraceMetadataKey.TRACE_SESSION}\":') > 0"
_ATTRIBUTE_COLUMNS = {
    "request_id": "t.trace_id",
    "timestamp_ms": "t.timestamp_ms",
    "execution_time_ms": "t.execution_time_ms",
    "end_time_ms": "(t.timestamp_ms + coalesce(t.execution_time_ms, 0))",
    "status": "t.status",
    "client_request_id": "t.client_request_id",
}
_SPAN_COLUMNS = {"name": "s.name", "type": "s.type", "status": "s.status"}


class Sql(NamedTuple):
    """A piece of SQL and the values of its placeholders, in order."""

    text: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """What one clause asks of a trace.

    Attributes:
        sql: a boolean expression over the alias ``t`` of ``traces``.
        candidates: a query for the ids (``traces.id``, as ``trace``) of exactly the traces for
            which it holds, each once; None when only a look at each trace can tell.
        indexed: the first n candidates cost about n index entries (an equality).
    """

    sql: Sql
    candidates: Sql | None = None
    indexed: bool = False


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

    ``spans`` is set only when span content is compared; its part on columns is then among the
    conditions as well, as a necessary one.
    """

    conditions: tuple[Condition, ...] = ()
    spans: SpanFilter | None = None

    def where(self) -> Sql:
        """The conjunction of all conditions (``1`` when there are none)."""
        return conjunction([condition.sql for condition in self.conditions])


def conjunction(terms: Sequence[Sql]) -> Sql:
    """All terms joined by AND; true when there are none."""
    if not terms:
        return Sql("1")
    text = " AND ".join(f"({term.text})" for term in terms)
    return Sql(text, tuple(param for term in terms for param in term.params))


def in_list(column: str, values: Sequence[Any]) -> Sql:
    """``column IN (values)``; false when there are none."""
    return Sql(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))


def prepare(connection: sqlite3.Connection) -> None:
    """Give a connection what compiled filters need: case-sensitive LIKE and REGEXP. Idempotent."""
    try:
        connection.execute("SELECT regexp('', '')")
    except sqlite3.OperationalError:
        connection.execute("PRAGMA case_sensitive_like = true")
        connection.create_function("regexp", 2, _regexp)


def _regexp(pattern: str | None, string: str | None) -> bool:
    if string is None or pattern is None:
        return False
    try:
        return re.search(pattern, string) is not None
    except re.error:
        return False


def invalid(message: str) -> MlflowException:
    """An error that the caller of the API made."""
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error


def compare(column: str, comparator: str, value: Any) -> Sql:
    """``column comparator value`` as MLflow's SQLite dialect has it.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, a list where one value belongs or the reverse.
    """
    if comparator in ("IN", "NOT IN"):
        if isinstance(value, str):
            raise invalid(f"'{comparator}' needs a list of quoted values, got '{value}'")
        values = in_list(column, tuple(value))
        return values if comparator == "IN" else Sql(f"NOT ({values.text})", values.params)
    if isinstance(value, tuple | list):
        raise invalid(f"'{comparator}' compares with one value, got the list {tuple(value)}")
    if comparator == "ILIKE":
        return Sql(f"lower({column}) LIKE lower(?)", (value,))
    return Sql(f"{column} {'REGEXP' if comparator == 'RLIKE' else comparator} ?", (value,))


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
    for key_type, key, value, comparator in _parse(filter_string):
        compiler.add(key_type, key, value, comparator)
    return compiler.result()


@dataclass
class _Compiler:
    """Collects the clauses of one filter."""

    experiment_ids: Sequence[int] | None
    conditions: list[Condition] = field(default_factory=list)
    span_columns: list[Sql] = field(default_factory=list)
    span_content: list[ContentClause] = field(default_factory=list)
    has_span_clause: bool = False
    run_id: str | None = None
    started_after_ms: float | None = None

    def add(self, key_type: str, key: str, value: Any, comparator: str) -> None:
        # The order of these checks is MLflow's: it decides which error a bad clause gets.
        if SearchTraceUtils.is_issue(key_type, key, comparator):
            self.conditions.append(_issue(value))
        elif SearchTraceUtils.is_attribute(key_type, key, comparator):
            self._attribute(key, value, comparator)
        elif SearchTraceUtils.is_tag(key_type, comparator):
            self._tag(key, value, comparator)
        elif SearchTraceUtils.is_request_metadata(key_type, comparator):
            self._metadata(key, value, comparator)
        elif SearchTraceUtils.is_span(key_type, key, comparator):
            self._span(key, value, comparator)
        elif SearchTraceUtils.is_assessment(key_type, key, comparator):
            self.conditions.append(
                _assessment(key_type, key, value, comparator, self.experiment_ids)
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
            self.conditions.append(_column("t.trace_name", value, comparator))
        elif key == TraceTagKey.LINKED_PROMPTS:
            self.conditions.append(_prompt(value, comparator))
        else:
            self.conditions.append(_entry("trace_tags", key, value, comparator))

    def _metadata(self, key: str, value: Any, comparator: str) -> None:
        if key == TraceMetadataKey.TRACE_SESSION:
            self.conditions.append(_session(value, comparator))
        elif key in TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY:
            self.conditions.append(Condition(analytics_condition(key, comparator, value)))
        elif key == TraceMetadataKey.SOURCE_RUN and comparator == "=":
            (self.run_id,) = compare("r.run_id", comparator, value).params
        else:
            self.conditions.append(_entry("trace_metadata", key, value, comparator))

    def _span(self, key: str, value: Any, comparator: str) -> None:
        self.has_span_clause = True
        if key.startswith("attributes."):
            self.span_content.append(_attribute_pattern(key, value, comparator))
        elif key == "content":
            self.span_content.append(ContentClause(comparator, value))
        else:
            self.span_columns.append(compare(_SPAN_COLUMNS[key], comparator, value))

    def result(self) -> TraceFilter:
        if self.run_id:
            self.conditions.append(_run(self.run_id))
        spans = None
        if self.has_span_clause:
            if self.started_after_ms is not None:
                bound = (self.started_after_ms - SPAN_TIME_TOLERANCE_MS) * 1_000_000
                self.span_columns.append(Sql("s.start_ns >= ?", (bound,)))
            columns = conjunction(self.span_columns)
            exists = f"EXISTS (SELECT 1 FROM spans s WHERE s.trace = t.id AND {columns.text})"
            self.conditions.append(Condition(Sql(exists, columns.params)))
            if self.span_content:
                spans = SpanFilter(columns, tuple(self.span_content))
        if sum(len(condition.sql.params) for condition in self.conditions) > MAX_FILTER_VALUES:
            raise invalid(f"The filter compares with more than {MAX_FILTER_VALUES} values.")
        return TraceFilter(tuple(self.conditions), spans)


def _column(column: str, value: Any, comparator: str) -> Condition:
    if comparator in _NULL_CHECKS:
        return Condition(Sql(f"{column} {comparator}"))
    return Condition(compare(column, comparator, value))


def _session(value: Any, comparator: str) -> Condition:
    condition = _column("t.session_id", value, comparator)
    if comparator != "=":
        return condition
    candidates = Sql("SELECT id AS trace FROM traces WHERE session_id = ?", (value,))
    return Condition(condition.sql, candidates, indexed=True)


def _entry(table: str, key: str, value: Any, comparator: str) -> Condition:
    """A tag or metadata entry; its key and value lie in the index (key, value, trace)."""
    if comparator in _NULL_CHECKS:
        exists = Sql(f"EXISTS (SELECT 1 FROM {table} e WHERE e.trace = t.id AND e.key = ?)", (key,))
        if comparator == "IS NULL":
            return Condition(Sql(f"NOT {exists.text}", exists.params))
        return Condition(exists, Sql(f"SELECT trace FROM {table} WHERE key = ?", (key,)), True)
    holds = compare("e.value", comparator, value)
    params = (key, *holds.params)
    return Condition(
        Sql(
            f"EXISTS (SELECT 1 FROM {table} e WHERE e.trace = t.id AND e.key = ? AND {holds.text})",
            params,
        ),
        Sql(f"SELECT e.trace FROM {table} e WHERE e.key = ? AND {holds.text}", params),
        indexed=comparator == "=",
    )


def _run(run_id: str) -> Condition:
    params = (run_id, TraceMetadataKey.SOURCE_RUN, run_id)
    return Condition(
        Sql(
            "EXISTS (SELECT 1 FROM run_links r WHERE r.trace_id = t.trace_id AND r.run_id = ?)"
            " OR EXISTS (SELECT 1 FROM trace_metadata e"
            " WHERE e.trace = t.id AND e.key = ? AND e.value = ?)",
            params,
        ),
        Sql(
            "SELECT l.id AS trace FROM run_links r JOIN traces l ON l.trace_id = r.trace_id"
            " WHERE r.run_id = ?"
            " UNION SELECT trace FROM trace_metadata WHERE key = ? AND value = ?",
            params,
        ),
        # Both halves are index equalities, but UNION collects all before it gives the first.
        indexed=True,
    )


def _prompt(value: Any, comparator: str) -> Condition:
    if comparator != "=":
        raise invalid(
            f"Invalid comparator '{comparator}' for prompts filter. "
            "Only '=' is supported with format: prompt = \"name/version\""
        )
    if value.count("/") != 1:
        raise invalid(
            f"Invalid prompts filter value '{value}'. Expected format: prompt = \"name/version\""
        )
    return Condition(
        Sql(
            "EXISTS (SELECT 1 FROM prompt_links l WHERE l.trace_id = t.trace_id AND l.prompt = ?)",
            (value,),
        ),
        Sql(
            "SELECT x.id AS trace FROM prompt_links l JOIN traces x ON x.trace_id = l.trace_id"
            " WHERE l.prompt = ?",
            (value,),
        ),
        indexed=True,
    )


def _issue(value: Any) -> Condition:
    holds = Sql("a.assessment_type = 'issue' AND a.name = ?", (value,))
    return Condition(
        Sql(
            "EXISTS (SELECT 1 FROM assessments a INDEXED BY assessments_by_trace"
            f" WHERE a.trace = t.id AND {holds.text})",
            holds.params,
        ),
        Sql(f"SELECT DISTINCT a.trace FROM assessments a WHERE {holds.text}", holds.params),
        indexed=True,
    )


def _assessment(
    kind: str, name: str, value: Any, comparator: str, experiment_ids: Sequence[int] | None
) -> Condition:
    """A valid assessment on the trace, or one on its session (then on any trace of it)."""
    terms = [Sql("a.assessment_type = ? AND a.name = ? AND a.valid = 1", (kind, name))]
    if comparator in ("<", "<=", ">", ">="):
        terms.append(Sql("a.is_numeric_value = 1"))
        terms.append(compare("a.aggregate_value", comparator, value))
    elif comparator in ("=", "!="):
        # Values are JSON: true and 5 stand bare, a string stands in quotes.
        equal = "a.value = ? OR a.value = ?"
        text = equal if comparator == "=" else f"NOT ({equal})"
        terms.append(Sql(text, (value, json.dumps(value))))
    elif comparator not in _NULL_CHECKS:
        terms.append(compare("a.value", comparator, value))
    holds = conjunction(terms)
    own = (
        "EXISTS (SELECT 1 FROM assessments a INDEXED BY assessments_by_trace"
        f" WHERE a.trace = t.id AND {holds.text})"
    )
    scope = Sql("1") if experiment_ids is None else in_list("x.experiment_id", experiment_ids)
    sessions = Sql(
        "SELECT x.session_id FROM assessments a INDEXED BY assessments_of_sessions"
        " CROSS JOIN traces x ON x.id = a.trace"
        f" WHERE x.session_id IS NOT NULL AND {scope.text} AND {holds.text} AND {_SESSION_SCOPED}",
        (*scope.params, *holds.params),
    )
    if comparator == "IS NULL":
        others = f"t.session_id IS NULL OR t.session_id NOT IN ({sessions.text})"
        return Condition(
            Sql(f"NOT {own} AND ({others})", (*holds.params, *sessions.params)),
        )
    return Condition(
        Sql(
            f"{own} OR t.session_id IN ({sessions.text})",
            (*holds.params, *sessions.params),
        ),
        Sql(
            f"SELECT a.trace FROM assessments a WHERE {holds.text}"
            f" UNION SELECT y.id FROM traces y WHERE y.session_id IN ({sessions.text})",
            (*holds.params, *sessions.params),
        ),
    )


def analytics_condition(key: str, comparator: str, value: str | None, alias: str = "t") -> Sql:
    """Token usage or cost as metadata: kept in columns, compared as the JSON made of them.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, a comparator other than =, != and null checks.
    """
    columns = TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY[key]
    exists = " OR ".join(f"{alias}.{column} IS NOT NULL" for column in columns.values())
    if comparator == "IS NULL":
        return Sql(f"NOT ({exists})")
    if comparator == "IS NOT NULL":
        return Sql(exists)
    if comparator not in ("=", "!="):
        raise invalid(
            f"Comparator '{comparator}' is not supported for reserved metadata '{key}'. "
            "Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported."
        )
    numbers = _canonical_numbers(key, columns, value)
    if numbers is None:
        return Sql("0") if comparator == "=" else Sql(exists)
    terms = [
        Sql(f"{alias}.{column} = ?", (numbers[item],))
        if item in numbers
        else Sql(f"{alias}.{column} IS NULL")
        for item, column in columns.items()
    ]
    equal = conjunction(terms)
    if comparator == "=":
        return equal
    # An absent column makes `= ?` null; coalesced so that the negation is true there.
    return Sql(f"({exists}) AND NOT coalesce({equal.text}, 0)", equal.params)


def _canonical_numbers(
    key: str, columns: dict[str, str], value: str | None
) -> dict[str, float | int] | None:
    """The numbers in ``value`` if it is exactly the JSON text that MLflow makes of them."""
    try:
        parsed = json.loads(value) if value is not None else None
    except ValueError:
        return None
    if not isinstance(parsed, dict) or not set(parsed) <= set(columns):
        return None
    convert: Callable[[Any], float | int | None] = (
        token_count_or_none if key == TraceMetadataKey.TOKEN_USAGE else finite_float_or_none
    )
    numbers = {
        item: number for item in columns if (number := convert(parsed.get(item))) is not None
    }
    return numbers if numbers and value == json.dumps(numbers) else None


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
