"""The numbers under the pages: what the mirror's SQL sums up is what `vedette.quality` says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vedette.monitor.figures.overview import Overview, overview
from vedette.monitor.figures.period import RANGES, PeriodError, period
from vedette.monitor.figures.scorer import ScorerDetail, scorer_detail
from vedette.monitor.figures.scores import score_series
from vedette.monitor.figures.sums import finite
from vedette.monitor.figures.verdicts import NUMBER, POINTS, share_change, verdict
from vedette.quality.difference import difference, shared_sessions
from vedette.quality.estimate import Estimate
from vedette.quality.mean import mean
from vedette.quality.moments import moments
from vedette.quality.proportion import proportion
from vedette.quality.quantile import quantile
from vedette.quality.shares import shares
from vedette.traces.columns import Columns
from vedette.traces.index import TraceIndex

NOW = 1_790_000_000_000
HOUR = 3_600_000
ROW = {
    "active": True,
    "rate": 0.5,
    "lag_seconds": 2.0,
    "problem": None,
    "unit": "trace",
    "waiting": 12,
}


@dataclass(frozen=True)
class Trace:
    """A trace as it is written into the read model."""

    at_ms: int
    session: str | None = None
    failed: bool = False
    took_ms: int | None = 100
    evaluation: bool = False
    tokens: int | None = 10
    cost: float | None = 0.01


class Model:
    """A read model that is written to directly, and its mirror."""

    def __init__(self, directory: Path) -> None:
        self.index = TraceIndex(directory / "index.db")
        self.columns = Columns(None)
        self.count = 0

    def add(self, trace: Trace, experiment_id: int = 1) -> str:
        """Returns its id."""
        self.count += 1
        row, trace_id = self.count, f"tr-{self.count}"
        with self.index.transaction() as connection:
            connection.execute(
                "INSERT INTO traces (id, trace_id, experiment_id, timestamp_ms, execution_time_ms,"
                " status, finalized, session_id, input_tokens, output_tokens, total_tokens,"
                " total_cost, has_root, span_count, first_received_ms, last_received_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 1, 1, ?, ?)",
                (
                    row,
                    trace_id,
                    experiment_id,
                    trace.at_ms,
                    trace.took_ms,
                    "ERROR" if trace.failed else "OK",
                    trace.session,
                    *(trace.tokens,) * 3,
                    trace.cost,
                    trace.at_ms,
                    trace.at_ms,
                ),
            )
            if trace.evaluation:
                connection.execute(
                    "INSERT INTO trace_metadata VALUES (?, 'mlflow.sourceRun', 'run')", (row,)
                )
            self._note(row)
        return trace_id

    def score(self, trace_id: str, value: Any, *, name: str = "good", **changes: Any) -> None:
        """A decision of the scorer ``name`` on a trace; ``changes`` are columns of its row."""
        scores = [{"assessment_id": "a", "name": changes.pop("score", name), "value": value}]
        row = {
            "scorer": f"1/{name}",
            "unit_id": trace_id,
            "revision": 0,
            "unit_type": "trace",
            "trace_id": trace_id,
            "version": 1,
            "epoch": 1,
            "stratum": -1,
            "inclusion_probability": 1.0,
            "draw": 0.0,
            "decision": "scored",
            "scores": json.dumps(scores),
            "attempts": 1,
            "calls": 0,
            "completed_ms": NOW,
            "decided_ms": NOW,
            "origin": "live",
        } | changes
        with self.index.transaction() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO decisions ({', '.join(row)})"
                f" VALUES ({', '.join('?' * len(row))})",
                tuple(row.values()),
            )
            self._note(int(str(row["trace_id"]).removeprefix("tr-")))

    def _note(self, row: int) -> None:
        connection = self.index.connection()
        connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'batch'")
        connection.execute(
            "INSERT INTO changes SELECT value, ? FROM counters WHERE name = 'batch'", (row,)
        )

    def overview(
        self, name: str = "24h", scorers: Sequence[str] = ("good",), **row: Any
    ) -> Overview:
        """Of experiment 1, up to `NOW`."""
        rows = [{**ROW, "scorer": one, **row} for one in scorers]
        with self.columns.reading(self.index.connection()) as ask:
            return overview(ask, "1", period(name, str(NOW)), rows)

    def detail(self, scorer: str = "good") -> ScorerDetail:
        """Of the 24 hours up to `NOW`."""
        index = self.index.connection()
        with self.columns.reading(index) as ask:
            return scorer_detail(ask, index, "1", period("24h", str(NOW)), scorer)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    made = Model(tmp_path)
    yield made
    made.columns.close()


def same(found: Estimate, expected: Estimate) -> bool:
    return np.allclose(
        [float(one) for one in found], [float(one) for one in expected], rtol=1e-9, equal_nan=True
    )


def test_figures_are_those_of_quality_over_the_single_traces(model: Model) -> None:
    """Sessions over both periods, traces of none, three rates, every kind of figure."""
    random = np.random.default_rng(5)
    span = period("24h", str(NOW))
    rows = []
    for number in range(400):
        at = int(random.integers(span.previous_since_ms - HOUR, NOW))
        session = None if number % 3 == 0 else f"s{number // 7}"
        failed = bool(random.random() < 0.2)
        took = None if number % 11 == 0 else int(random.lognormal(6, 1))
        trace_id = model.add(Trace(at, session, failed, took))
        value = bool(random.random() < 0.8)
        grade = float(random.integers(1, 6))
        share = float(random.choice([0.1, 0.5, 1.0]))
        for name, score in (("good", value), ("grade", grade)):
            model.score(trace_id, score, name=name, inclusion_probability=share)
        after = at >= span.since_ms
        if after or span.previous_since_ms <= at < span.previous_until_ms:
            own = session or trace_id
            rows.append((after, own, failed, np.nan if took is None else took, value, grade, share))
    found = model.overview(scorers=("good", "grade"))
    assert found.period == span

    after, session, failed, took, value, grade, share = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    for side, told in ((after, found.traffic), (~after, found.before)):
        assert told.traces == side.sum()
        assert told.errors == failed[side].sum()
        assert same(told.error_rate, proportion(moments(failed[side], None, session[side])))
        timed = side & ~np.isnan(took)
        assert told.timed == timed.sum()
        for one, latency in told.latency.items():
            expected = quantile(took[timed], one / 100, None, session[timed], bounds=(0.0, np.inf))
            assert same(latency, expected), one
    good, numbers = found.scorers[0].scores[0], found.scorers[1].scores[0]
    assert (good.kind, numbers.kind) == ("boolean", "number")
    for score, values, of in ((good, value, proportion), (numbers, grade, mean)):
        ours, theirs = (
            moments(values[one], 1 / share[one], session[one]) for one in (after, ~after)
        )
        assert score.units == after.sum()
        assert same(score.estimate, of(ours))
        assert same(score.before, of(theirs))
        rho = shared_sessions(values, session, after, 1 / share)
        assert abs(rho) > 0.01
        assert score.level == pytest.approx(0.975)
        change = difference(of(ours, score.level), of(theirs, score.level), rho)
        assert score.verdict.change is not None
        assert same(score.verdict.change, change)


def test_a_series_has_the_same_scores_by_the_hour_and_version(model: Model) -> None:
    for number in range(40):
        trace_id = model.add(Trace(NOW - 1 - (number % 2) * 2 * HOUR, f"s{number % 8}"))
        model.score(trace_id, number % 4 > 0, version=1 + number // 20)
    (figures,) = model.overview().scorers
    (score,) = figures.scores
    assert score.versions == [1, 2]
    with model.columns.reading(model.index.connection()) as ask:
        points = score_series(ask, 1, period("24h", str(NOW)), score)
    assert [(one["version"], one["scores"]) for one in points] == [(1, 10), (2, 10)] * 2
    assert {one["at_ms"] % HOUR for one in points} == {0}
    # The earlier hour has the odd numbers: all pass, of the others every second one
    assert [one["value"] for one in points] == pytest.approx([1.0, 1.0, 0.5, 0.5])


def test_only_live_scores_count_and_of_a_unit_the_newest(model: Model) -> None:
    first, second, third, fourth = (model.add(Trace(NOW - HOUR, "chat")) for _ in range(4))
    model.score(first, True)
    model.score(second, False, origin="backfill:1")
    model.score(third, False, decision="failed")
    model.score(fourth, False, decided_ms=NOW - 2 * HOUR)  # of a trace that was deleted since
    session = {"unit_id": "chat", "unit_type": "session", "name": "calm", "trace_id": first}
    model.score(first, 0.0, revision=0, **{k: v for k, v in session.items() if k != "trace_id"})
    model.score(first, 1.0, revision=1, **{k: v for k, v in session.items() if k != "trace_id"})
    found = model.overview(scorers=("calm", "good"))
    calm, good = (one.scores[0] for one in found.scorers)
    assert (good.units, float(good.estimate.value)) == (1, 1.0)
    assert (calm.units, float(calm.estimate.value)) == (1, 1.0)
    model.score(first, False)
    assert model.overview().scorers[0].scores[0].estimate.value == 0.0


def test_words_are_passes_or_labels(model: Model) -> None:
    for number, word in enumerate(["yes", "no", "Yes", "unknown"] * 3):
        model.score(model.add(Trace(NOW - 1 - number)), word, name="judge")
    for number, word in enumerate(["refund", "refund", "order"] * 4):
        model.score(model.add(Trace(NOW - 1 - number)), word, name="topic")
    model.score(model.add(Trace(NOW - 1)), None, name="topic")  # too long for the ledger
    judge, topic = (one.scores[0] for one in model.overview(scorers=("judge", "topic")).scorers)
    assert (judge.kind, judge.units, judge.others) == ("boolean", 9, 3)
    assert float(judge.estimate.value) == pytest.approx(2 / 3)
    assert (topic.kind, topic.label, topic.units) == ("label", "refund", 12)
    assert float(topic.estimate.value) == pytest.approx(2 / 3)


def test_traffic_is_that_of_the_experiment_in_the_time_without_evaluations(model: Model) -> None:
    model.add(Trace(NOW - 1, failed=True, took_ms=None, tokens=None, cost=None))
    model.add(Trace(NOW - 2, evaluation=True))
    model.add(Trace(NOW))  # the end isn't in it
    model.add(Trace(NOW - 3), experiment_id=2)
    found = model.overview()
    assert (found.traffic.traces, found.traffic.errors, found.traffic.timed) == (1, 1, 0)
    assert (found.traffic.priced, found.traffic.tokens["total"]) == (0, 0)
    assert sum(one["traces"] for one in found.series) == 1
    assert len(found.series) == len(found.period.buckets(15 * 60_000))
    document = found.document()
    assert document["traffic"]["latency_ms"]["p50"] == {"value": None, "low": 0.0, "high": None}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_coverage_counts_units_of_the_scorers_kind(model: Model) -> None:
    for number in range(20):
        trace_id = model.add(Trace(NOW - HOUR, f"s{number // 5}"))
        if number % 10 == 0:
            model.score(trace_id, True)
    (figures,) = model.overview().scorers
    assert figures.coverage.text == "scored 10 % of 20 traces, 12 waiting"
    (figures,) = model.overview(unit="session", waiting=0).scorers
    assert figures.coverage.text == "scored 50 % of 4 sessions"
    nothing = replace(figures.coverage, scored=0, seen=0)
    assert nothing.text == "no sessions"


@pytest.mark.parametrize("name", RANGES)
def test_a_period_is_compared_with_one_as_long(name: str) -> None:
    span = period(name, str(NOW))
    length = RANGES[name].length_ms
    assert span.until_ms == NOW
    assert 0 < span.until_ms - span.since_ms <= length
    assert span.until_ms - span.since_ms == span.previous_until_ms - span.previous_since_ms
    assert span.previous_until_ms <= span.since_ms
    for bucket in (RANGES[name].score_ms, RANGES[name].traffic_ms):
        assert span.since_ms % bucket == 0
        assert len(span.buckets(bucket)) <= length / bucket


@pytest.mark.parametrize(
    ("name", "until", "said"),
    [
        ("2h", None, "one of 1h, 24h, 7d, 30d"),
        ("1h", "yesterday", "milliseconds"),
        ("1h", "-5", "milliseconds"),
        ("1h", "9" * 4000, "milliseconds"),
        ("1h", "١٢٣", "milliseconds"),
    ],
)
def test_what_is_no_period_is_refused(name: str, until: str | None, said: str) -> None:
    with pytest.raises(PeriodError, match=said):
        period(name, until)


@pytest.mark.parametrize(
    ("change", "counts", "unit", "text"),
    [
        ((-0.06, -0.09, -0.03), (500, 500), POINTS, "down 6 points, between 3 and 9"),
        ((0.06, 0.002, 0.118), (500, 500), POINTS, "up 6.0 points, between 0.2 and 11.8"),
        (
            (0.005, -0.02, 0.03),
            (500, 500),
            POINTS,
            "no change that the data can show: between -2 and +3 points",
        ),
        ((0.0, 0.0, 0.0), (9, 9), POINTS, "too few scores yet: 9"),
        ((0.3, 0.1, 0.5), (500, 3), POINTS, "too few scores before to compare with: 3"),
        ((np.nan, -np.inf, np.inf), (500, 0), POINTS, "no scores before to compare with"),
        ((np.nan, -np.inf, np.inf), (0, 500), POINTS, "no scores in this time"),
        ((0.3, -np.inf, np.inf), (50, 50), NUMBER, "these scores can't tell how sure a change is"),
        ((-0.31, -0.5, -0.12), (50, 50), NUMBER, "down 0.31, between 0.12 and 0.50"),
        ((1500, 1200, 1800), (50, 50), NUMBER, "up 1,500, between 1,200 and 1,800"),
    ],
)
def test_a_change_in_words(
    change: tuple[float, float, float], counts: tuple[int, int], unit: Any, text: str
) -> None:
    estimate = Estimate(*(np.asarray(one) for one in change))
    assert verdict(estimate, unit, *counts).text == text


@pytest.mark.parametrize(
    ("after", "before", "text"),
    [
        (0, 0, "none before either"),
        (5, 0, "none before"),
        (100, 100, "the same as before"),
        (112, 100, "12 % more than before"),
        (50, 100, "50 % less than before"),
        (5_000, 10, "500 times as much as before"),
    ],
)
def test_counts_are_compared_by_their_ratio(after: int, before: int, text: str) -> None:
    assert share_change(after, before) == text


def test_what_json_has_no_word_for_is_null() -> None:
    assert [finite(one) for one in (1, np.nan, np.inf, -np.inf)] == [1.0, None, None, None]


def test_the_traffic_spreads_over_a_scores_values(model: Model) -> None:
    grades, weights, sessions = [], [], []
    for number in range(60):
        session = f"s{number // 4}"
        grade, rate = 1 + number * 7 % 5, 1.0 if number % 3 else 0.2
        trace_id = model.add(Trace(NOW - 1 - number, session))
        model.score(trace_id, grade, name="grade", inclusion_probability=rate, milliseconds=number)
        model.score(trace_id, number * 0.37, name="fine")
        grades.append(f"{grade}")
        weights.append(1 / rate)
        sessions.append(session)
    found = model.detail("grade").spread["grade"]
    expected = shares(grades, weights, sessions)
    assert list(found) == ["1", "2", "3", "4", "5"]
    assert all(same(found[grade], expected[grade]) for grade in expected)
    fine = model.detail("fine").spread["fine"]
    assert next(iter(fine)) == "0 to 2.18"
    assert len(fine) == 10
    assert sum(float(one.value) for one in fine.values()) == pytest.approx(1)
    assert float(model.detail("grade").judging.latency[50].value) == 29


def test_the_lowest_scores_come_with_their_reasons(model: Model) -> None:
    for number in range(30):
        trace_id = model.add(Trace(NOW - 1 - number * 1000))
        model.score(trace_id, number % 3 > 0)
    connection = model.index.connection()
    connection.execute("INSERT INTO trace_previews VALUES (1, 'Where is it?', 'Here.')")
    for assessment_id, source, rationale in (
        ("a1", "LLM_JUDGE", "It isn't there."),
        ("a2", "HUMAN", "I think it is."),
    ):
        connection.execute(
            "INSERT INTO assessments VALUES (?, 1, 'good', 'feedback', 'false', NULL, 1, 1, ?, '',"
            " NULL, NULL, ?, NULL, 1, NULL, 0, 0)",
            (assessment_id, source, rationale),
        )
    lowest = model.detail().lowest["good"]
    assert [one.trace_id for one in lowest] == [f"tr-{1 + 3 * number}" for number in range(10)]
    assert (lowest[0].request, lowest[0].rationale) == ("Where is it?", "It isn't there.")
    document = model.detail().document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_changes_of_a_scorer_and_how_scoring_went(model: Model) -> None:
    connection = model.index.connection()
    since = period("24h", str(NOW)).since_ms
    for epoch, at, rate, reason in (
        (1, since - 1, 0.1, "started"),
        (2, since, 0.5, "rate 0.1 -> 0.5"),
        (3, NOW - 1, 0.5, "version 1 -> 2, filter"),
    ):
        connection.execute(
            "INSERT INTO scorer_epochs VALUES ('1/good', ?, ?, 0, ?, ?, NULL, '[]', ?, 0)",
            (epoch, at, epoch - 1, rate, reason),
        )
    for hour, decision, units in (
        (since, "scored", 90),
        (NOW - NOW % HOUR, "failed", 10),
        (NOW - NOW % HOUR, "not_selected", 7),
        (since - HOUR, "scored", 1000),
    ):
        connection.execute(
            "INSERT INTO decision_counts VALUES ('1/good', 1, -1, ?, ?, ?)", (hour, decision, units)
        )
    found = model.detail()
    assert [(one.at_ms, one.words) for one in found.changes] == [
        (since, "rate 0.5"),
        (NOW - 1, "version 2, filter"),
    ]
    assert found.judging.decisions == {"scored": 90, "failed": 10, "not_selected": 7}
    assert float(found.judging.failure_rate.value) == pytest.approx(0.1)
    assert found.scores == []
