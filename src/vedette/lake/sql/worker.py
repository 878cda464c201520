"""A process that runs queries, one after the other: ``python -m vedette.lake.sql.worker``.

It is given a question (JSON), translates it, answers which tables it reads, is given their files
(those of a snapshot), and answers with an outcome (JSON) and, if there is one, the result as bytes.
All of it is done here, in a process that can be stopped: translating some texts takes forever, and
making JSON of a large result takes long. See `vedette.lake.sql.sandbox` for what keeps queries from
anything else, and `vedette.lake.sql.pool` for the other side.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa

from vedette.lake.location import DEFAULT, Location
from vedette.lake.schemas import PARTITION
from vedette.lake.sql.dialect import DIALECTS, translate
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.formats import to_arrow, to_json
from vedette.lake.sql.names import TABLES, TABLES_SCHEMA, VIEWS, names_in
from vedette.lake.sql.sandbox import Guard, held_memory, open_database, restrict_process
from vedette.lake.sql.views import view_query

IDLE_SECONDS = 120.0  # without a query, after which it ends: it holds some 100 MB
MOST_BYTES = 64 << 20  # of a result

_BATCH_ROWS = 2048
_TOO_LARGE = f"the result is larger than {MOST_BYTES >> 20} MiB; select fewer columns, or aggregate"
_MEMORY_KEPT = 384 << 20
# DuckDB keeps what files' footers say, about so much of each
_CACHED_BYTES_PER_FILE = 64 << 10
_CACHED_BYTES = 128 << 20
# Removed by compaction meanwhile; or the first file of a table, in a directory we don't know yet
_OUT_OF_REACH = ("IO Error", "Permission Error")
_OUT_OF_MEMORY = ("Out of Memory Error", "Memory Error", "malloc of size", "std::bad_alloc")
_PARENT_POLL_SECONDS = 1.0


class Question(NamedTuple):
    """What is asked.

    Attributes:
        text: the query.
        dialect: ``databricks`` or ``duckdb``.
        form: of the result: ``arrow`` (a stream) or ``json``.
        max_rows: how many rows are wanted; one more is looked for.
        locations: that there are, besides the one by default.
    """

    text: str
    dialect: str
    form: str
    max_rows: int
    locations: Sequence[str] = ()


class Query(NamedTuple):
    """What is to be run.

    Attributes:
        sql: in DuckDB's dialect, with the lake's tables in the schema ``lake``, by their keys.
        views: of each view that is read, its query.
        reads: the tables that are read, also by the views; of each its name by default.
    """

    sql: str
    views: dict[str, str]
    reads: dict[str, str]


class Files(NamedTuple):
    """The files of one version of the tables.

    Attributes:
        paths: local paths, by the table's key.
        partitioned: they lie in directories named after their partitions.
    """

    paths: dict[str, list[str]]
    partitioned: bool


class Result(NamedTuple):
    """Rows, as bytes.

    Attributes:
        content: in the form that was asked for.
        truncated: there are more rows.
        milliseconds: how long it took.
    """

    content: bytes
    truncated: bool
    milliseconds: float


def translated(question: Question) -> Query:
    """The query for DuckDB.

    Raises:
        QueryRefused: it can't be translated; the message says why.
    """
    locations = (DEFAULT, *map(Location.parse, question.locations))
    known = names_in(locations)
    query = translate(question.text, question.dialect, locations)
    views = {
        key: translate(view_query(known[key].name, known[key].location), locations=locations)
        for key in query.names
        if known[key].name in VIEWS
    }
    names = query.names.union(*(view.names for view in views.values())) - views.keys()
    reads = {key: known[key].name for key in names}
    return Query(query.sql, {key: view.sql for key, view in views.items()}, reads)


class Worker:
    """Runs queries in a database of its own."""

    def __init__(self, readable: Sequence[Path]) -> None:
        self._database = open_database(readable)
        self._guard = Guard(self._database)
        self._empty()
        self._seen: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether it holds so much memory that another one should take over."""
        cached = len(self._seen) * _CACHED_BYTES_PER_FILE
        return cached > _CACHED_BYTES or held_memory() > _MEMORY_KEPT

    def run(self, query: Query, files: Files, question: Question) -> Result:
        """Run a query on the files.

        Raises:
            QueryRefused: it may not be run, or is wrong; the message says why.
            FileNotFoundError: a file of the snapshot is gone.
            MemoryError: it took too much.
        """
        began = time.monotonic()
        self._guard.require_harmless(query.sql, {*query.reads, *query.views})
        try:
            self._show(query, files)
            table, truncated = self._rows(query.sql, question.max_rows)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # By its text: an error that comes while the result is read is one of Arrow's
            text = _told(error)
            if text.startswith(_OUT_OF_MEMORY):
                raise MemoryError from error
            if text.startswith(_OUT_OF_REACH):
                raise FileNotFoundError(text) from error
            raise QueryRefused(text) from error
        milliseconds = round((time.monotonic() - began) * 1000, 1)
        if question.form == "arrow":
            content = to_arrow(table)
        else:
            content = to_json(table, {"truncated": truncated, "milliseconds": milliseconds})
        if len(content) > MOST_BYTES:
            raise QueryRefused(_TOO_LARGE)
        return Result(content, truncated, milliseconds)

    def _empty(self) -> None:
        """A table without rows stands for each of which there are no files."""
        for name, spec in TABLES.items():
            self._database.register("empty", spec.schema.empty_table())
            self._database.execute(f"CREATE TABLE {TABLES_SCHEMA}.no_{name} AS SELECT * FROM empty")
            self._database.unregister("empty")

    def _show(self, query: Query, files: Files) -> None:
        for key, name in query.reads.items():
            source = f"{TABLES_SCHEMA}.no_{name}"
            if paths := files.paths.get(key):
                source = _source(paths, files.partitioned)
                self._seen.update(paths)
            columns = ", ".join(f'"{column}"' for column in TABLES[name].schema.names)
            self._view(key, f"SELECT {columns} FROM {source}")
        for key, sql in query.views.items():
            self._view(key, sql)

    def _view(self, key: str, query: str) -> None:
        self._database.execute(f'CREATE OR REPLACE VIEW {TABLES_SCHEMA}."{key}" AS {query}')

    def _rows(self, sql: str, most: int) -> tuple[pa.Table, bool]:
        reader = self._database.sql(sql).to_arrow_reader(_BATCH_ROWS)
        batches, size, left, truncated = [], 0, most, False
        for batch in reader:
            truncated = batch.num_rows > left
            batches.append(batch.slice(0, left))
            left -= batches[-1].num_rows
            size += batches[-1].nbytes
            if size > MOST_BYTES:
                raise QueryRefused(_TOO_LARGE)
            if truncated:
                break
        return _with_integers(pa.Table.from_batches(batches, reader.schema)), truncated


