"""Databricks' dialect: what it says is what DuckDB answers; what can't be said is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sql_support import SECOND, RowsLake, hour_ago
from vedette.lake.sql.dialect import in_dialect, translate
from vedette.lake.sql.errors import QueryRefused

AT = int(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()) * SECOND
ATTRIBUTES = {"a": {"b": ["x", "y"]}, "n": 12.5, "yes": True, "gen_ai.model": "big", "none": None}
EVENTS = [
    {"time_unix_nano": 1, "name": "exception", "attributes": "{}", "dropped_attributes_count": 0},
    {"time_unix_nano": 2, "name": "done", "attributes": "{}", "dropped_attributes_count": 0},
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RowsLake]:
    made = RowsLake(tmp_path_factory.mktemp("lake"))
    made.span(1, AT, attributes=ATTRIBUTES, events=EVENTS, total_cost=0.5)
    made.span(1, AT + 30 * SECOND, name="tool", root=False, total_cost=1.0)
    made.span(2, AT + 7200 * SECOND, total_cost=2.0)
    made.commit()
    yield made
    made.engine.close()


def value(lake: RowsLake, expression: str, rest: str = "WHERE name = 'tool'") -> Any:
    """What an expression gives on one span."""
    (row,) = lake.rows(f"SELECT {expression} AS found FROM main.default.mlflow_otel_spans {rest}")
    return row["found"]


FIRST = "WHERE events IS NOT NULL AND SIZE(events) > 0"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("attributes:n::DOUBLE", 12.5),
        ("attributes:n", "12.5"),
        ("attributes:yes::BOOLEAN", True),
        ("attributes:a.b[0]::STRING", "x"),
        ("attributes:a", '{"b":["x","y"]}'),
        ("attributes:`gen_ai.model`::STRING", "big"),
        ("attributes:['gen_ai.model']", "big"),
        ("attributes:none", None),
        ("attributes:missing::INT", None),
        ("attributes:`gen_ai.model` = 'big'", True),
        ("GET_JSON_OBJECT(attributes, '$.a.b[1]')", "y"),
        ("FROM_JSON(attributes:a, 'STRUCT<b: ARRAY<STRING>>').b[1]", "y"),
        ("FROM_JSON(attributes:a, 'b ARRAY<STRING>').b[0]", "x"),
        ("FROM_JSON('{\"k\": 1}', 'MAP<STRING, STRING>')['k']", "1"),
        ('FROM_JSON(\'{"k": "x", "other": 1}\', \'k INT, m STRING\')', {"k": None, "m": None}),
        ("FROM_JSON('no json', 'MAP<STRING, STRING>')", None),
        ("EXISTS(events, e -> e.name = 'exception')", True),
        ("EXISTS(events, e -> e.name = 'other')", False),
        ("SIZE(FILTER(events, e -> e.time_unix_nano > 1))", 1),
        ("TRANSFORM(events, e -> e.name)", ["exception", "done"]),
        ("events[0].name", "exception"),
        ("status.code", "STATUS_CODE_OK"),
        ("MAP_FILTER(MAP('a', 1, 'b', 2), (k, v) -> v > 1)", {"b": 2}),
        ("DATE_TRUNC('HOUR', time)", datetime(2026, 3, 4, 5, tzinfo=UTC)),
        ("DATE_TRUNC('DAY', time)", datetime(2026, 3, 4, tzinfo=UTC)),
        ("DATE_TRUNC('MINUTE', time)", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),
        ("DATE_TRUNC('MONTH', time)", datetime(2026, 3, 1, tzinfo=UTC)),
        ("DATE_TRUNC('WEEK', time)", datetime(2026, 3, 2, tzinfo=UTC)),
        (
            "DATE_TRUNC('HOUR', TIMESTAMP '1969-12-31 23:30:00')",
            datetime(1969, 12, 31, 23, tzinfo=UTC),
        ),
        ("DATEADD(HOUR, -2, time)", datetime(2026, 3, 4, 3, 6, 7, tzinfo=UTC)),
        ("DATEADD(DAY, 1, time)", datetime(2026, 3, 5, 5, 6, 7, tzinfo=UTC)),
        ("time + INTERVAL 1 HOURS", datetime(2026, 3, 4, 6, 6, 7, tzinfo=UTC)),
        # Whole units, not boundaries crossed
        ("DATEDIFF(HOUR, TIMESTAMP '2026-01-01 00:59:00', TIMESTAMP '2026-01-01 02:00:00')", 1),
        ("TIMESTAMPDIFF(MINUTE, TIMESTAMP '2026-01-01 00:00:59', DATE '2026-01-02')", 1439),
        ("DATEDIFF(DATE '2026-01-03', DATE '2026-01-01')", 2),
        ("UNIX_TIMESTAMP(time)", AT // SECOND),
        ("TIMESTAMP_MILLIS(1500)", datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("TIMESTAMP_SECONDS(2)", datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)),
        ("DATE_FORMAT(time, 'yyyy-MM-dd HH')", "2026-03-04 05"),
        ("HOUR(time)", 5),
        ("NVL(parent_span_id, 'none')", "none"),
        ("IF(total_cost > 0, 'paid', 'free')", "paid"),
        ("7 DIV 2", 3),
        ("7 / 2", 3.5),
        ("name RLIKE '^ag'", True),
        ("SPLIT_PART('a:b:c', ':', 2)", "b"),
        ("TRY_CAST('x' AS DOUBLE)", None),
    ],
)
def test_an_expression_means_what_it_does_in_databricks(
    lake: RowsLake, expression: str, expected: Any
) -> None:
    assert value(lake, expression, FIRST) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT COUNT(*) FROM main.default.mlflow_otel_spans", [(3,)]),
        ("SELECT COUNT(*) FROM default.mlflow_otel_spans", [(3,)]),
        ("SELECT COUNT(*) FROM mlflow_otel_spans", [(3,)]),
        ("SELECT COUNT(*) FROM `main`.`default`.`MLFLOW_OTEL_SPANS`", [(3,)]),
        (
            "SELECT main.default.mlflow_otel_spans.name FROM main.default.mlflow_otel_spans"
            " WHERE mlflow_otel_spans.total_cost = 2",
            [("agent",)],
        ),
        (
            "SELECT a.name, b.name FROM main.default.mlflow_otel_spans a"
            " JOIN main.default.mlflow_otel_spans b ON a.trace_id = b.trace_id AND a.name < b.name",
            [("agent", "tool")],
        ),
        ("SELECT PERCENTILE(total_cost, 0.25) FROM mlflow_otel_spans", [(0.75,)]),
        ("SELECT PERCENTILE_APPROX(total_cost, 0.5) FROM mlflow_otel_spans", [(1.0,)]),
        (
            "SELECT e.name FROM mlflow_otel_spans LATERAL VIEW EXPLODE(events) t AS e ORDER BY 1",
            [("done",), ("exception",)],
        ),
        (
            "SELECT e.name FROM (SELECT EXPLODE(events) AS e FROM mlflow_otel_spans) ORDER BY 1",
            [("done",), ("exception",)],
        ),
        (
            "SELECT name, total_cost FROM mlflow_otel_spans"
            " QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id ORDER BY total_cost DESC) = 1"
            " ORDER BY total_cost",
            [("tool", 1.0), ("agent", 2.0)],
        ),
        (
            "SELECT trace_id, COUNT_IF(name = 'tool') AS n FROM mlflow_otel_spans"
            " GROUP BY trace_id HAVING n > 0",
            [("0" * 31 + "1", 1)],
        ),
        (
            "WITH mlflow_otel_spans AS (SELECT * FROM mlflow_otel_spans WHERE name = 'tool')"
            " SELECT COUNT(*) FROM mlflow_otel_spans",
            [(1,)],
        ),
        ("SELECT SUM(flags), SUM(start_time_unix_nano) > 0 FROM mlflow_otel_spans", [(None, True)]),
        ("SELECT * EXCEPT (b) FROM VALUES (1, 2) AS t(a, b)", [(1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT 1 UNION SELECT 1", [(1,)]),
        ("SELECT \"text\", 'a\\'b'", [("text", "a'b")]),
        ("SELECT 1 -- a comment\n;", [(1,)]),
    ],
)
def test_a_query_means_what_it_does_in_databricks(
    lake: RowsLake, query: str, expected: list[Any]
) -> None:
    table = lake.table(query)
    assert [tuple(row.values()) for row in _renamed(table).to_pylist()] == expected


def _renamed(table: Any) -> Any:
    return table.rename_columns([str(index) for index in range(table.num_columns)])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "doesn't parse"),
        ("", "no query"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("DELETE FROM mlflow_otel_spans", "only queries"),
        ("SHOW TABLES", "only queries"),
        ("SELECT * FROM mlflow_otel_span", "did you mean main.default.mlflow_otel_spans"),
        ("SELECT * FROM other.default.mlflow_otel_spans", "there is no table other.default"),
        ("SELECT * FROM main.mlflow_otel_spans", "there is no table main.mlflow_otel_spans"),
        ("SELECT * FROM mlflow_otel_spans VERSION AS OF 3", "time travel"),
        ("SELECT AI_QUERY('model', name) FROM mlflow_otel_spans", "ai_query"),
        ("SELECT FORALL(events, e -> TRUE) FROM mlflow_otel_spans", "forall"),
        ("SELECT FROM_JSON(name, name) FROM mlflow_otel_spans", "from_json needs its type"),
        ("SELECT no_such_column FROM mlflow_otel_spans", "no_such_column"),
        ("SELECT CAST('x' AS INT)", "Could not convert|Conversion"),
        ("SELECT DATEDIFF(FORTNIGHT, time, time) FROM mlflow_otel_spans", "unit"),
    ],
)
def test_what_is_wrong_is_said(lake: RowsLake, query: str, said: str) -> None:
    with pytest.raises(QueryRefused, match=said):
        lake.engine.run(query)


def test_duckdb_s_own_dialect(lake: RowsLake) -> None:
    found = lake.rows(
        "SELECT name, list(span_id).len() AS n FROM main.default.mlflow_otel_spans"
        " GROUP BY ALL ORDER BY ALL",
        dialect="duckdb",
    )
    assert found == [{"name": "agent", "n": 2}, {"name": "tool", "n": 1}]


@given(text=st.text(max_size=200), dialect=st.sampled_from(["databricks", "duckdb"]))
@settings(max_examples=200, deadline=None)
def test_any_text_is_translated_or_refused(text: str, dialect: str) -> None:
    with suppress(QueryRefused):
        translate(text, dialect)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=100, deadline=None)
def test_texts_arrive_as_they_are(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    sql = translate(f"SELECT '{quoted}' AS x", "databricks").sql
    assert sql == "SELECT '" + text.replace("'", "''") + "' AS x"


def test_the_text_for_other_engines() -> None:
    query = (
        "SELECT attributes:a::INT FROM main.default.mlflow_otel_spans"
        " QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id ORDER BY time) = 1"
    )
    assert in_dialect(query, "databricks") == query
    spark = in_dialect(query, "spark")
    assert "GET_JSON_OBJECT(attributes, '$.a')" in spark
    assert "QUALIFY" not in spark
    assert "FROM mlflow_otel_spans" in in_dialect(query, "duckdb")


def test_relative_times_are_relative_to_now(tmp_path: Path) -> None:
    lake = RowsLake(tmp_path)
    for hours in (1, 5, 30):
        lake.span(hours, hour_ago(hours))
    lake.commit()
    query = "SELECT COUNT(*) AS n FROM mlflow_otel_spans WHERE time >= {}"
    for since in ("CURRENT_TIMESTAMP() - INTERVAL 1 DAY", "DATEADD(DAY, -1, NOW())"):
        assert lake.rows(query.format(since)) == [{"n": 2}]
    lake.engine.close()
