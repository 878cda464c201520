"""Budgets are kept by the engine itself: its planner, its decisions, its restarts. Judges are stood
in for by a pool that answers at once and counts, and the clocks of budgets are the test's."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ExperimentTag
from mlflow.genai.judges import make_judge

from backfill_support import backfill, finish
from scoring_support import Plane, make_control_database, spans_record
from vedette.scoring import backoff, runner, spending
from vedette.scoring.active import BUDGET_TAG, ActiveScorer
from vedette.scoring.answers import failed_row
from vedette.scoring.outcomes import Hold, Outcome, Retry, Unit, Usage

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
EACH = 0.01  # dollars


class Clock:
    """In place of the module `time`, for budgets; it begins at six in the morning of today."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.wall = time.time() // DAY * DAY + 6 * HOUR

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


class Judges:
    """In place of the pool of judges. ``answer`` makes the outcome of a unit; while ``holds_back``
    it makes none."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[tuple[float, str]] = []
        self.dollars = 0.0
        self.holds_back = False
        self.answer: Callable[[ActiveScorer, Unit], Outcome] = self.yes
        self.price: Callable[[], float | None] = lambda: EACH
        self._waiting: list[tuple[ActiveScorer, Sequence[Unit], Future[list[Outcome]]]] = []

    def __call__(self, *_: Any, **__: Any) -> Judges:
        return self  # in place of the class

    def yes(self, scorer: ActiveScorer, unit: Unit) -> Outcome:
        row = failed_row(scorer.name, "", "")
        row |= {"value": "true", "error": None}
        return Outcome(unit.unit_id, [row], 1.0, usage=self.usage())

    def usage(self) -> Usage:
        cost = self.price()
        self.dollars += cost or 0.0
        return Usage(calls=1, input_tokens=100, output_tokens=20, cost_usd=cost, model="m")

    def submit(self, scorer: ActiveScorer, units: Sequence[Unit]) -> Future[list[Outcome]]:
        future = Future[list[Outcome]]()
        self.calls += [(self.clock.now, scorer.name) for _ in units]
        self._waiting.append((scorer, units, future))
        if not self.holds_back:
            self.release()
        return future

    def release(self) -> None:
        self.holds_back = False
        for scorer, units, future in self._waiting:
            future.set_result([self.answer(scorer, unit) for unit in units])
        self._waiting.clear()

    def most_within(self, seconds: float) -> int:
        """The most calls that began within any so many seconds."""
        times = [at for at, _ in self.calls]
        return max((sum(at <= one < at + seconds for one in times) for at in times), default=0)

    def prepare(self) -> None: ...
    def retire_idle(self) -> None: ...
    def close(self) -> None: ...
    def state(self) -> dict[str, Any]:
        return {}

    processes = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(spending, "time", made)
    monkeypatch.setattr(runner, "_COMPLETE_SECONDS", 0.0)
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.05)
    return made


@pytest.fixture
def judges(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Judges:
    made = Judges(clock)
    monkeypatch.setattr(runner, "JudgePool", made)
    return made


class Monitored:
    """One experiment of an engine that has run for an hour."""

    def __init__(self, data: Path, clock: Clock, **settings: Any) -> None:
        self._data, self._clock, self._settings = data, clock, settings
        self.plane = Plane(data, **settings)
        self.experiment = self.plane.store.create_experiment("judged")
        self._number = 0
        self.pass_(HOUR)

    def pass_(self, seconds: float) -> None:
        self._clock.pass_(seconds)
        self.plane.settle()

    def judge(self, name: str = "nice", **budget: float) -> None:
        made = make_judge(name=name, instructions="Is {{ outputs }} nice?", model="openai:/gpt-x")
        self.plane.store.register_scorer(self.experiment, name, json.dumps(made.model_dump()))
        self.set_budget(name, **budget)
        self.plane.start(self.experiment, name)
        self.plane.settle()

    def set_budget(self, name: str = "nice", **budget: float) -> None:
        tag = ExperimentTag(f"{BUDGET_TAG}{name}", json.dumps(budget))
        self.plane.store.set_experiment_tag(self.experiment, tag)

    def arrive(self, count: int) -> None:
        numbers = range(self._number + 1, self._number + 1 + count)
        self._number += count
        self.plane.arrive(*(spans_record(self.experiment, number) for number in numbers))

    def restart(self) -> None:
        self.plane.close()
        self.plane = Plane(self._data, **self._settings)

    def counts(self, name: str = "nice") -> dict[str, int]:
        return self.plane.counts(self.experiment, name)

    def note(self, name: str = "nice") -> str:
        state = self.plane.scoring.state()["scorers"][f"{self.experiment}/{name}"]
        return state["note"] or ""

    def epochs(self) -> list[float]:
        found = self.plane.index.connection().execute("SELECT rate FROM scorer_epochs ORDER BY 1")
        return [rate for (rate,) in found]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control") / "control.db"
    make_control_database(path)
    return path


@pytest.fixture
def monitor(
    tmp_path: Path, control: Path, clock: Clock, judges: Judges
) -> Iterator[Callable[..., Monitored]]:
    """Start an engine with these settings."""
    started: list[Monitored] = []

    def start(**settings: Any) -> Monitored:
        shutil.copy(control, tmp_path / "control.db")
        started.append(Monitored(tmp_path, clock, **settings))
        return started[-1]

    yield start
    for one in started:
        one.plane.close()


@pytest.fixture
def monitored(monitor: Callable[..., Monitored]) -> Monitored:
    return monitor()


def test_a_burst_makes_no_more_calls_than_a_minute_may_have(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(calls_per_minute=10)
    monitored.arrive(300)
    monitored.plane.settle()
    assert len(judges.calls) == 10

    monitored.pass_(50)
    assert len(judges.calls) == 10
    assert monitored.note() != ""
    for _ in range(60):  # ten minutes: what waits is caught up with at a lower rate
        monitored.pass_(10)
    assert judges.most_within(MINUTE) == 10
    counts = monitored.counts()
    assert sum(counts.values()) == 300
    assert counts["scored"] == len(judges.calls)
    assert "budget" not in counts
    assert min(monitored.epochs()) < 1


def test_steady_traffic_is_sampled_within_calls_a_minute_and_not_left_behind(
    monitored: Monitored, judges: Judges
) -> None:
    monitored.judge(calls_per_minute=2.5)
    for _ in range(120):  # twenty minutes of 18 a minute
        monitored.arrive(3)
        monitored.pass_(10)
    assert judges.most_within(72) <= 3
    assert 20 * 2.5 / 4 <= len(judges.calls) <= 20 * 2.5 + 3
    assert sum(monitored.counts().values()) > 360 - 60
    assert "budget" not in monitored.counts()


def test_a_fraction_of_a_call_a_minute_is_one_now_and_then(
    monitored: Monitored, judges: Judges
) -> None:
    monitored.judge(calls_per_minute=0.5)
    monitored.arrive(4)
    monitored.plane.settle()
    assert len(judges.calls) == 1
    monitored.pass_(100)
    assert len(judges.calls) == 1
    monitored.pass_(25)
    assert len(judges.calls) == 2


def test_a_restart_does_not_give_the_minute_anew(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(calls_per_minute=10)
    monitored.arrive(60)
    monitored.plane.settle()
    assert len(judges.calls) == 10
    for _ in range(5):
        monitored.restart()
        monitored.plane.settle()
        monitored.pass_(2)
    assert len(judges.calls) <= 10 + 2


def test_the_budget_of_all_is_shared_not_given_to_each(
    monitor: Callable[..., Monitored], judges: Judges
) -> None:
    monitored = monitor(budget_calls_per_minute=10)
    for name in ("a", "b", "c"):
        monitored.judge(name)
    monitored.arrive(50)
    monitored.plane.settle()
    assert len(judges.calls) == 10


def test_days_of_traffic_are_sampled_within_the_dollars_of_each(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    chance = random.Random(3)
    judges.price = lambda: chance.uniform(0.0, 2 * EACH)
    monitored.judge(dollars_per_day=2.0)  # a third of what all would cost
    clock.pass_(17 * HOUR - MINUTE)  # to a minute before midnight
    for _ in range(2):
        judges.dollars, began = 0.0, clock.now
        judges.calls.clear()
        for _ in range(24 * 4):
            clock.pass_(DAY / (24 * 4))
            monitored.arrive(6)
            monitored.plane.settle()
        assert 1.0 < judges.dollars <= 2.0 + 2 * EACH * 6  # no unit is dearer
        last = sum(at > began + 18 * HOUR for at, _ in judges.calls)
        assert last > len(judges.calls) / 10  # not its morning alone
    assert monitored.counts()["scored"] > 200
    assert len(monitored.epochs()) < 20


def test_dollars_are_not_passed_before_the_price_is_known(
    monitored: Monitored, judges: Judges
) -> None:
    judges.holds_back = True
    monitored.judge(dollars_per_day=10 * EACH)
    monitored.arrive(100)
    for _ in range(200):
        monitored.plane.fold()
        monitored.plane.scoring._wait = lambda _: False  # type: ignore[method-assign]
        monitored.plane.scoring.tick()
    assert len(judges.calls) == 1
    assert "one by one" in monitored.note()

    judges.release()
    monitored.plane.settle()
    for _ in range(10):
        monitored.pass_(HOUR)
    assert judges.dollars <= 10 * EACH + 1e-9


def test_no_dollars_are_none_from_the_first_unit_on(monitored: Monitored, judges: Judges) -> None:
    monitored.judge(dollars_per_day=0)
    monitored.arrive(3)
    monitored.plane.settle()
    assert judges.calls == []
    assert monitored.counts() == {"budget": 3}
    assert "0.00 of 0.00 dollars" in monitored.note()


def test_no_calls_are_none_from_the_first_unit_on_until_the_budget_is_another(
    monitored: Monitored, judges: Judges
) -> None:
    monitored.judge(calls_per_minute=0)
    monitored.arrive(3)
    monitored.plane.settle()
    assert judges.calls == []
    assert monitored.counts() == {"budget": 3}
    assert "0 calls" in monitored.note()

    monitored.set_budget(calls_per_minute=100)
    monitored.pass_(2)
    monitored.arrive(2)
    monitored.plane.settle()
    assert monitored.counts() == {"budget": 3, "scored": 2}


def test_what_does_not_pay_for_a_unit_is_nothing(monitored: Monitored, judges: Judges) -> None:
    monitored.judge(dollars_per_day=1.5 * EACH)
    monitored.arrive(1)
    monitored.plane.settle()
    monitored.pass_(2)
    monitored.arrive(3)
    monitored.plane.settle()
    assert monitored.counts() == {"scored": 1, "budget": 3}
    for _ in range(5):
        monitored.pass_(HOUR)
        assert "dollars are spent today" in monitored.note()

    monitored.pass_(DAY / 2)  # the next day
    monitored.arrive(1)
    monitored.plane.settle()
    assert monitored.counts() == {"scored": 2, "budget": 3}


def test_an_exhausted_day_stays_so_across_restarts(monitored: Monitored, judges: Judges) -> None:
    monitored.judge(dollars_per_day=EACH)
    monitored.arrive(1)
    monitored.plane.settle()
    for restart in range(3):
        monitored.restart()
        monitored.arrive(2)
        monitored.plane.settle()
        assert monitored.counts() == {"scored": 1, "budget": 2 * (restart + 1)}
    assert len(judges.calls) == 1


def test_a_restart_knows_the_price_and_the_rate_of_before(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(dollars_per_day=1.0)
    for _ in range(8):
        clock.pass_(900)
        monitored.arrive(40)
        monitored.plane.settle()
    before = monitored.epochs()
    assert min(before) < 1
    spent = judges.dollars

    monitored.restart()
    monitored.arrive(40)
    monitored.plane.settle()
    assert monitored.epochs().count(1.0) == before.count(1.0) == 1
    assert judges.dollars - spent < 40 * EACH / 2


def test_what_failed_is_not_tried_again_when_the_day_is_spent(
    monitored: Monitored, judges: Judges
) -> None:
    def overloaded(scorer: ActiveScorer, unit: Unit) -> Outcome:
        retry = Retry("UNAVAILABLE", "overloaded", None)
        return Outcome(unit.unit_id, [], 1.0, usage=judges.usage(), retry=retry)

    judges.answer = overloaded
    monitored.judge(dollars_per_day=EACH)
    monitored.arrive(1)
    monitored.plane.settle()
    monitored.pass_(2)
    made = len(judges.calls)
    deadline = time.monotonic() + 20
    while monitored.counts() != {"budget": 1}:
        assert time.monotonic() < deadline, monitored.counts()
        monitored.plane.settle()
    assert len(judges.calls) == made
    (row,) = monitored.plane.decisions(monitored.experiment, "nice").values()
    assert row["attempts"] == made
    assert row["error_code"] == "BUDGET"


def test_what_could_not_run_does_not_wait_for_a_budget(
    monitored: Monitored, judges: Judges
) -> None:
    judges.answer = lambda _, unit: Outcome(
        unit.unit_id, [], 1.0, hold=Hold("NO_API_KEY", "there is no key")
    )
    monitored.judge()
    monitored.arrive(3)
    for _ in range(100):
        monitored.plane.fold()
        monitored.plane.scoring.tick()
    assert monitored.counts() == {}
    made = len(judges.calls)

    monitored.set_budget(dollars_per_day=0)
    monitored.pass_(2)
    monitored.plane.settle()
    assert monitored.counts() == {"budget": 3}
    assert len(judges.calls) <= made + 1  # the probe that may have been due meanwhile


def test_what_a_stopped_scorer_has_spent_counts_for_all(
    monitor: Callable[..., Monitored], judges: Judges
) -> None:
    monitored = monitor(budget_dollars_per_day=3 * EACH)
    monitored.judge("first")
    monitored.arrive(3)
    monitored.plane.settle()
    monitored.pass_(2)
    monitored.plane.settle()
    spent = judges.dollars
    monitored.plane.start(monitored.experiment, "first", rate=0)
    monitored.pass_(2)

    monitored.judge("second")
    monitored.arrive(20)
    monitored.plane.settle()
    for _ in range(5):
        monitored.pass_(MINUTE)
    assert spent > 0
    assert judges.dollars <= 3 * EACH + 1e-9


def test_a_model_without_a_price_is_told_and_goes_on(monitored: Monitored, judges: Judges) -> None:
    judges.price = lambda: None
    monitored.judge(dollars_per_day=1)
    monitored.arrive(20)
    monitored.plane.settle()
    monitored.pass_(2)
    assert monitored.counts() == {"scored": 20}
    assert "price" in monitored.note()

    judges.price = lambda: EACH
    monitored.arrive(1)
    monitored.plane.settle()
    monitored.pass_(2)
    assert "price" not in monitored.note()


def test_a_clock_that_is_put_back_stops_nothing(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(calls_per_minute=10)
    monitored.arrive(15)
    monitored.plane.settle()
    assert len(judges.calls) == 10
    clock.wall -= HOUR
    monitored.pass_(61)
    assert len(judges.calls) == 15


def test_what_was_a_judge_and_is_code_now_has_its_whole_rate(
    monitored: Monitored, judges: Judges
) -> None:
    monitored.judge(dollars_per_day=0)
    monitored.arrive(1)
    monitored.plane.settle()
    monitored.plane.register(monitored.experiment, "nice", "return True")
    monitored.plane.start(monitored.experiment, "nice")
    monitored.pass_(2)
    monitored.arrive(2)
    monitored.plane.settle()
    assert monitored.counts() == {"budget": 1, "scored": 2}


def test_a_backfill_spends_what_live_scoring_leaves_and_waits_for_the_rest(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(dollars_per_day=0.5)
    monitored.plane.start(monitored.experiment, "nice", rate=0)
    monitored.plane.settle()
    monitored.arrive(120)
    monitored.plane.settle()
    job = backfill(monitored.plane, ("nice", 1.0), experiment=monitored.experiment)
    monitored.plane.settle()
    monitored.pass_(2)
    monitored.pass_(2)
    assert 0.4 < judges.dollars <= 0.5 + 1e-9
    (told,) = monitored.plane.scoring.state()["backfills"].values()
    assert "0.50 dollars are spent today" in told["note"]
    where = f"{monitored.experiment}:{job.job}"
    assert monitored.plane.counts(where, "nice").keys() == {"scored"}  # nothing is given up

    for _ in range(3):  # the next days
        monitored.pass_(DAY)
        monitored.pass_(2)
    finish(monitored.plane, job)
    assert monitored.plane.counts(where, "nice") == {"scored": 120}


def test_live_calls_go_before_those_of_a_backfill(
    monitored: Monitored, judges: Judges, clock: Clock
) -> None:
    monitored.judge(calls_per_minute=10)
    monitored.plane.start(monitored.experiment, "nice", rate=0)
    monitored.plane.settle()
    monitored.arrive(60)
    monitored.plane.settle()
    monitored.plane.start(monitored.experiment, "nice", rate=1.0)
    monitored.plane.settle()
    job = backfill(monitored.plane, ("nice", 1.0), experiment=monitored.experiment)
    for minute in range(30):
        monitored.arrive(5)
        monitored.pass_(30)
        monitored.pass_(30)
        assert monitored.counts().get("scored", 0) >= 5 * minute  # none waits for two minutes
    assert judges.most_within(MINUTE) <= 10
    finish(monitored.plane, job)
    assert monitored.plane.counts(f"{monitored.experiment}:{job.job}", "nice") == {"scored": 60}
