"""Queries over the lake: translated, given a snapshot to read, run in a sandbox."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from vedette.lake.sql.dialect import Translation, translate
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.formats import from_arrow
from vedette.lake.sql.names import TABLES, VIEWS
from vedette.lake.sql.pool import Pool
from vedette.lake.sql.snapshot import Snapshots
from vedette.lake.sql.views import view_query
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake

DEFAULT_ROWS, MOST_ROWS = 10_000, 1_000_000
DEFAULT_SECONDS, MOST_SECONDS = 30.0, 300.0
_AT_ONCE = 2
_ATTEMPTS = 3


class Answer(NamedTuple):
    """A query's result.

    Attributes:
        table: its rows; instants in UTC.
        truncated: there are more rows than were asked for.
        milliseconds: how long it ran.
    """

    table: pa.Table
    truncated: bool
    milliseconds: float


class SqlEngine:
    """Runs queries; for any number of threads, of which two get their turn at the same time."""

    def __init__(self, lake: Lake) -> None:
        self._snapshots = Snapshots(lake)
        self._pool = Pool(_AT_ONCE)

    def run(
        self,
        text: str,
        *,
        dialect: str = "databricks",
        max_rows: int = DEFAULT_ROWS,
        seconds: float = DEFAULT_SECONDS,
    ) -> Answer:
        """Run one query on the newest version of the tables.

        Args:
            dialect: ``databricks`` or ``duckdb``.
            max_rows: of the result; at most 1,000,000.
            seconds: how long it may take; at most 300.

        Raises:
            QueryRefused: it is wrong, may not be run, or took too much time or memory.
            SqlBusy: too many queries are running.
            LakeUnavailable: the lake can't be read now.
        """
        _require_limit("max_rows", max_rows, MOST_ROWS)
        _require_limit("seconds", seconds, MOST_SECONDS)
        query = translate(text, dialect)
        views = {name: _view(name) for name in query.names if name in VIEWS}
        names = query.names.union(*(view.names for view in views.values())) & TABLES.keys()
        for _ in range(_ATTEMPTS):
            try:
                files = self._snapshots.take(names)
            except FileNotFoundError:
                continue  # compacted and removed between the look at the log and the fetch
            request = {
                "sql": query.sql,
                "files": files.paths,
                "partitioned": files.partitioned,
                "views": {name: view.sql for name, view in views.items()},
                "max_rows": max_rows,
            }
            outcome = self._pool.run(request, files.directories, seconds)
            if outcome.result is not None:
                table = _with_integers(from_arrow(outcome.result))
                return Answer(table, outcome.truncated, outcome.milliseconds)
        raise LakeUnavailable("files of the lake are not where its log says")

    def close(self) -> None:
        """End the processes that queries run in."""
        self._pool.close()


@lru_cache
def _view(name: str) -> Translation:
    return translate(view_query(name), "databricks")


def _with_integers(table: pa.Table) -> pa.Table:
    """Sums of integers as integers where they fit: DuckDB has them as decimals of 38 digits."""
    for index, field in enumerate(table.schema):
        if field.type == pa.decimal128(38, 0):
            with suppress(pa.ArrowInvalid):
                column = table.column(index).cast(pa.int64())
                table = table.set_column(index, field.with_type(pa.int64()), column)
    return table


def _require_limit(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise QueryRefused(f"{name} is {value!r}, not a number from 1 to {most:,.0f}")
