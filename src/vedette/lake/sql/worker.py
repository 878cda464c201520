"""A process that runs queries, one after the other: ``python -m vedette.lake.sql.worker``.

It is told what to read (files of a snapshot) with each query and answers with an outcome (JSON)
and, if there is one, the result (an Arrow stream). See `vedette.lake.sql.sandbox` for what keeps
queries from anything else, and `vedette.lake.sql.pool` for the other side.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa

from vedette.lake.schemas import PARTITION
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.names import TABLES, TABLES_SCHEMA
from vedette.lake.sql.sandbox import Guard, open_database, restrict_process

IDLE_SECONDS = 120.0  # without a query, after which it ends: it holds some 100 MB
RETIRED = 3  # exit code: what it holds in memory has become too much
MOST_BYTES = 128 << 20  # of a result

_BATCH_ROWS = 2048
# DuckDB keeps what files' footers say, about so much of each
_CACHED_BYTES_PER_FILE = 64 << 10
_CACHED_BYTES = 128 << 20
_OUT_OF_MEMORY = ("Out of Memory Error", "Memory Error", "malloc of size", "std::bad_alloc")
_PARENT_POLL_SECONDS = 1.0


class Request(NamedTuple):
    """A query and what it reads.

    Attributes:
        sql: in DuckDB's dialect, with the lake's tables in the schema ``lake``.
        files: of each table that is read, its files.
        partitioned: the files lie in directories named after their partitions.
        views: of each view that is read, its query.
        max_rows: how many rows are wanted; one more is looked for.
    """

    sql: str
    files: dict[str, list[str]]
    partitioned: bool
    views: dict[str, str]
    max_rows: int


class Worker:
    """Runs queries in a database of its own."""

    def __init__(self, readable: Sequence[Path]) -> None:
        self._database = open_database(readable)
        self._guard = Guard(self._database)
        self._empty()
        self._seen: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether it has cached so much that another one should take over."""
        return len(self._seen) * _CACHED_BYTES_PER_FILE > _CACHED_BYTES

    def run(self, request: Request) -> tuple[bytes, bool]:
        """The result as an Arrow stream, and whether rows were left out.

        Raises:
            QueryRefused: it may not be run, or is wrong; the message says why.
            FileNotFoundError: a file of the snapshot is gone.
            MemoryError: it took too much.
        """
        self._guard.require_harmless(request.sql, {*request.files, *request.views})
        try:
            self._show(request)
            return self._result(request)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # By its text: an error that comes while the result is read is one of Arrow's
            text = _told(error)
            if text.startswith(_OUT_OF_MEMORY):
                raise MemoryError from error
            if text.startswith("IO Error"):
                raise FileNotFoundError(text) from error
            raise QueryRefused(text) from error

    def _empty(self) -> None:
        """A table without rows stands for each of which there are no files."""
        for name, spec in TABLES.items():
            self._database.register("empty", spec.schema.empty_table())
            self._database.execute(f"CREATE TABLE {TABLES_SCHEMA}.no_{name} AS SELECT * FROM empty")
            self._database.unregister("empty")

    def _show(self, request: Request) -> None:
        for name, paths in request.files.items():
            source = f"{TABLES_SCHEMA}.no_{name}"
            if paths:
                source = _source(paths, request.partitioned)
                self._seen.update(paths)
            columns = ", ".join(f'"{column}"' for column in TABLES[name].schema.names)
            self._view(name, f"SELECT {columns} FROM {source}")
        for name, query in request.views.items():
            self._view(name, query)

    def _view(self, name: str, query: str) -> None:
        self._database.execute(f"CREATE OR REPLACE VIEW {TABLES_SCHEMA}.{name} AS {query}")

    def _result(self, request: Request) -> tuple[bytes, bool]:
        reader = self._database.sql(request.sql).to_arrow_reader(_BATCH_ROWS)
        sink = pa.BufferOutputStream()
        left, truncated = request.max_rows, False
        with pa.ipc.new_stream(sink, reader.schema) as stream:
            for batch in reader:
                truncated = batch.num_rows > left
                stream.write_batch(batch.slice(0, left))
                left -= min(left, batch.num_rows)
                if sink.tell() > MOST_BYTES:
                    raise QueryRefused(
                        f"the result is larger than {MOST_BYTES >> 20} MiB; select fewer columns, "
                        "or aggregate"
                    )
                if truncated:
                    break
        return sink.getvalue().to_pybytes(), truncated


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
        request = Request(**orjson.loads(connection.recv_bytes()))
        began = time.monotonic()
        outcome: dict[str, Any] = {}
        result = b""
        try:
            result, outcome["truncated"] = worker.run(request)
        except QueryRefused as error:
            outcome["refused"] = str(error)
        except FileNotFoundError as error:
            outcome["vanished"] = str(error)
        except (MemoryError, RecursionError):
            outcome["memory"] = True
        outcome["milliseconds"] = round((time.monotonic() - began) * 1000, 1)
        connection.send_bytes(orjson.dumps(outcome))
        if "truncated" in outcome:
            connection.send_bytes(result)
        if worker.is_full or "memory" in outcome:
            return RETIRED
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