def _with_integers(table: pa.Table) -> pa.Table:
    """Sums of integers as integers where they fit: DuckDB has them as decimals of 38 digits."""
    for index, field in enumerate(table.schema):
        if field.type == pa.decimal128(38, 0):
            with suppress(pa.ArrowInvalid):
                column = table.column(index).cast(pa.int64())
                table = table.set_column(index, field.with_type(pa.int64()), column)
    return table


def _source(paths: Sequence[str], partitioned: bool) -> str:
    """The files as DuckDB reads them, with the partition's column, which isn't in them."""
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    if partitioned:
        kind = f"hive_partitioning = true, hive_types = {{'{PARTITION}': DATE}}"
        return f"read_parquet([{listed}], {kind})"
    day = f"CAST(received_at AS DATE) AS {PARTITION}"
    return f"(SELECT *, {day} FROM read_parquet([{listed}], hive_partitioning = false))"


def _told(error: Exception) -> str:
    """DuckDB's message, without the lines that show where in its text the error is."""
    return str(error).split("\nLINE ", 1)[0].strip()


def serve(connection: Connection, worker: Worker) -> int:
    """Answer until the other side is gone, or nothing comes for long; returns the exit code."""
    while connection.poll(IDLE_SECONDS):
        question = Question(**orjson.loads(connection.recv_bytes()))
        outcome: dict[str, Any] = {}
        try:
            query = translated(question)
            connection.send_bytes(orjson.dumps({"reads": sorted(query.reads)}))
            files = Files(**orjson.loads(connection.recv_bytes()))
            result = worker.run(query, files, question)
            outcome["truncated"] = result.truncated
            outcome["milliseconds"] = result.milliseconds
        except QueryRefused as error:
            outcome["refused"] = str(error)
        except FileNotFoundError as error:
            outcome["vanished"] = str(error)
        except (MemoryError, RecursionError):
            outcome["memory"] = True
        outcome["last"] = worker.is_full or "memory" in outcome
        connection.send_bytes(orjson.dumps(outcome))
        if "truncated" in outcome:
            connection.send_bytes(result.content)
        if outcome["last"]:
            break
    return 0


def _end_with(parent: int) -> None:
    """Not the kernel's signal for that: it comes when the parent's thread that started us ends."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(0)


def main() -> None:
    """Serve on the descriptor that the command line names; the rest of it: directories to read."""
    descriptor, parent, *places = sys.argv[1:]
    threading.Thread(target=_end_with, args=[int(parent)], daemon=True).start()
    readable = [Path(place) for place in places]
    for dialect in DIALECTS:  # what sqlglot loads when it is first used
        translated(Question(f"SELECT * FROM {VIEWS[0]}", dialect, "json", 1))
    missing = restrict_process(readable)
    connection = Connection(int(descriptor))
    worker = Worker(readable)
    connection.send_bytes(orjson.dumps({"missing": missing}))
    try:
        sys.exit(serve(connection, worker))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody listens any more
        sys.exit(0)


if __name__ == "__main__":
    main()
