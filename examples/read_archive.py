"""Read an archive of traces, one row per trace, with whatever reads Delta tables.

    python examples/read_archive.py vedette-data/lake/main/quality/shop_traces

The table comes from `vedette.enable_trace_archival(...)` or `vedette archive enable`. Each reader
answers one question; for Spark, see read_archive.sql.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec

import duckdb
import pyarrow.compute as pc
from deltalake import DeltaTable


def newest(path: str) -> None:
    """deltalake: the newest traces, from the columns and days that it takes."""
    table = DeltaTable(path)
    rows = table.to_pyarrow_dataset().to_table(
        columns=["request_time", "state", "execution_duration_ms", "request"]
    )
    rows = rows.take(pc.sort_indices(rows, [("request_time", "descending")])[:5])
    print("The newest traces:")
    for row in rows.to_pylist():
        asked = (row["request"] or "")[:60]
        print(f"  {row['request_time']:%Y-%m-%d %H:%M:%S}  {row['state']:5}  {asked}")


def in_duckdb(path: str) -> duckdb.DuckDBPyConnection:
    """A database in which the table is called archive. (With DuckDB's extension `delta`, which it
    downloads, `delta_scan('<path>')` does the same.)"""
    database = duckdb.connect()
    database.register("archive", DeltaTable(path).to_pyarrow_dataset())
    return database


def scores(path: str) -> None:
    """DuckDB: the mean of each scorer and the people behind it, overridden assessments left out."""
    print("Assessments:")
    found = in_duckdb(path).sql(
        """
        SELECT one.assessment_name, one.source.source_type, count(*) AS assessments,
          avg(CASE one.feedback.value WHEN 'true' THEN 1 WHEN 'yes' THEN 1
                WHEN 'false' THEN 0 WHEN 'no' THEN 0 END) AS pass_rate
        FROM (SELECT unnest(assessments) AS one FROM archive)
        WHERE one.valid AND one.feedback IS NOT NULL AND one.feedback.error IS NULL
        GROUP BY ALL ORDER BY ALL
        """
    )
    print(found)


def slowest_tools(path: str) -> None:
    """DuckDB: which spans take longest."""
    print("Spans:")
    found = in_duckdb(path).sql(
        """
        SELECT span.name, count(*) AS calls,
          round(avg(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6, 1) AS ms
        FROM (SELECT unnest(spans) AS span FROM archive)
        GROUP BY ALL ORDER BY ms DESC LIMIT 10
        """
    )
    print(found)


def by_version(path: str) -> None:
    """Polars: traces and failures by a tag."""
    import polars

    rows = DeltaTable(path).to_pyarrow_dataset().to_table(columns=["tags", "state"])
    # A map looks different in each version of Polars: what is wanted of it is taken out before
    versions = pc.map_lookup(rows["tags"], "agent_version", "first")
    frame = polars.from_arrow(rows.drop_columns("tags").append_column("agent_version", versions))
    found = frame.group_by("agent_version").agg(
        traces=polars.len(), failed=(polars.col("state") == "ERROR").sum()
    )
    print(found)


def main() -> None:
    """Ask the archive everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="the table: <lake>/<catalog>/<schema>/<table>")
    path = parser.parse_args().path
    newest(path)
    scores(path)
    slowest_tools(path)
    if find_spec("polars") is not None:
        by_version(path)
    else:
        print("Polars is not installed: pip install polars")


if __name__ == "__main__":
    main()
