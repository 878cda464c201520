"""The views: a trace is in them as MLflow's API has it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from deltalake import DeltaTable

from lake_support import compactor
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


def written_at_random(lake: RowsLake, state: Path) -> None:
    """Spans sent again, scores changed and deleted, traces deleted and sent again; compacted."""
    choose = random.Random(7)
    scores: list[tuple[int, str]] = []
    for step in range(600):
        at, trace = AT + step * SECOND, choose.randrange(40)
        match choose.randrange(12):
            case 0 | 1 | 2:
                milliseconds = choose.choice([None, 10.0, 250.0])
                lake.span(trace, at, failed=choose.random() < 0.3, milliseconds=milliseconds)
            case 3 | 4 | 5:
                lake.span(trace, at, name=choose.choice("abc"), root=False)
            case 6 | 7:
                name = choose.choice(["polite", "short"])
                scores.append((trace, lake.feedback(trace, at, name, choose.random() < 0.7)))
            case 8 if scores:
                trace, score = choose.choice(scores)
                valid = choose.random() < 0.5
                lake.feedback(trace, at, "polite", False, annotation_id=score, valid=valid)
            case 9 if scores:
                trace, score = choose.choice(scores)
                lake.deleted_annotation(score, trace, at)
            case 10:
                lake.tag(trace, at, "channel", choose.choice(["web", "app"]))
            case 11 if choose.random() < 0.3:
                lake.header(trace, at, deleted=True)
        if step % 30 == 29:
            lake.commit()
        if step == 400:
            for table in lake.lake.tables[:2]:
                assert compactor(table, state).merge_small() is not None


def rows_of(lake: RowsLake, number: int) -> list[dict[str, Any]]:
    rows = DeltaTable(lake.lake.tables[number].storage.uri).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["record_id"])


def test_aggregates_over_a_view_are_those_of_a_plain_reading_of_the_tables(
    lake: RowsLake, tmp_path: Path
) -> None:
    written_at_random(lake, tmp_path)
    sent, told = rows_of(lake, 0), rows_of(lake, 1)
    deleted = {
        row["target_id"]: row["record_id"]
        for row in told
        if row["annotation_type"] == "METADATA" and row["deleted_at"]
    }
    spans = {
        (row["trace_id"], row["span_id"]): row
        for row in sent
        if row["record_id"] > deleted.get(row["trace_id"], "")
    }
    newest = {row["annotation_id"]: row for row in told}
    said = [
        row
        for row in newest.values()
        if not row["deleted_at"] and row["record_id"] > deleted.get(row["target_id"], "")
    ]
    states: dict[str, list[int]] = {}
    for trace in {trace for trace, _ in spans}:
        parts = [row for (of, _), row in spans.items() if of == trace]
        codes = [row["status"]["code"] for row in parts if row["parent_span_id"] is None]
        state = {"STATUS_CODE_ERROR": "ERROR", "STATUS_CODE_OK": "OK", "": "IN_PROGRESS"}[
            next(iter(codes), "")
        ]
        ends = [row["end_time_unix_nano"] // 10**6 for row in parts if row["end_time_unix_nano"]]
        begin = min(row["start_time_unix_nano"] // 10**6 for row in parts)
        found = states.setdefault(state, [0, 0, 0])
        found[0] += 1
        found[1] += len(parts)
        found[2] += max(ends) - begin if ends else 0
    assert lake.rows(
        "SELECT state, COUNT(*) AS traces, SUM(SIZE(spans)) AS spans,"
        " SUM(execution_duration_ms) AS ms FROM mlflow_trace_unified GROUP BY state ORDER BY state"
    ) == [
        {"state": state, "traces": traces, "spans": count, "ms": ms}
        for state, (traces, count, ms) in sorted(states.items())
    ]

    scores: dict[str, list[bool]] = {}
    known = {trace for trace, _ in spans}
    for row in said:
        if row["annotation_type"] == "FEEDBACK" and row["target_id"] in known and row["valid"]:
            scores.setdefault(row["name"], []).append(row["value"] == "true")
    assert lake.rows(
        "SELECT a.assessment_name AS name, COUNT(*) AS n, "
        " COUNT_IF(a.feedback.value = 'true') AS yes"
        " FROM mlflow_trace_unified LATERAL VIEW EXPLODE(assessments) t AS a"
        " WHERE a.valid GROUP BY 1 ORDER BY 1"
    ) == [{"name": k, "n": len(v), "yes": sum(v)} for k, v in sorted(scores.items())]

    channels = Counter(
        json.loads(row["value"])
        for row in said
        if row["annotation_type"] == "TAG" and row["target_id"] in known
    )
    assert lake.rows(
        "SELECT tags['channel'] AS channel, COUNT(*) AS n FROM mlflow_trace_unified"
        " WHERE tags['channel'] IS NOT NULL GROUP BY 1 ORDER BY 1"
    ) == [{"channel": name, "n": count} for name, count in sorted(channels.items())]
    assert min(len(deleted), len(states), len(scores), len(channels)) > 1


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
