"""Copying traces from the read model (SQLite) into its columnar mirror (DuckDB)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import duckdb
import orjson
import pyarrow as pa

from vedette.named_sql import statements

_SQL = statements("vedette.traces", "columns")
_CHUNK = 10_000  # traces copied at a time

_BIGINT, _TEXT, _DOUBLE = pa.int64(), pa.string(), pa.float64()
_SESSION = "md5_number_lower({})"  # DuckDB's hash() may be another one in its next version
# table -> its column with the trace's row id, the types of what is read, and what is written of it
_TABLES = {
    "traces": (
        "id",
        [_BIGINT] * 4 + [_TEXT] * 3 + [_BIGINT] * 5 + [_DOUBLE, _BIGINT],
        f"*, {_SESSION.format('c6')}",
    ),
    "spans": ("trace", [_BIGINT] * 5 + [_TEXT] * 5 + [_DOUBLE] * 3, "*"),
    "assessments": ("trace", [_BIGINT] * 3 + [_TEXT] * 3 + [_DOUBLE], "*"),
    "scores": (
        "trace",
        [_BIGINT] * 3
        + [_TEXT] * 2
        + [_BIGINT] * 2
        + [_DOUBLE, _TEXT, _DOUBLE, _TEXT, _DOUBLE, _TEXT],
        f"* EXCLUDE c12, {_SESSION.format('c12')}",
    ),
}
LAYOUT = 3  # of the tables in columns.sql: raise it when they change, and mirrors are filled anew


def fill(
    cursor: duckdb.DuckDBPyConnection,
    index: sqlite3.Connection,
    identity: int,
    head: int,
    go_on: Callable[[], None],
) -> int:
    """Copy everything; returns how many traces that were.

    Args:
        identity: the read model's.
        head: its last batch of changes. What changes meanwhile comes with later batches.
        go_on: called now and then; raises to give up.
    """
    cursor.execute("DELETE FROM mirror")
    for table in _TABLES:
        cursor.execute(f"TRUNCATE {table}")
    count = after = 0
    while rows := index.execute(_SQL["all_ids"], {"after": after, "count": _CHUNK}).fetchall():
        go_on()
        ids = [row[0] for row in rows]
        _copy(cursor, index, ids)
        count += len(ids)
        after = ids[-1]
    cursor.execute("INSERT INTO mirror VALUES (?, ?, ?)", (identity, head, LAYOUT))
    return count


def follow(
    cursor: duckdb.DuckDBPyConnection,
    index: sqlite3.Connection,
    after: int,
    until: int,
    go_on: Callable[[], None],
) -> int:
    """Replace the traces that changed in the batches after ``after`` up to ``until``; returns how
    many that were. Repeatable: it doesn't matter where it is given up."""
    changed = index.execute(_SQL["changed"], {"after": after, "until": until}).fetchall()
    ids = sorted(row[0] for row in changed)
    known = cursor.execute("SELECT coalesce(max(id), 0) FROM traces").fetchone()
    assert known is not None
    for start in range(0, len(ids), _CHUNK):
        go_on()
        some = ids[start : start + _CHUNK]
        cursor.execute("BEGIN")
        try:
            if old := [trace for trace in some if trace <= known[0]]:
                cursor.register("old", pa.table({"id": pa.array(old, _BIGINT)}))
                for table, (key, _, _) in _TABLES.items():
                    cursor.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT id FROM old)")
                cursor.unregister("old")
            _copy(cursor, index, some)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
    cursor.execute("UPDATE mirror SET batch = ?", (until,))
    return len(ids)


def _copy(cursor: duckdb.DuckDBPyConnection, index: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Insert these traces as the read model has them now, without those that were deleted."""
    wanted = {"ids": orjson.dumps(ids).decode()}
    for table, (_, types, written) in _TABLES.items():
        rows = index.execute(_SQL[table], wanted).fetchall()
        if rows:
            arrays = [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), types, strict=True)]
            cursor.register("rows", pa.table(arrays, names=[f"c{i}" for i in range(len(types))]))
            cursor.execute(f"INSERT INTO {table} SELECT {written} FROM rows")
            cursor.unregister("rows")
