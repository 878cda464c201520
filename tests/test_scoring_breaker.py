"""A breaker stops asking what doesn't answer, says why, and resumes by itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.scoring.answers import failed_row
from vedette.scoring.breaker import (
    CERTAIN_WAIT,
    FIRST_WAIT,
    IN_A_ROW,
    LONGEST_WAIT,
    Breaker,
    Problem,
    State,
    problem_of,
)
from vedette.scoring.outcomes import Hold, Outcome, Retry

DOWN = Problem("UNAVAILABLE", "openai:/gpt answered 503")
BUSY = Problem("RATE_LIMITED", "openai:/gpt asks to slow down")
NO_KEY = Problem("NO_API_KEY", "Set OPENAI_API_KEY", certain=True)
TOMORROW = Problem("RATE_LIMITED", "that was it for today", certain=True, after_seconds=40_000.0)


def tripped(problem: Problem = DOWN, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        breaker.record(problem, now)
    assert breaker.state is State.OPEN
    return breaker


def test_failures_in_a_row_pause_the_scorer_and_it_says_why() -> None:
    breaker = Breaker()
    for _ in range(IN_A_ROW - 1):
        breaker.record(DOWN, 0.0)
    assert breaker.state is State.CLOSED
    assert breaker.reason(0.0) is None

    breaker.record(DOWN, 0.0)

    assert breaker.state is State.OPEN
    assert breaker.reason(1.0) == (
        "Paused; one is tried in 29 s. The last problem: openai:/gpt answered 503 (UNAVAILABLE)"
    )
    assert "the next one is tried" in (breaker.reason(FIRST_WAIT) or "")
    breaker.probing()
    assert "trying one now" in (breaker.reason(FIRST_WAIT) or "")


def test_what_is_certain_pauses_at_once_and_is_soon_tried() -> None:
    breaker = Breaker()
    breaker.record(NO_KEY, 0.0)

    assert breaker.state is State.OPEN
    assert "Set OPENAI_API_KEY" in (breaker.reason(0.0) or "")
    assert not breaker.wants_probe(CERTAIN_WAIT - 0.1)
    assert breaker.wants_probe(CERTAIN_WAIT)


def test_not_before_the_provider_wants_it() -> None:
    breaker = Breaker()
    breaker.record(TOMORROW, 0.0)

    assert not breaker.wants_probe(39_999.0)
    assert "one is tried in 11.1 h" in (breaker.reason(0.0) or "")
    breaker.probing()
    breaker.probed(TOMORROW, 40_000.0)
    assert not breaker.wants_probe(79_999.0)
    assert breaker.wants_probe(80_000.0)


def test_an_occasional_failure_does_not_pause() -> None:
    breaker = Breaker()
    for number in range(1000):
        breaker.record(DOWN if number % 2 else None, 0.0)
    assert breaker.state is State.CLOSED


def test_a_high_share_of_failures_pauses() -> None:
    breaker = Breaker()
    for number in range(1000):
        breaker.record(None if number % 5 == 0 else DOWN, 0.0)
    assert breaker.state is State.OPEN


def test_slow_down_is_first_for_the_pace_to_follow() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.record(BUSY, 0.0)
    assert breaker.state is State.CLOSED
    for _ in range(20):
        breaker.record(BUSY, 0.0)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("problem", "first"), [(DOWN, FIRST_WAIT), (NO_KEY, CERTAIN_WAIT)])
def test_one_probe_closes_it_or_doubles_the_wait(problem: Problem, first: float) -> None:
    breaker = tripped(problem)
    now, wait = 0.0, first
    for _ in range(12):
        assert not breaker.wants_probe(now + wait - 0.1)
        now += wait
        assert breaker.wants_probe(now)
        breaker.probing()
        assert not breaker.wants_probe(now)  # one
        breaker.probed(problem, now)
        wait = min(LONGEST_WAIT, wait * 2)
    assert wait == LONGEST_WAIT

    breaker.probing()
    breaker.probed(None, now + wait)
    assert breaker.state is State.CLOSED

    for _ in range(IN_A_ROW):
        breaker.record(problem, now)
    assert breaker.wants_probe(now + first)  # it begins anew


def test_what_was_under_way_changes_nothing() -> None:
    breaker = tripped()
    breaker.record(None, 1.0)
    breaker.record(NO_KEY, 2.0)

    assert breaker.problem == DOWN
    assert not breaker.wants_probe(FIRST_WAIT - 1)
    assert breaker.wants_probe(FIRST_WAIT)
    breaker.probing()
    breaker.record(None, 40.0)
    assert breaker.state is State.HALF_OPEN


def test_a_new_version_begins_anew() -> None:
    breaker = tripped(NO_KEY)
    breaker.reset()
    assert breaker.state is State.CLOSED
    assert breaker.reason(5.0) is None


def failed(code: str) -> Outcome:
    return Outcome("t", [failed_row("nice", code, "m")], 1.0)


def test_what_counts_against_a_scorer() -> None:
    held = Outcome("t", [], 1.0, hold=Hold("RATE_LIMITED", "m", 3600.0))
    again = Outcome("t", [], 1.0, retry=Retry("TIMEOUT", "m", None))
    fine = Outcome("t", [], 1.0)

    assert problem_of(held) == Problem("RATE_LIMITED", "m", certain=True, after_seconds=3600.0)
    assert problem_of(again) == Problem("TIMEOUT", "m")
    assert problem_of(fine) is None
    for code in ("BAD_ANSWER", "PROVIDER_REFUSED", "SCORER_TIMEOUT", "SCORER_CRASHED"):
        assert problem_of(failed(code)) == Problem(code, "m")
    for of_the_unit in ("SCORER_ERROR", "CONTENT_FILTERED", "CONTEXT_TOO_LONG", "REFUSED"):
        assert problem_of(failed(of_the_unit)) is None


events = st.lists(
    st.tuples(st.sampled_from([None, DOWN, BUSY, NO_KEY]), st.floats(0, 1000)), max_size=200
)


@given(events)
def test_whatever_happens_it_asks_seldom_and_never_stays_shut(
    happenings: list[tuple[Problem | None, float]],
) -> None:
    breaker, now = Breaker(), 0.0
    probes: list[float] = []
    for problem, seconds in happenings:
        now += seconds
        if breaker.wants_probe(now):
            probes.append(now)
            breaker.probing()
            breaker.probed(problem, now)
        else:
            breaker.record(problem, now)
        if breaker.state is State.CLOSED:
            probes.clear()
        assert (breaker.reason(now) is None) == (breaker.state is State.CLOSED)
    assert all(b - a >= CERTAIN_WAIT - 1e-6 for a, b in pairwise(probes))
    assert breaker.state is State.CLOSED or breaker.wants_probe(now + LONGEST_WAIT)
