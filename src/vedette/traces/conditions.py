"""Conditions on traces: pieces of SQLite SQL over the read model, with what indexes say of them."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException

from vedette.traces.patterns import matches


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


def conjunction(terms: Sequence[Sql]) -> Sql:
    """All terms joined by AND; true when there are none."""
    if not terms:
        return Sql("1")
    text = " AND ".join(f"({term.text})" for term in terms)
    return Sql(text, tuple(param for term in terms for param in term.params))


def in_list(column: str, values: Sequence[Any]) -> Sql:
    """``column IN (values)``; false when there are none."""
    return Sql(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))


def among(trace_ids: Iterable[str]) -> Condition:
    """One of these traces."""
    values = (json.dumps(list(trace_ids)),)
    return Condition(
        Sql("t.trace_id IN (SELECT value FROM json_each(?))", values),
        Sql(
            "SELECT n.id AS trace FROM json_each(?) w CROSS JOIN traces n ON n.trace_id = w.value",
            values,
        ),
        indexed=True,
    )


def among_rows(rows: Iterable[int]) -> Condition:
    """One of these traces, given by row id (``traces.id``)."""
    values = (json.dumps(list(rows)),)
    return Condition(
        Sql("t.id IN (SELECT value FROM json_each(?))", values),
        Sql("SELECT value AS trace FROM json_each(?)", values),
        indexed=True,
    )


def prepare(connection: sqlite3.Connection) -> None:
    """Give a connection what compiled filters need: case-sensitive LIKE and REGEXP. Idempotent."""
    try:
        connection.execute("SELECT regexp('', '')")
    except sqlite3.OperationalError:
        connection.execute("PRAGMA case_sensitive_like = true")
        connection.create_function("regexp", 2, matches)


def invalid(message: str) -> MlflowException:
    """An error that the caller of the API made."""
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error


def number(value: Any) -> Any:
    """A value as SQLite takes it: whole numbers beyond 64 bits as floats.

    These compare as they should with all that a column holds.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        largest = sys.float_info.max
        return float(max(-largest, min(value, largest)))
    return value


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
    return Sql(f"{column} {'REGEXP' if comparator == 'RLIKE' else comparator} ?", (number(value),))
