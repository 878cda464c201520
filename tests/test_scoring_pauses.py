"""A code scorer that hangs or crashes is paused; what is split and taken back stays in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring_support import Plane, code, spans_record
from scoring_support import unit as made_unit
from vedette.scoring import breaker
from vedette.scoring.answers import failed_row
from vedette.scoring.batches import Attempt, Batch
from vedette.scoring.breaker import FIRST_WAIT, IN_A_ROW, State
from vedette.scoring.completion import CompletedUnit
from vedette.scoring.epochs import Epoch, Epochs
from vedette.scoring.outcomes import Hold, Outcome
from vedette.scoring.pool import WorkersUnavailable
from vedette.scoring.progress import Progress
from vedette.scoring.selection import Choice


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    monkeypatch.setattr(breaker, "FIRST_WAIT", 1.0)
    plane = Plane(tmp_path)
    yield plane
    plane.close()


def problem_of_scorer(plane: Plane, experiment: str) -> str:
    state = plane.scoring.state()["scorers"].get(f"{experiment}/bad", {})
    return state.get("problem") or ""


@pytest.mark.parametrize(
    ("body", "timeout", "error_code"),
    [
        ("import time\ntime.sleep(100)", 0.3, "SCORER_TIMEOUT"),
        ("import os\nos._exit(1)", 30.0, "SCORER_CRASHED"),
    ],
)
def test_a_scorer_that_fails_on_every_trace_is_paused_and_its_next_version_goes_on(
    plane: Plane, body: str, timeout: float, error_code: str
) -> None:
    experiment = plane.store.create_experiment("scored")
    for name, source, limit in (("bad", body, timeout), ("good", "return inputs", 30.0)):
        plane.register(experiment, name, source, timeout=limit)
        plane.start(experiment, name)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in range(1, 201)))
    deadline = time.monotonic() + 60
    while "(SCORER_" not in problem_of_scorer(plane, experiment):
        assert time.monotonic() < deadline, plane.scoring.state()
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.01)
    until = time.monotonic() + 3.0  # probes after 1 s, 2 s
    while time.monotonic() < until:
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.01)

    failed = plane.counts(experiment, "bad")["failed"]
    assert error_code in problem_of_scorer(plane, experiment)
    assert plane.scored(experiment, "good") == list(range(1, 201))

    plane.register(experiment, "bad", "return inputs")
    plane.settle()

    assert plane.scored(experiment, "bad") == list(range(1, 201))
    decided = plane.decisions(experiment, "bad").values()
    by_version = {1: 0, 2: 0}
    for row in decided:
        by_version[row["version"]] += 1
        expected = (error_code, "failed") if row["version"] == 1 else (None, "scored")
        assert (row["error_code"], row["decision"]) == expected
    assert sum(by_version.values()) == 200
    assert 1 <= failed <= by_version[1]
    assert IN_A_ROW <= by_version[1] <= 30
    assert problem_of_scorer(plane, experiment) == ""


def test_what_a_scorer_raises_does_not_pause_it(plane: Plane) -> None:
    experiment = plane.store.create_experiment("scored")
    plane.register(experiment, "bad", "if inputs < 91: raise ValueError(inputs)\nreturn inputs")
    plane.start(experiment, "bad")
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in range(1, 101)))
    plane.settle()

    assert plane.counts(experiment, "bad") == {"failed": 90, "scored": 10}


EPOCH = Epoch(1, 0, 0, 1, 1.0, None, (), "started", of_sessions=False)


def choice(place: int) -> Choice:
    unit = CompletedUnit(place, "complete", place, f"tr-{place:032x}", 1, None, 0, place, False)
    return Choice(unit, "not_selected", EPOCH)


def attempt(place: int) -> Attempt:
    return Attempt(f"tr-{place:032x}", "trace", 0, "", 1, -1, 1.0, 0.0, place, place=place)


def progress_of(places: list[int], *, end: int, counted: list[int]) -> Progress:
    """A scorer with one batch of these units under way."""
    scorer = code("return 1")
    progress = Progress(scorer, Epochs([EPOCH]), 0, 0)
    attempts, units = [attempt(n) for n in places], [made_unit(n) for n in places]
    batch = Batch(scorer, end, [choice(n) for n in counted], attempts, units, Future())
    progress.batches.append(batch)
    return progress


def outcome(number: int, code: str | None = None) -> Outcome:
    rows = [] if code is None else [failed_row("probe", code, "m")]
    return Outcome(f"tr-{number:032x}", rows, 1.0)


@given(st.sets(st.integers(1, 60), min_size=2), st.data())
def test_a_batch_is_split_by_places_and_nothing_is_lost_or_out_of_order(
    selected: set[int], data: st.DataObject
) -> None:
    places, counted = sorted(selected), sorted(set(range(1, 61)) - selected)
    progress = progress_of(places, end=60, counted=counted)
    size = data.draw(st.integers(1, len(places) - 1))

    progress.split(progress.batches[0], size)

    first, rest = progress.batches
    assert [one.place for one in first.attempts] == places[:size]
    assert [one.place for one in rest.attempts] == places[size:]
    assert [one.unit_id for one in (*first.units, *rest.units)] == [
        made_unit(n).unit_id for n in places
    ]
    assert (first.end, rest.end) == (places[size - 1], 60)
    assert [one.unit.position for one in first.counted] == [n for n in counted if n < first.end]
    assert [one.unit.position for one in rest.counted] == [n for n in counted if n > first.end]


def test_what_was_answered_counts_and_the_rest_waits() -> None:
    progress = progress_of([2, 4, 6], end=7, counted=[1, 3, 5, 7])
    [batch] = progress.batches
    assert batch.future is not None
    batch.future.set_result([outcome(2), outcome(4, "SCORER_CRASHED")])

    progress.take_in(0.0)

    first, rest = progress.batches
    assert (first.done, first.waits, first.end) == (True, False, 4)
    assert [one.place for one, _ in first.outcomes] == [2, 4]
    assert (rest.done, rest.waits, rest.end) == (False, True, 7)
    assert progress.ready(1) == [first]
    progress.advance(4)
    assert list(progress.batches) == [rest]


def test_what_can_not_be_run_waits_as_a_whole_and_pauses_at_once() -> None:
    held = Outcome("", [], 0.0, hold=Hold("NO_API_KEY", "Set it."))
    for answer in (WorkersUnavailable("no process"), [held]):
        progress = progress_of([2], end=7, counted=[1])
        [batch] = progress.batches
        assert batch.future is not None
        if isinstance(answer, WorkersUnavailable):
            batch.future.set_exception(answer)
        else:
            batch.future.set_result(answer)
        progress.take_in(0.0)

        assert (batch.waits, batch.done, batch.end) == (True, False, 7)
        assert progress.breaker.state is State.OPEN
        assert progress.ready(1) == []


def test_what_no_worker_has_begun_with_is_taken_back() -> None:
    progress = progress_of([2], end=2, counted=[])
    running = progress.batches[0]
    assert running.future is not None
    running.future.set_running_or_notify_cancel()
    queued = Batch(progress.scorer, 3, (), [attempt(3)], [made_unit(3)], Future())
    probe = Batch(progress.scorer, 4, (), [attempt(4)], [made_unit(4)], Future())
    progress.batches += [queued, probe]
    progress.probe = probe

    progress.take_back()

    assert [batch.waits for batch in progress.batches] == [False, True, False]


def test_only_the_probe_and_only_this_version_say_whether_it_works() -> None:
    progress = progress_of([1], end=1, counted=[])
    [old] = progress.batches
    assert old.future is not None
    old.future.set_result([outcome(1)])
    probe = Batch(progress.scorer, 2, (), [attempt(2)], [made_unit(2)], Future())
    progress.batches.append(probe)
    for _ in range(IN_A_ROW):
        progress.breaker.record(breaker.Problem("TIMEOUT", "m"), 0.0)
    progress.breaker.probing()
    progress.probe = probe

    progress.take_in(FIRST_WAIT)
    assert progress.breaker.state is State.HALF_OPEN
    assert probe.future is not None
    probe.future.set_result([outcome(2)])
    progress.take_in(FIRST_WAIT)
    assert progress.breaker.state is State.CLOSED

    late = Batch(progress.scorer, 3, (), [attempt(3)], [made_unit(3)], Future())
    progress.batches.append(late)
    progress.take_over(code("return 2"))
    assert late.future is not None
    late.future.set_exception(WorkersUnavailable("of the version before"))
    progress.take_in(FIRST_WAIT)
    assert (late.waits, progress.breaker.state) == (True, State.CLOSED)
