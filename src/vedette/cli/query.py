"""The commands that query the lake's tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vedette.cli.terminal import FAILED, USAGE, Json, Url, fail, fetch, print_rows
from vedette.settings import Settings, load_settings

if TYPE_CHECKING:
    import pyarrow as pa

app = typer.Typer()

_TRANSFER_SECONDS = 60.0

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Read this data directory, instead of asking a server."
    ),
]
Format = Annotated[
    Literal["table", "csv", "json", "parquet"],
    typer.Option("--format", help="How to print the result."),
]
MaxRows = Annotated[int, typer.Option(help="Rows to print, at most 1,000,000.", metavar="N")]
Seconds = Annotated[float, typer.Option(help="How long it may take, at most 300.")]


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A SELECT; - reads it from stdin.")],
    dialect: Annotated[
        Literal["databricks", "duckdb"], typer.Option(help="What the query is written in.")
    ] = "databricks",
    form: Format = "table",
    data: Data = None,
    max_rows: MaxRows = 10_000,
    seconds: Seconds = 30.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Query the tables mlflow_otel_spans, mlflow_otel_annotations, mlflow_monitor_decisions.

    Logs and metrics that came by OTLP are in mlflow_otel_logs and mlflow_otel_metrics. Views have
    one row per trace: mlflow_trace_unified, and mlflow_trace_metadata without the spans. All may
    be named in full, main.default.mlflow_otel_spans; those of other locations must be.

    A query sees one version of each table, can only read, and is stopped when it takes too long or
    too much. What there is to query: see docs/sql.md.

    Example: `vedette sql "SELECT name, COUNT(*) FROM mlflow_otel_spans GROUP BY name"`
    """
    text = sys.stdin.read() if query == "-" else query
    table = _run(text, dialect, data, url, max_rows, seconds)
    _print(table, "json" if as_json else form)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The one to run.")] = None,
    dialect: Annotated[
        Literal["databricks", "spark", "duckdb"] | None,
        typer.Option(help="Print its text, for this engine, instead of running it."),
    ] = None,
    location: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="catalog.schema.prefix of the tables; main.default.mlflow if left out.",
        ),
    ] = None,
    form: Format = "table",
    data: Data = None,
    max_rows: MaxRows = 10_000,
    seconds: Seconds = 30.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the ready-made queries, print one, or run it.

    Example: `vedette recipes latency_percentiles`, or with `--dialect spark` to see its text
    """
    from vedette.lake.location import DEFAULT, Location
    from vedette.lake.recipes import recipe
    from vedette.lake.recipes import recipes as known

    if name is None:
        rows = [(one.name, one.question) for one in known().values()]
        if as_json:
            print(json.dumps([{"name": name, "question": text} for name, text in rows], indent=2))
        else:
            print_rows(rows)
        return
    try:
        text = recipe(name).sql
        place = DEFAULT if location is None else Location.parse(location)
    except KeyError as error:
        fail(str(error.args[0]), USAGE)
    except ValueError as error:
        fail(f"--location: {error}", USAGE)
    if dialect is not None:
        from vedette.lake.sql.dialect import in_dialect

        print(in_dialect(text, dialect, place))
        return
    from vedette.lake.sql.names import located

    table = _run(located(text, place), "databricks", data, url, max_rows, seconds)
    _print(table, "json" if as_json else form)


@app.command()
def views(
    dialect: Annotated[
        Literal["databricks", "spark", "duckdb"], typer.Option(help="For this engine.")
    ] = "databricks",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Whose tables.")
    ] = None,
) -> None:
    """Print SQL that makes the views of whole traces, for engines that read the tables themselves.

    mlflow_trace_unified has one row per trace with its spans and assessments,
    mlflow_trace_metadata what was said about it, without the spans; so it is in every location of
    traces that the data directory knows. `vedette sql` has both.

    Example: `vedette views --dialect spark > views.sql`
    """
    from vedette.lake.locations import Locations
    from vedette.lake.sql.views import view_statements

    settings = load_settings({"data": data}).settings
    places = Locations(settings.lake_state).places()
    print(view_statements(dialect, settings.lake_uri, places))


def _run(
    text: str, dialect: str, data: Path | None, url: str | None, max_rows: int, seconds: float
) -> pa.Table:
    if data is None:
        table, truncated = _ask_server(url, text, dialect, max_rows, seconds)
    else:
        settings = load_settings({"data": data}).settings
        table, truncated = _read_directory(settings, text, dialect, max_rows, seconds)
    if truncated:
        print(f"only the first {max_rows:,} rows; set --max-rows for more", file=sys.stderr)
    return table


def _ask_server(
    url: str | None, text: str, dialect: str, max_rows: int, seconds: float
) -> tuple[pa.Table, bool]:
    from vedette.lake.sql.formats import TRUNCATED, from_arrow

    limits = {"max_rows": max_rows, "seconds": seconds}
    body = {"sql": text, "dialect": dialect, "format": "arrow", **limits}
    content, headers = fetch(url, "/api/sql", "POST", body, seconds + _TRANSFER_SECONDS)
    return from_arrow(content), headers.get(TRUNCATED) == "1"


def _read_directory(
    settings: Settings, text: str, dialect: str, max_rows: int, seconds: float
) -> tuple[pa.Table, bool]:
    from contextlib import closing

    from vedette.lake.sql.engine import SqlEngine
    from vedette.lake.sql.errors import QueryRefused
    from vedette.lake.sql.formats import from_arrow
    from vedette.lake.storage import LakeUnavailable
    from vedette.lake.table import Lake

    if not settings.data.is_dir():
        fail(f"--data: there is no directory {settings.data}", USAGE)
    with closing(SqlEngine(Lake(settings.lake_uri, settings.lake_state))) as engine:
        try:
            answer = engine.run(text, dialect=dialect, max_rows=max_rows, seconds=seconds)
        except (QueryRefused, LakeUnavailable) as error:
            fail(str(error), FAILED)
    return from_arrow(answer.content), answer.truncated


def _print(table: pa.Table, form: str) -> None:
    from vedette.lake.sql.errors import QueryRefused
    from vedette.lake.sql.formats import to_cells, to_csv, to_json, to_parquet

    if form == "parquet" and sys.stdout.isatty():
        fail("Parquet is nothing to look at: send it to a file, > result.parquet", USAGE)
    try:
        if form == "parquet":
            sys.stdout.buffer.write(to_parquet(table))
        elif form == "csv":
            print(to_csv(table), end="")
        elif form == "json":
            print(to_json(table).decode())
        else:
            print_rows(to_cells(table))
    except QueryRefused as error:
        fail(str(error), FAILED)
