"""The views: a trace is in them as MLflow's API has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from deltalake import DeltaTable

from sql_support import MINUTE, SECOND, RowsLake, hour_ago, trace_id
from vedette.lake.sql.names import TABLES, VIEWS
from vedette.lake.sql.views import view_statements

AT = hour_ago(2)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[RowsLake]:
    made = RowsLake(tmp_path)
    yield made
    made.engine.close()


def one(lake: RowsLake, view: str = "mlflow_trace_unified", number: int = 1) -> dict[str, Any]:
    lake.commit()
    (row,) = lake.rows(f"SELECT * FROM main.default.{view} WHERE trace_id = '{trace_id(number)}'")
    return row


def traces(lake: RowsLake, view: str = "mlflow_trace_unified") -> set[str]:
    lake.commit()
    return {row["trace_id"] for row in lake.rows(f"SELECT trace_id FROM {view}")}


def test_a_trace_that_came_by_otlp_is_what_its_spans_say(lake: RowsLake) -> None:
    attributes = {"mlflow.spanInputs": {"q": 1}, "mlflow.spanOutputs": "fine", "session.id": "s"}
    lake.span(1, AT, attributes=attributes, milliseconds=500)
    lake.span(
        1, AT + SECOND, name="tool", root=False, attributes={"user.id": "u"}, milliseconds=700
    )
    row = one(lake)
    assert row["request_time"] == datetime.fromtimestamp(AT // SECOND, UTC)
    assert (row["state"], row["execution_duration_ms"]) == ("OK", 1700)
    assert (json.loads(row["request"]), row["response"]) == ({"q": 1}, "fine")
    assert row["trace_metadata"] == {"mlflow.trace.session": "s", "mlflow.trace.user": "u"}
    assert row["tags"] == {"mlflow.traceName": "agent"}
    assert [span["name"] for span in row["spans"]] == ["agent", "tool"]
    assert row["assessments"] is None
    assert row["client_request_id"] is None


def test_start_trace_says_what_a_trace_is(lake: RowsLake) -> None:
    lake.span(1, AT, attributes={"session.id": "s", "user.id": "u"})
    lake.header(
        1,
        AT,
        client_request_id="mine",
        request_time=1_700_000_000_123,
        execution_duration=42,
        state="ERROR",
        request_preview="short",
        response_preview=None,
        trace_metadata={"mlflow.trace.session": "other", "k": "v"},
    )
    lake.tag(1, AT, "mlflow.traceName", "named")
    lake.tag(1, AT, "channel", "web")
    row = one(lake)
    assert row["client_request_id"] == "mine"
    assert row["request_time"].timestamp() == 1_700_000_000.123
    assert (row["state"], row["execution_duration_ms"]) == ("ERROR", 42)
    assert (row["request"], row["response"]) == ("short", None)
    assert row["trace_metadata"] == {
        "mlflow.trace.session": "other",
        "k": "v",
        "mlflow.trace.user": "u",
    }
    assert row["tags"] == {"mlflow.traceName": "named", "channel": "web"}
    metadata = one(lake, "mlflow_trace_metadata")
    assert list(metadata) == [
        "trace_id",
        "client_request_id",
        "tags",
        "trace_metadata",
        "assessments",
    ]
    assert metadata["tags"] == row["tags"]
    assert metadata["trace_metadata"] == {"mlflow.trace.session": "other", "k": "v"}


@pytest.mark.parametrize(("failed", "state"), [(True, "ERROR"), (False, "OK")])
def test_a_state_that_start_trace_left_open_is_the_root_s(
    lake: RowsLake, failed: bool, state: str
) -> None:
    lake.header(1, AT, state="IN_PROGRESS", request_time=AT // 1000, trace_metadata={})
    assert one(lake)["state"] == "IN_PROGRESS"
    lake.span(1, AT, failed=failed)
    assert one(lake)["state"] == state


def test_a_span_that_was_sent_again_is_there_once(lake: RowsLake) -> None:
    lake.span(1, AT, milliseconds=None)
    lake.span(1, AT, milliseconds=200)
    row = one(lake)
    assert len(row["spans"]) == 1
    assert row["execution_duration_ms"] == 200


def test_the_newest_version_of_an_assessment_counts(lake: RowsLake) -> None:
    lake.span(1, AT)
    first = lake.feedback(1, AT, "polite", False, comment="no", metadata='{"a": "b"}')
    lake.feedback(1, AT, "polite", True, annotation_id=first, updated_at=AT + 1, comment="yes")
    gone = lake.feedback(1, AT, "grade", 3)
    lake.deleted_annotation(gone, 1, AT + MINUTE)
    lake.feedback(1, AT, "answer", "42", annotation_type="EXPECTATION", metadata='{"a": "b"}')
    lake.feedback(
        1,
        AT,
        "step",
        1,
        target_type="SPAN",
        target_id=f"{trace_id(1)}:{'0' * 15}7",
        error='{"c":1}',
    )
    for view in VIEWS:
        row = one(lake, view)
        polite, step, answer = sorted(
            row["assessments"],
            key=lambda a: ("polite", "step", "answer").index(a["assessment_name"]),
        )
        assert polite["assessment_id"] == first
        assert polite["feedback"] == {"value": "true", "error": None}
        assert (polite["rationale"], polite["expectation"], polite["valid"]) == ("yes", None, True)
        assert polite["source"] == {"source_type": "CODE", "source_id": "someone"}
        assert polite["span_id"] is None
        assert answer["expectation"] == {"value": '"42"'}
        assert answer["feedback"] is None
        assert answer["metadata"] == {"a": "b"}
        assert step["span_id"] == "0" * 15 + "7"
        assert step["feedback"] == {"value": "1", "error": '{"c":1}'}


def test_a_deleted_trace_is_gone_with_all_that_was_said_before(lake: RowsLake) -> None:
    lake.span(1, AT)
    lake.header(1, AT, state="OK", request_time=1, trace_metadata={})
    lake.tag(1, AT, "channel", "web")
    lake.feedback(1, AT, "polite", True)
    lake.span(2, AT)
    lake.feedback(2, AT, "polite", True)
    lake.header(1, AT + MINUTE, deleted=True)
    assert traces(lake) == {trace_id(2)}
    assert traces(lake, "mlflow_trace_metadata") == {trace_id(2)}
    lake.span(1, AT + 2 * MINUTE)  # something of it comes after all
    row = one(lake)
    assert row["tags"] == {"mlflow.traceName": "agent"}
    assert row["assessments"] is None


def test_duckdb_gives_the_same_from_the_text_that_we_print(lake: RowsLake) -> None:
    lake.span(1, AT, attributes={"session.id": "s", "mlflow.spanInputs": "in"})
    lake.header(1, AT, state="OK", request_time=AT // 1000, trace_metadata={"k": "v"})
    lake.tag(1, AT, "channel", "web")
    lake.feedback(1, AT, "polite", True)
    here = one(lake)
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    text = view_statements("duckdb", "/the/lake")
    for name, table in zip(TABLES, lake.lake.tables, strict=True):
        assert f"delta_scan('/the/lake/main/default/{name}')" in text
        rows = DeltaTable(table.storage.uri).to_pyarrow_table() if _exists(table) else None
        database.register(name, table.spec.schema.empty_table() if rows is None else rows)
    for statement in text.split(";\n"):
        if "delta" not in statement.split("AS")[0].lower() and "delta_scan" not in statement:
            database.execute(statement)
    there = database.sql("SELECT * FROM mlflow_trace_unified").to_arrow_table()
    assert there.to_pylist(maps_as_pydicts="lossy") == [here]


def _exists(table: Any) -> bool:
    return bool(table.open_existing())


@pytest.mark.parametrize("dialect", ["databricks", "spark"])
def test_the_text_for_spark_and_databricks_is_read_back_without_loss(dialect: str) -> None:
    text = view_statements(dialect, "/lake")
    statements = sqlglot.parse(text, read=dialect)
    assert [type(one).__name__ for one in statements] == ["Create", "Create"]
    for view in VIEWS:
        assert f"CREATE OR REPLACE VIEW main.default.{view}" in text
    if dialect == "spark":
        assert "QUALIFY" not in text
        again = ";\n\n".join(one.sql("spark", pretty=True) for one in statements if one) + ";"
        assert sqlglot.parse(again, read="spark") == statements
