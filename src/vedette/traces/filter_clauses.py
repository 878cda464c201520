"""What each kind of filter clause asks of a trace, as MLflow's SQL store on SQLite has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mlflow.store.tracking.utils.trace_analytics import (
    TRACE_ANALYTICS_COLUMNS_BY_METADATA_KEY,
    finite_float_or_none,
    token_count_or_none,
)
from mlflow.tracing.constant import TraceMetadataKey

from vedette.traces.conditions import Condition, Sql, compare, conjunction, in_list, invalid, number

_NULL_CHECKS = ("IS NULL", "IS NOT NULL")
_SESSION_SCOPED = f"instr(a.assessment_metadata, '\"{TraceMetadataKey.TRACE_SESSION}\":') > 0"


def column_condition(column: str, value: Any, comparator: str) -> Condition:
    """A column that may be null, such as the trace's name."""
    if comparator in _NULL_CHECKS:
        return Condition(Sql(f"{column} {comparator}"))
    return Condition(compare(column, comparator, value))


def session_condition(value: Any, comparator: str) -> Condition:
    """The session's id: metadata to users, a column here."""
    condition = column_condition("t.session_id", value, comparator)
    if comparator != "=":
        return condition
    candidates = Sql("SELECT id AS trace FROM traces WHERE session_id = ?", (value,))
    return Condition(condition.sql, candidates, indexed=True)


def entry_condition(table: str, key: str, value: Any, comparator: str) -> Condition:
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


def run_condition(run_id: str) -> Condition:
    """A trace of the run: by its metadata, or linked later."""
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


def prompt_condition(value: Any, comparator: str) -> Condition:
    """A prompt version, ``name/version``, linked to the trace."""
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


def issue_condition(value: Any) -> Condition:
    """An issue, by its id, that the trace refers to."""
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


def assessment_condition(
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
        Sql(f"{alias}.{column} = ?", (number(numbers[item]),))
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
