"""Queries over the tables of any location: by their full names, in views, in recipes."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from deltalake import DeltaTable
from typer.testing import CliRunner

from sql_support import RowsLake, hour_ago, trace_id
from vedette.cli import app
from vedette.lake.location import DEFAULT, Location
from vedette.lake.locations import Binding
from vedette.lake.recipes import recipes
from vedette.lake.sql.dialect import in_dialect
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.names import NAMES, located
from vedette.lake.sql.views import view_statements
from vedette.lake.table import LakeTable

SHOP, DIGITS = Location("shop", "prod", "agent"), Location("my-shop", "default", "7")
AT = hour_ago(2)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RowsLake]:
    """One trace by default, two in one location, none yet in another one."""
    made = RowsLake(tmp_path_factory.mktemp("lake"))
    made.span(1, AT, name="ours")
    made.commit()
    made.lake.locations.note("1", Binding(SHOP, 1))
    made.lake.locations.note("2", Binding(DIGITS, 2))
    made.span(2, AT, name="theirs")
    made.span(3, AT, name="theirs", failed=True)
    made.tag(3, AT, "env", "prod")
    made.commit(SHOP)
    yield made
    made.engine.close()


@pytest.mark.parametrize(
    ("table", "traces"),
    [
        ("mlflow_otel_spans", {1}),
        ("main.default.mlflow_otel_spans", {1}),
        ("shop.prod.agent_otel_spans", {2, 3}),
        ("SHOP.Prod.AGENT_otel_spans", {2, 3}),
        ("shop.prod.agent_trace_unified", {2, 3}),
        ("shop.prod.agent_trace_metadata", {3}),
        ("`my-shop`.default.`7_otel_spans`", set()),
        ("`my-shop`.default.`7_trace_unified`", set()),
    ],
)
def test_tables_and_views_of_every_location(lake: RowsLake, table: str, traces: set[int]) -> None:
    rows = lake.rows(f"SELECT trace_id FROM {table}")
    assert {row["trace_id"] for row in rows} == {trace_id(number) for number in traces}


def test_locations_in_one_query(lake: RowsLake) -> None:
    rows = lake.rows(
        "SELECT shop.prod.agent_otel_spans.name AS name FROM shop.prod.agent_otel_spans"
        " UNION SELECT name FROM mlflow_otel_spans ORDER BY name"
    )
    assert [row["name"] for row in rows] == ["ours", "theirs"]
    (row,) = lake.rows(
        'SELECT COUNT(*) AS n FROM "my-shop"."default"."7_otel_logs", shop.prod.agent_otel_spans',
        dialect="duckdb",
    )
    assert row == {"n": 0}


@pytest.mark.parametrize(
    "table",
    [
        "agent_otel_spans",  # of another catalog and schema than those that may be left out
        "prod.agent_otel_spans",
        "main.prod.agent_otel_spans",
        "shop.prod.mlflow_otel_spans",
        "shop.prod.agent_otel_spans.x",
        "lake.`shop.prod.agent_otel_spans`",
        "`shop.prod.agent_otel_spans`",
    ],
)
def test_no_other_name_reaches_them(lake: RowsLake, table: str) -> None:
    with pytest.raises(QueryRefused, match=r"there is no table|doesn't parse"):
        lake.rows(f"SELECT * FROM {table}")


def test_a_name_that_is_not_there_is_told_what_there_is(lake: RowsLake) -> None:
    with pytest.raises(QueryRefused) as refused:
        lake.rows("SELECT * FROM shop.prod.agent_otel_span")
    assert "did you mean shop.prod.agent_otel_spans?" in str(refused.value)
    assert "that begin with my-shop.default.7, shop.prod.agent" in str(refused.value)


def test_a_recipe_on_another_location(lake: RowsLake) -> None:
    def rates(location: Location) -> list[float]:
        rows = lake.rows(located(recipes()["error_rate"].sql, location))
        return [row["error_rate"] for row in rows]

    assert (rates(DEFAULT), rates(SHOP), rates(DIGITS)) == ([0.0], [0.5], [])


@pytest.mark.parametrize("dialect", ["databricks", "spark", "duckdb"])
def test_every_recipe_is_wholly_on_the_location_that_is_chosen(dialect: str) -> None:
    for recipe in recipes().values():
        text = in_dialect(recipe.sql, dialect, DIGITS)
        parsed = sqlglot.parse_one(text, read=dialect)
        names = [table.name for table in parsed.find_all(sqlglot.exp.Table)]
        assert not [name for name in names if "mlflow_" in name]
        assert [name for name in names if "7_" in name]


def test_a_recipe_by_command() -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["recipes", "error_rate", *arguments])
        return done.exit_code, done.stdout, done.stderr

    code, out, err = run("--location", "shop.prod.agent", "--dialect", "spark")
    assert code == 0, err
    assert "shop.prod.agent_otel_spans" in out
    assert "mlflow_otel" not in out
    code, _, err = run("--location", "shop")
    assert (code, "--location: 'shop' is no location" in err) == (2, True)


def test_the_views_of_every_location_are_made_for_other_engines(lake: RowsLake) -> None:
    places = lake.lake.locations.places()
    for dialect in ("databricks", "spark"):
        text = view_statements(dialect, "/lake", places)
        statements = sqlglot.parse(text, read=dialect)
        made = [one.this.sql(dialect) for one in statements if one is not None]
        assert len(made) == 6
        assert "`my-shop`.default.`7_trace_unified`" in made
        assert "shop.prod.agent_trace_metadata" in made


def test_the_views_for_duckdb_run(lake: RowsLake) -> None:
    text = view_statements("duckdb", "/lake", [DEFAULT, SHOP])
    assert "delta_scan('/lake/shop/prod/agent_otel_spans')" in text
    with duckdb.connect() as database:
        for table in (*lake.lake.tables, *lake.lake.at(SHOP).tables):
            database.register(table.spec.name, stored_rows(table))
        for statement in text.split(";\n"):
            if "delta" not in statement.split("AS")[0].lower() and "delta_scan" not in statement:
                database.execute(statement)
        found = database.execute('SELECT trace_id FROM "shop.prod.agent_trace_unified"').fetchall()
        assert {one for (one,) in found} == {trace_id(2), trace_id(3)}
        assert database.execute("SELECT count(*) FROM mlflow_trace_unified").fetchone() == (1,)


def stored_rows(table: LakeTable) -> pa.Table:
    handle = table.open_existing()
    if handle is None:
        return table.spec.schema.empty_table()
    return pa.table(DeltaTable(table.storage.uri).to_pyarrow_table())


def test_names_by_default_stand_for_those_of_any_location() -> None:
    for name in NAMES:
        assert located(f"FROM main.default.{name} AS x", SHOP) == (
            f"FROM shop.prod.agent{name.removeprefix('mlflow')} AS x"
        )
