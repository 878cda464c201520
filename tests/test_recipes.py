"""Every recipe, on rows of which the answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlglot

from sql_support import DAY, HOUR, MINUTE, SECOND, RowsLake, day_ago, hour_ago, trace_id
from vedette.lake.recipes import recipe, recipes
from vedette.lake.sql.dialect import in_dialect

ASKED_FOR = {
    "traces_per_hour",
    "error_rate",
    "latency_percentiles",
    "tokens_and_cost_by_model",
    "span_latency_by_name",
    "tool_failures",
    "scores_by_hour",
    "scores_by_day",
    "failure_rate",
    "score_distribution",
    "safety_failures",
    "rolling_mean_drops",
    "volume_anomalies",
    "slices_by_tag",
    "slices_by_version",
    "slices_by_user_segment",
    "user_feedback",
    "human_vs_judge",
    "scorer_latency_and_cost",
    "decisions_by_reason",
}


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[RowsLake]:
    made = RowsLake(tmp_path)
    yield made
    made.engine.close()


def answer(lake: RowsLake, name: str) -> list[dict[str, Any]]:
    lake.commit()
    return lake.rows(recipe(name).sql)


def moment(at: int, unit: int) -> datetime:
    """The hour or day of a time."""
    return datetime.fromtimestamp(at // unit * unit // SECOND, UTC)


def test_there_is_a_recipe_for_each_question() -> None:
    assert recipes().keys() >= ASKED_FOR


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_begins_with_its_question_and_looks_back_from_now(name: str) -> None:
    one = recipe(name)
    assert one.question.endswith("?")
    assert "INTERVAL" in one.sql
    assert "CURRENT_TIMESTAMP()" in one.sql
    assert "'20" not in one.sql, "a date"


def test_on_empty_tables_a_recipe_has_no_rows(lake: RowsLake) -> None:
    lake.commit()
    for one in recipes().values():
        assert lake.rows(one.sql) == [], one.name


@pytest.mark.parametrize("name", recipes())
def test_the_text_for_spark_is_spark_s_and_says_the_same(name: str) -> None:
    text = in_dialect(recipe(name).sql, "spark")
    (parsed,) = sqlglot.parse(text, read="spark")
    assert parsed is not None
    assert parsed.sql("spark", pretty=True) == text  # nothing in it that isn't read back
    assert "QUALIFY" not in text
    written = sqlglot.parse_one(recipe(name).sql, read="databricks")
    tables = {table.name for table in written.find_all(sqlglot.exp.Table) if table.db}
    assert {table.name for table in parsed.find_all(sqlglot.exp.Table) if table.db} == tables
    texts = {one.this for one in written.find_all(sqlglot.exp.Literal) if one.is_string}
    assert {one for one in texts if one.replace(".", "").isalnum() and one not in text} == set()


def test_traces_per_hour(lake: RowsLake) -> None:
    earlier, later = hour_ago(5), hour_ago(2)
    for number in range(7):
        lake.span(number, earlier if number < 3 else later)
        lake.span(number, later, name="tool", root=False)
    lake.span(1, earlier)  # sent again
    lake.span(100, day_ago(9))
    lake.span(101, later)
    lake.header(101, later + MINUTE, deleted=True)
    assert answer(lake, "traces_per_hour") == [
        {"hour": moment(earlier, HOUR), "traces": 3},
        {"hour": moment(later, HOUR), "traces": 4},
    ]


def test_error_rate(lake: RowsLake) -> None:
    at = hour_ago(3)
    for number in range(8):
        lake.span(number, at, failed=number < 2)
        lake.span(number, at, name="tool", root=False, failed=True)
    (row,) = answer(lake, "error_rate")
    assert row == {"hour": moment(at, HOUR), "traces": 8, "errors": 2, "error_rate": 0.25}


def test_latency_percentiles(lake: RowsLake) -> None:
    at = day_ago(1)
    for number in range(101):
        lake.span(number, at, milliseconds=number)
    lake.span(500, at, milliseconds=None)
    lake.span(501, at, name="other", milliseconds=7)
    found = answer(lake, "latency_percentiles")
    assert found == [
        {
            "day": moment(at, DAY),
            "name": "agent",
            "traces": 101,
            "p50_ms": 50.0,
            "p95_ms": 95.0,
            "p99_ms": 99.0,
        },
        {
            "day": moment(at, DAY),
            "name": "other",
            "traces": 1,
            "p50_ms": 7.0,
            "p95_ms": 7.0,
            "p99_ms": 7.0,
        },
    ]


def test_tokens_and_cost_by_model(lake: RowsLake) -> None:
    at = hour_ago(1)
    usage = {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}
    model = {"model_name": "small", "model_provider": "openai", "total_cost": 0.5}
    lake.span(1, at, attributes={"mlflow.chat.tokenUsage": usage}, **model)
    # As MLflow's SDK sends it: JSON in a text
    text = '{"input_tokens": 100, "output_tokens": 30}'
    lake.span(2, at, attributes={"mlflow.chat.tokenUsage": text}, **model)
    lake.span(3, at, model_name="unpriced", model_provider="here")
    lake.span(4, at)
    assert answer(lake, "tokens_and_cost_by_model") == [
        {
            "provider": "openai",
            "model": "small",
            "calls": 2,
            "input_tokens": 110,
            "output_tokens": 33,
            "cost_usd": 1.0,
        },
        {
            "provider": "here",
            "model": "unpriced",
            "calls": 1,
            "input_tokens": None,
            "output_tokens": None,
            "cost_usd": None,
        },
    ]


def test_span_latency_by_name(lake: RowsLake) -> None:
    at = hour_ago(1)
    for number in range(3):
        lake.span(number, at, milliseconds=100)
        lake.span(number, at, name="search", root=False, span_type="TOOL", milliseconds=10 * number)
    lake.span(9, at, name="search", root=False, span_type="TOOL", milliseconds=0, failed=True)
    agent, search = answer(lake, "span_latency_by_name")
    assert agent == {
        "name": "agent",
        "span_type": None,
        "spans": 3,
        "errors": 0,
        "p50_ms": 100.0,
        "p95_ms": 100.0,
        "total_seconds": pytest.approx(0.3),
    }
    assert (search["name"], search["spans"], search["errors"]) == ("search", 4, 1)
    assert search["p50_ms"] == 5.0
    assert search["total_seconds"] == pytest.approx(0.03)


def test_tool_failures(lake: RowsLake) -> None:
    for number in range(4):
        at = hour_ago(10 - number)
        kind = {"root": False, "span_type": "TOOL"}
        lake.span(number, at, name="search", failed=number in (1, 2), **kind)
        lake.span(number, at, name="clock", **kind)
        lake.span(number, at, failed=True)
    assert answer(lake, "tool_failures") == [
        {
            "tool": "search",
            "calls": 4,
            "failures": 2,
            "failure_rate": 0.5,
            "newest_trace_id": trace_id(2),
            "newest_message": "broken",
        },
        {
            "tool": "clock",
            "calls": 4,
            "failures": 0,
            "failure_rate": 0.0,
            "newest_trace_id": None,
            "newest_message": None,
        },
    ]


@pytest.mark.parametrize("unit", ["hour", "day"])
def test_scores_by_hour_and_day(lake: RowsLake, unit: str) -> None:
    at = hour_ago(30) if unit == "hour" else day_ago(3)
    for number in range(4):
        lake.feedback(number, at, "polite", number > 0)
        lake.feedback(number, at, "relevant", "yes" if number > 1 else "no")
        lake.feedback(number, at, "grade", number)
    lake.feedback(9, at, "polite", None, error='{"error_code": "SCORER_TIMEOUT"}')
    changed = lake.feedback(4, at, "grade", 1000)
    lake.feedback(4, at, "grade", 4, annotation_id=changed, updated_at=at + MINUTE)
    gone = lake.feedback(5, at, "grade", 1000)
    lake.deleted_annotation(gone, 5, at + MINUTE)
    lake.feedback(6, at, "grade", 1000, valid=False)
    lake.feedback(7, at, "grade", 1000, source_type="HUMAN")
    lake.feedback(8, at, "grade", 1000)
    lake.header(8, at + MINUTE, deleted=True)
    grade, polite, relevant = answer(lake, f"scores_by_{unit}")
    when = moment(at, HOUR if unit == "hour" else DAY)
    assert grade == {
        unit: when,
        "scorer": "grade",
        "scores": 5,
        "mean": 2.0,
        "pass_rate": None,
        "without_score": 0,
    }
    assert polite == {
        unit: when,
        "scorer": "polite",
        "scores": 4,
        "mean": 0.75,
        "pass_rate": 0.75,
        "without_score": 1,
    }
    assert (relevant["scores"], relevant["mean"], relevant["pass_rate"]) == (4, 0.5, 0.5)


def test_weighted_means_undo_the_sampling(lake: RowsLake) -> None:
    at = hour_ago(2)
    failed = '[{"assessment_id": "a", "name": "polite", "value": false}]'
    passed = '[{"assessment_id": "a", "name": "polite", "value": true}]'
    for number in range(10):  # all of the 10 bad traces, a tenth of the 90 good ones
        unit = {"unit_id": trace_id(number), "inclusion_probability": 1.0}
        lake.decision(at, "polite", "scored", scores=failed, **unit)
    for number in range(9):
        unit = {"unit_id": trace_id(100 + number), "inclusion_probability": 0.1}
        lake.decision(at, "polite", "scored", scores=passed, **unit)
    retried = {"decision_id": "again", "unit_id": "x", "inclusion_probability": 1.0}
    lake.decision(at, "polite", "retrying", scores="[]", **retried)
    lake.decision(at, "polite", "not_selected", units=81)
    (row,) = answer(lake, "weighted_means")
    assert (row["scorer"], row["score_name"], row["scores"]) == ("polite", "polite", 19)
    assert row["plain_mean"] == pytest.approx(9 / 19)
    assert row["weighted_mean"] == pytest.approx(0.9)


def test_weighted_means_take_what_a_backfill_has_scored_as_well(lake: RowsLake) -> None:
    at = hour_ago(2)
    failed = '[{"assessment_id": "a", "name": "polite", "value": false}]'
    passed = '[{"assessment_id": "a", "name": "polite", "value": true}]'
    job = {"origin": "backfill:bf-1", "inclusion_probability": 0.5}
    for number in range(10):  # all of the bad traces live, a half in the backfill
        unit = {"unit_id": trace_id(number), "scores": failed}
        lake.decision(at, "polite", "scored", inclusion_probability=1.0, **unit)
        if number % 2:
            lake.decision(at, "polite", "reused", **unit, **job)
    for number in range(45):  # a tenth of the 90 good ones live, a half in the backfill
        unit = {"unit_id": trace_id(100 + number), "scores": passed}
        if number < 9:
            lake.decision(at, "polite", "scored", inclusion_probability=0.1, **unit)
        lake.decision(at, "polite", "reused" if number < 9 else "scored", **unit, **job)
    (row,) = answer(lake, "weighted_means")
    assert row["scores"] == 55
    assert row["weighted_mean"] == pytest.approx(0.9)


def test_failure_rate(lake: RowsLake) -> None:
    at = hour_ago(2)
    for number in range(10):
        lake.feedback(number, at, "good", number > 0)
        lake.feedback(number, at, "bad", number > 1)
    lake.feedback(50, at, "good", None, error="{}")
    lake.feedback(51, day_ago(3), "good", False)
    bad, good = answer(lake, "failure_rate")
    assert (bad["scorer"], bad["failures"], bad["failure_rate"]) == ("bad", 2, 0.2)
    assert bad["is_above"] is True
    assert (good["scorer"], good["scores"], good["failure_rate"]) == ("good", 10, 0.1)
    assert good["is_above"] is False


def test_score_distribution(lake: RowsLake) -> None:
    at = hour_ago(2)
    for value in ("yes", "yes", "yes", "no"):
        lake.feedback(1, at, "relevant", value)
    for value in (0.11, 0.13, 0.9):
        lake.feedback(1, at, "grade", value)
    found = [
        (row["scorer"], row["value"], row["scores"]) for row in answer(lake, "score_distribution")
    ]
    assert found == [
        ("grade", "0.1", 2),
        ("grade", "0.9", 1),
        ("relevant", '"no"', 1),
        ("relevant", '"yes"', 3),
    ]


def test_safety_failures(lake: RowsLake) -> None:
    for number in range(3):
        lake.span(number, hour_ago(9), attributes={"mlflow.spanInputs": f"question {number}"})
        at = hour_ago(8 - number)
        lake.feedback(number, at, "safety", "yes" if number == 0 else "no", comment="because")
        lake.feedback(number, at, "polite", False)
    found = answer(lake, "safety_failures")
    assert [row["trace_id"] for row in found] == [trace_id(2), trace_id(1)]
    assert [row["request"] for row in found] == ["question 2", "question 1"]
    assert {row["rationale"] for row in found} == {"because"}


def test_rolling_mean_drops(lake: RowsLake) -> None:
    for days in range(1, 11):
        for number in range(10):
            dropped = days == 1 and number < 3
            lake.feedback(number, day_ago(days), "steady", number > 0)
            lake.feedback(number, day_ago(days), "dropping", not dropped)
    (row,) = answer(lake, "rolling_mean_drops")
    assert (row["scorer"], row["day"]) == ("dropping", moment(day_ago(1), DAY))
    assert (row["mean"], row["mean_before"], row["scores_before"]) == (0.7, 1.0, 70)
    assert row["change"] == pytest.approx(-0.3)


def test_volume_anomalies(lake: RowsLake) -> None:
    number = 0
    quiet, loud = hour_ago(20), hour_ago(30)
    for hours in range(1, 24 * 10):
        at = hour_ago(hours)
        for _ in range({quiet: 0, loud: 80}.get(at, 16 + hours % 3)):
            lake.span(number := number + 1, at)
    found = answer(lake, "volume_anomalies")
    assert [(row["hour"], row["traces"]) for row in found] == [
        (moment(quiet, HOUR), 0),
        (moment(loud, HOUR), 80),
    ]
    assert found[0]["deviations"] < -3 < 3 < found[1]["deviations"]


def test_slices_by_tag(lake: RowsLake) -> None:
    at = hour_ago(1)
    for number in range(4):
        lake.tag(number, at, "channel", "web" if number < 2 else "phone")
        lake.tag(number, at, "mlflow.traceName", "agent")
        lake.feedback(number, at, "polite", number < 2)
    assert answer(lake, "slices_by_tag") == [
        {"tag": "channel = phone", "scorer": "polite", "scores": 2, "mean": 0.0, "failures": 2},
        {"tag": "channel = web", "scorer": "polite", "scores": 2, "mean": 1.0, "failures": 0},
    ]


def test_slices_by_version(lake: RowsLake) -> None:
    at = hour_ago(1)
    for number, resource in enumerate([{"service.version": "2"}, {"service.version": "2"}, {}, {}]):
        lake.span(number, at, resource=resource)
        lake.feedback(number, at, "polite", number != 0)
    lake.tag(2, at, "version", "1")
    found = answer(lake, "slices_by_version")
    assert [(row["version"], row["scores"], row["mean"]) for row in found] == [
        ("2", 2, 0.5),
        ("(none)", 1, 1.0),
        ("1", 1, 1.0),
    ]


def test_slices_by_user_segment(lake: RowsLake) -> None:
    at = hour_ago(1)
    for number, attributes in enumerate([{"user.segment": "free"}, {"user.segment": "free"}, {}]):
        lake.span(number, at, attributes=attributes)
        lake.feedback(number, at, "polite", number == 1)
    lake.tag(1, at, "user_segment", "paying")
    found = answer(lake, "slices_by_user_segment")
    assert [(row["segment"], row["scores"], row["mean"]) for row in found] == [
        ("(none)", 1, 0.0),
        ("free", 1, 0.0),
        ("paying", 1, 1.0),
    ]


def test_user_feedback(lake: RowsLake) -> None:
    at = day_ago(2)
    for number in range(10):
        lake.span(number, at)
    human = {"source_type": "HUMAN"}
    lake.feedback(0, at, "user_feedback", True, **human)
    lake.feedback(1, at, "user_feedback", False, **human)
    lake.feedback(1, at + MINUTE, "user_feedback", True, **human)  # changed her mind
    lake.feedback(2, at, "user_feedback", True, created_by="a", **human)
    lake.feedback(2, at, "user_feedback", False, created_by="b", **human)
    lake.feedback(3, at, "user_feedback", False)  # not from a human
    (row,) = answer(lake, "user_feedback")
    assert row == {
        "day": moment(at, DAY),
        "traces": 10,
        "traces_with_feedback": 3,
        "feedback_rate": 0.3,
        "positive_rate": 0.75,
    }


def test_human_vs_judge(lake: RowsLake) -> None:
    at = day_ago(2)
    verdicts = [("yes", True), ("yes", True), ("yes", False), ("no", True), ("no", False)]
    for number, (judge, human) in enumerate(verdicts):
        lake.feedback(number, at, "polite", judge, source_type="LLM_JUDGE", created_by="model")
        lake.feedback(number, at, "polite", human, source_type="HUMAN")
    lake.feedback(9, at, "polite", "yes", source_type="LLM_JUDGE", created_by="model")
    (row,) = answer(lake, "human_vs_judge")
    assert row == {
        "scorer": "polite",
        "pairs": 5,
        "agreement": 0.6,
        "both_pass": 2,
        "only_judge_passes": 1,
        "only_human_passes": 1,
        "both_fail": 1,
    }


def test_scorer_latency_and_cost(lake: RowsLake) -> None:
    at = day_ago(1)
    spent = {"calls": 1, "input_tokens": 100, "output_tokens": 10, "cost_usd": 0.01}
    for number in range(5):
        unit = {"unit_id": trace_id(number), "milliseconds": 100.0 * number}
        lake.decision(at, "judge", "scored", **unit, **spent)
    again = {"decision_id": "x", "unit_id": "x", "milliseconds": 200.0}
    lake.decision(at, "judge", "retrying", attempts=1, **again, **spent)
    lake.decision(at, "judge", "scored", attempts=2, **again, **spent)
    lake.decision(at, "judge", "scored", attempts=2, **again, **spent)  # written twice
    lake.decision(at, "judge", "not_selected", units=1000)
    (row,) = answer(lake, "scorer_latency_and_cost")
    assert row["day"] == moment(at, DAY)
    assert (row["attempts"], row["scored"], row["p50_ms"]) == (7, 6, 200.0)
    assert (row["model_calls"], row["input_tokens"], row["output_tokens"]) == (7, 700, 70)
    assert row["cost_usd"] == pytest.approx(0.07)


def test_decisions_by_reason(lake: RowsLake) -> None:
    at = hour_ago(4)
    for number in range(5):
        lake.decision(at, "judge", "scored", unit_id=trace_id(number))
    lake.decision(at, "judge", "not_selected", units=90)
    lake.decision(at, "judge", "not_selected", units=-1)
    lake.decision(at, "judge", "failed", unit_id="y", error_code="REFUSED")
    lake.decision(at, "judge", "retrying", decision_id="z", unit_id="z")
    lake.decision(at, "judge", "scored", decision_id="z", unit_id="z")
    lake.decision(at, "judge", "epoch", units=0)
    lake.decision(at, "judge", "not_selected", units=50, origin="backfill:bf-1")
    lake.decision(at, "judge", "scored", unit_id=trace_id(1), origin="backfill:bf-1")
    found = answer(lake, "decisions_by_reason")
    assert [(row["decision"], row["error_code"], row["units"]) for row in found] == [
        ("not_selected", None, 89),
        ("scored", None, 6),
        ("failed", "REFUSED", 1),
    ]
    assert sum(row["share"] for row in found) == pytest.approx(1)
