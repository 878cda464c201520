"""Simulated days: what fires, when, with which evidence, and what doesn't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alerts_support import DAY, HOUR, MINUTE, T0, Days
from vedette.named_sql import statements

BELOW = "polite_below_0_80_24h"


@pytest.fixture
def days(tmp_path: Path) -> Days:
    days = Days(tmp_path)
    days.start()
    return days


def passes(rate: float, count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < rate


def test_a_fall_of_a_tenth_fires_with_its_evidence(days: Days) -> None:
    days.add(BELOW, notify=["https://example.org/hook"])
    after = days.run(BELOW, passes(0.7, 400))
    assert after is not None
    rule = days.rule(BELOW)
    assert rule.evidence["e_value"] >= 20
    assert rule.evidence["low"] <= 0.7 <= rule.evidence["high"]
    assert rule.evidence["estimate"] < 0.8
    assert len(rule.evidence["examples"]) == 5
    assert "it must be at least 0.8" in rule.why
    assert days.events(BELOW)[-1] == "firing"
    assert days.sent(BELOW) == ["firing"]


def test_two_days_on_the_limit_do_not_fire(days: Days) -> None:
    days.add(BELOW)
    assert days.run(BELOW, passes(0.8, 2000), look=10) is None
    assert days.rule(BELOW).state in ("ok", "pending")


def test_a_fall_after_good_days_fires_long_before_the_day_is_over(days: Days) -> None:
    days.add(BELOW)
    assert days.run(BELOW, passes(0.95, 1000), look=20) is None
    after = days.run(BELOW, passes(0.6, 300), start=T0 + 1000 * MINUTE, look=5)
    assert after is not None
    assert after < 200
    # Of the whole day the mean is still above the limit: what is told is since when it is below
    assert days.rule(BELOW).evidence["since_ms"] > T0 + 900 * MINUTE


def test_what_recovers_is_resolved_and_told_once(days: Days) -> None:
    days.add(BELOW, notify=["https://example.org/hook"])
    assert days.run(BELOW, passes(0.5, 200), look=5)
    start = T0 + 200 * MINUTE
    days.traces(
        [start + number * MINUTE for number in range(400)], list(map(bool, passes(0.97, 400)))
    )
    days.look(start + 400 * MINUTE)
    days.look(start + 401 * MINUTE)
    assert days.rule(BELOW).state == "resolved"
    assert days.sent(BELOW) == ["firing", "resolved"]
    days.look(start + 402 * MINUTE)
    assert days.sent(BELOW) == ["firing", "resolved"]


def test_a_change_of_the_rate_at_noon_raises_nothing_and_biases_nothing(tmp_path: Path) -> None:
    days = Days(tmp_path)
    days.start(rates=(0.05, 0.5))
    days.add(BELOW)
    days.run(BELOW, passes(0.82, 100), every=10 * MINUTE, look=10, rate=0.05, epoch=1)
    start = T0 + 1000 * MINUTE
    fired = days.run(BELOW, passes(0.82, 400, 2), start=start, look=20, rate=0.5, epoch=2)
    assert fired is None
    evidence = days.rule(BELOW).evidence
    assert evidence["low"] <= 0.82 <= evidence["high"]


def test_a_drift_is_found_against_the_windows_before(days: Days) -> None:
    name = "polite_drift_neg_0_05_6h"
    days.add(name)
    calm = passes(0.9, 2400)
    days.traces([T0 + number * MINUTE for number in range(2400)], list(map(bool, calm)))
    days.look(T0 + 2400 * MINUTE)
    assert days.rule(name).state == "ok"
    after = days.run(name, passes(0.5, 300), start=T0 + 2401 * MINUTE, look=5)
    assert after is not None
    assert after < 120
    assert "below what the 7 windows before were" in days.rule(name).why


def test_sessions_count_once(days: Days) -> None:
    """Ten traces alike of each of 30 sessions are 30 units, not 300."""
    days.add(BELOW)
    for number, passed in enumerate(passes(0.8, 30, 4)):
        at = [T0 + number * HOUR + turn for turn in range(10)]
        days.traces(at, [bool(passed)] * 10, session=f"session {number}")
        days.look(at[-1] + 1)
    assert days.rule(BELOW).state in ("ok", "pending")
    memory = days.rule(BELOW).memory
    assert memory is not None
    assert memory["session"] > 4


def test_errors_and_latency_have_limits_too(days: Days) -> None:
    days.add("error_rate_above_0_05_1h")
    days.add("latency_p95_above_8s_1h")
    times = [T0 + number * 10_000 for number in range(300)]
    failed = passes(0.3, 300)
    days.traces(
        times,
        statuses=["ERROR" if one else "OK" for one in failed],
        milliseconds=[20_000 if one else 50 for one in failed],
    )
    days.look(times[-1] + 1)
    for name in ("error_rate_above_0_05_1h", "latency_p95_above_8s_1h"):
        rule = days.rule(name)
        assert rule.state == "firing", rule.why
        assert rule.evidence["estimate"] == pytest.approx(0.3, abs=0.1)


def test_a_slice_sees_its_traces_alone(days: Days) -> None:
    days.add("slow ones", condition=BELOW, slice="attributes.execution_time_ms > 1000")
    days.add("fast ones", condition=BELOW, slice="attributes.execution_time_ms <= 1000")
    times = [T0 + number * MINUTE for number in range(200)]
    slow = [number % 2 == 0 for number in range(200)]
    days.traces(times, [not one for one in slow], milliseconds=[5000 if one else 5 for one in slow])
    days.look(times[-1] + 1)
    assert days.rule("slow ones").state == "firing"
    assert days.rule("fast ones").state == "ok"


def test_a_minimum_effect_keeps_what_is_sure_but_small_from_firing(days: Days) -> None:
    days.add(BELOW, minimum_effect=0.3)
    assert days.run(BELOW, passes(0.65, 300), look=20) is None
    assert days.rule(BELOW).state == "pending"
    assert "less than the minimum effect" in days.rule(BELOW).why


def test_scores_with_other_bounds(days: Days) -> None:
    days.add("stars", condition="polite_below_4_00_24h", bounds=[1, 5])
    days.add("no bounds", condition=BELOW)
    times = [T0 + number * MINUTE for number in range(200)]
    days.traces(times, [2 + number % 3 for number in range(200)])
    days.look(times[-1] + 1)
    stars = days.rule("stars")
    assert stars.state == "firing"
    assert stars.evidence["estimate"] == pytest.approx(3.0, abs=0.02)
    assert days.rule("no bounds").state == "no_data"
    assert "bounds" in days.rule("no bounds").why


def test_no_data_and_not_yet_complete_are_states_of_their_own(days: Days) -> None:
    days.add(BELOW)
    days.add("other_below_0_80_24h")
    days.look(T0)
    assert days.rule(BELOW).state == "no_data"
    assert "not started" in days.rule("other_below_0_80_24h").why
    days.traces([T0 + number for number in range(20)], [True] * 20)
    days.look(T0 + MINUTE)
    assert days.rule(BELOW).state == "ok"
    days.traces([T0 + 2 * MINUTE], [True], decided=False)
    days.look(T0 + 5 * MINUTE)
    rule = days.rule(BELOW)
    assert rule.state == "not_yet_complete"
    assert "180 s behind" in rule.why
    days.look(T0 + 6 * MINUTE, None)
    assert "read model" in days.rule(BELOW).why


def test_another_engine_goes_on_where_the_last_was(tmp_path: Path) -> None:
    values = passes(0.78, 120)
    found = []
    for name, restarts in (("steady", False), ("restarted", True)):
        (tmp_path / name).mkdir()
        days = Days(tmp_path / name)
        days.start()
        days.add(BELOW)
        for number, value in enumerate(values):
            days.traces([T0 + number * MINUTE], [bool(value)])
            if restarts and number % 20 == 0:
                days.restart()
            days.look(T0 + number * MINUTE + 1)
        found.append(days.rule(BELOW).evidence["e_value"])
    assert found[0] == pytest.approx(found[1])


def test_a_read_model_that_is_made_anew_counts_nothing_twice(days: Days) -> None:
    days.add(BELOW)
    days.run(BELOW, passes(0.78, 100), look=10)
    before = days.rule(BELOW).evidence["e_value"]
    with days.index.transaction() as connection:
        connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'identity'")
        connection.execute("UPDATE completed SET position = position + 1000000")
        connection.execute("UPDATE sqlite_sequence SET seq = 1000100 WHERE name = 'completed'")
        connection.execute("UPDATE scorer_cursors SET position = position + 1000000")
    days.look(T0 + 101 * MINUTE)
    assert days.rule(BELOW).evidence["e_value"] == pytest.approx(before)


def test_silence_fires_when_nothing_arrives_and_not_when_one_has_just_begun_to_listen(
    days: Days,
) -> None:
    name = "liveness_zero_traces_15m"
    days.add(name, notify=["https://example.org/hook"])
    days.look(T0)
    assert days.rule(name).state == "no_data"
    days.look(T0 + 15 * MINUTE)
    assert days.rule(name).state == "firing"
    assert days.rule(name).why == "no trace has arrived for 15m"
    days.traces([T0 + 16 * MINUTE])
    days.look(T0 + 17 * MINUTE)
    assert days.rule(name).state == "resolved"
    days.look(T0 + 20 * MINUTE)
    days.look(T0 + 31 * MINUTE)
    assert days.rule(name).state == "ok" or days.rule(name).state == "resolved"
    # What has arrived isn't known: that is no silence
    days.look(T0 + 60 * MINUTE, T0 + 31 * MINUTE)
    assert days.rule(name).state == "not_yet_complete"
    days.look(T0 + 61 * MINUTE)
    assert days.rule(name).state == "firing"
    assert days.sent(name) == ["firing", "resolved", "firing"]


def test_volume_is_compared_with_the_same_time_of_other_days(days: Days) -> None:
    name = "volume_anomaly_1h"
    midnight = T0 - T0 % DAY + DAY
    days.add(name)
    for day in range(9):
        per_hour = 100 + day % 3
        start = midnight + day * DAY
        days.traces([start + number * (HOUR // per_hour) for number in range(per_hour)])
        days.look(start + HOUR + MINUTE)
        assert days.rule(name).state == ("no_data" if day < 7 else "ok"), days.rule(name).why
    start = midnight + 9 * DAY
    days.traces([start + number * MINUTE for number in range(9)])
    days.look(start + HOUR + MINUTE)
    assert days.rule(name).state == "firing"
    assert "9 traces in the 1h" in days.rule(name).why


def test_peoples_feedback_counts_the_latest_of_each(days: Days) -> None:
    name = "human_negative_feedback_ge_3_24h"
    days.add(name)
    days.add("human_judge_divergence_0_10_1h")
    midnight = T0 - T0 % HOUR + HOUR
    traces = days.traces([midnight + number for number in range(40)], [True] * 40)
    with days.index.transaction() as connection:
        for number, trace in enumerate(traces):
            for version, value in enumerate(("false", "true" if number < 3 else "false")):
                connection.execute(
                    "INSERT INTO assessments SELECT ?, id, 'user_feedback', 'feedback', ?, NULL, ?,"
                    " ?, 'HUMAN', 'user-1', NULL, NULL, NULL, NULL, 1, NULL, NULL, 0"
                    " FROM traces WHERE trace_id = ?",
                    (f"{trace} {version}", value, *(midnight + number * 10 + version,) * 2, trace),
                )
    days.look(midnight + HOUR + MINUTE)
    rule = days.rule(name)
    assert rule.state == "firing"
    assert rule.evidence["estimate"] == 37
    divergence = days.rule("human_judge_divergence_0_10_1h")
    assert divergence.state == "firing", divergence.why
    assert divergence.evidence["estimate"] == pytest.approx(3 / 40 - 1)


def test_nothing_reads_a_whole_table_at_each_look(days: Days) -> None:
    """With 1,000,000 traces a look must cost what is new, or what a window holds."""
    # A new read model, or an experiment without any traffic; rows that are few
    rare = {"place_of_arrival", "first_arrival", "retrying", "newest_place"}
    connection = days.index.connection()
    for name, statement in statements("vedette.alerts", "traffic").items():
        text = statement.replace("(%s)", "(t.experiment_id IN (1))")
        count = 2 if "?2" in text else 1 if "?1" in text else text.count("?")
        values = ["[]" if "json_each" in text and not at else 1 for at in range(count)]
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        scans = [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step]
        assert name in rare or all("VIRTUAL" in step for step in scans), (name, plan)
        by_experiment = [step for step in plan if "(experiment_id=?)" in step]
        assert by_experiment == [], (name, plan)


def test_what_judges_cost(days: Days) -> None:
    name = "judge_cost_above_5usd_1h"
    days.add(name)
    for minute, total in ((0, 100.0), (30, 104.0), (61, 106.0), (130, 106.5)):
        with days.index.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO scorer_costs VALUES ('1/polite', 1, 1, 1, 1, ?)", (total,)
            )
        days.look(T0 + minute * MINUTE)
        expected = {0: "ok", 30: "ok", 61: "firing", 130: "resolved"}
        assert days.rule(name).state == expected[minute], days.rule(name).why
