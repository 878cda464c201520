"""Every recipe over a week of traffic: ``python -m bench.recipes`` (or ``--traces 10000``).

The tables are written directly, hour by hour, and compacted as the engine does it: each finished
day sorted, today's files as they came.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa

from bench.results import Table, record
from vedette.lake.compaction import Compactor
from vedette.lake.recipes import recipes
from vedette.lake.sql.engine import SqlEngine
from vedette.lake.sql.formats import from_arrow
from vedette.lake.table import Lake, LakeTable
from vedette.named_sql import statements

_HOURS = 7 * 24
_HOUR = 3_600_000_000  # microseconds
_GOAL_MS = 300.0
_BYTES_PER_TRACE = 8_000  # of free disk that must be there: several times what is used


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000, help="over the last 7 days")
    parser.add_argument("--repeats", type=int, default=7, help="of every recipe")
    parser.add_argument("--only", help="recipes whose names contain this")
    parser.add_argument("--dry", action="store_true", help="leave bench/RESULTS.md as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as name:
        if shutil.disk_usage(name).free < options.traces * _BYTES_PER_TRACE:
            parser.error(f"{name} has too little disk for {options.traces:,} traces")
        lake = Lake(f"{name}/lake", Path(name) / "state", {})
        began = time.monotonic()
        rows = fill(lake, options.traces)
        for table in lake.tables:
            compact(table, Path(name) / "scratch")
        print(f"{rows} in {time.monotonic() - began:.0f} s", flush=True)
        table = Table("recipe", "p50 ms", "slowest ms", "rows", "within 300 ms")
        with closing(SqlEngine(lake)) as engine:
            for one in recipes().values():
                if (options.only or "") in one.name:
                    times, found = measure(engine, one.sql, options.repeats)
                    middle = statistics.median(times)
                    ok = "yes" if middle <= _GOAL_MS else "no"
                    table.add(one.name, f"{middle:.0f}", f"{max(times):.0f}", str(found), ok)
        if not options.dry:
            counts = ", ".join(f"{count:,} in {name}" for name, count in rows.items())
            note = f"Rows: {counts}; medians of {options.repeats}, the first not counted."
            record("Recipes over a week", table, [note])


def measure(engine: SqlEngine, sql: str, repeats: int) -> tuple[list[float], int]:
    """Milliseconds of each run, as the caller waits, and how many rows there are."""
    times, rows = [], 0
    for _ in range(repeats + 1):
        began = time.monotonic()
        rows = from_arrow(engine.run(sql, seconds=120).content).num_rows
        times.append((time.monotonic() - began) * 1000)
    return times[1:], rows


def fill(lake: Lake, traces: int) -> dict[str, int]:
    """Write a week of traffic that ends now; returns the rows of each table."""
    rows = {table.spec.name: 0 for table in lake.tables}
    begin = time.time_ns() // 1000 - _HOURS * _HOUR
    for hour in range(_HOURS):
        first, last = (number * traces // _HOURS for number in (hour, hour + 1))
        at = begin + hour * _HOUR
        for table in lake.tables:
            part = hour_of_rows(table, first, last - first, at)
            table.append_segment("bench", hour + 1, part)
            rows[table.spec.name] += part.num_rows
    return rows


def hour_of_rows(table: LakeTable, first: int, traces: int, at: int) -> pa.Table:
    """The rows of one table for one hour of traffic."""
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        values = {"first": first, "traces": traces, "at": at}
        found = database.sql(statements("bench", "lake_rows")[table.spec.name], params=values)
        made = found.to_arrow_table()
    columns = [
        made[field.name].cast(field.type)
        if field.name in made.column_names
        else pa.nulls(made.num_rows, field.type)
        for field in table.spec.schema
    ]
    return pa.table(columns, schema=table.spec.schema)


def compact(table: LakeTable, scratch: Path) -> None:
    """Sort the finished days."""
    compactor = Compactor(table, scratch, threading.Event())
    today = time.strftime("%Y-%m-%d", time.gmtime())
    while compactor.sort_day(today) is not None:
        pass


if __name__ == "__main__":
    main()
