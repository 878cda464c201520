"""A breaker stops asking what doesn't answer, says why, and resumes by itself."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vedette.scoring.answers import failed_row
from vedette.scoring.breaker import (
    FIRST_WAIT,
    IN_A_ROW,
    LONGEST_WAIT,
    PROBE_LOST_AFTER,
    Breaker,
    Problem,
    State,
    problem_of,
)
from vedette.scoring.outcomes import Hold, Outcome, Retry

DOWN = Problem("UNAVAILABLE", "openai:/gpt answered 503")
BUSY = Problem("RATE_LIMITED", "openai:/gpt asks to slow down")
NO_KEY = Problem("NO_API_KEY", "Set OPENAI_API_KEY", certain=True)


def tripped(problem: Problem = DOWN, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        breaker.record(problem, now)
    assert breaker.state is State.OPEN
    return breaker


def test_failures_in_a_row_pause_the_scorer_and_it_says_why() -> None:
    breaker = Breaker()
    for _ in range(IN_A_ROW - 1):
        assert not breaker.record(DOWN, 0.0)
    assert breaker.allows(0.0)
    assert breaker.reason(0.0) is None

    assert breaker.record(DOWN, 0.0)

    assert not breaker.allows(1.0)
    assert breaker.reason(1.0) == (
        "Paused; one is tried in 29 s. The last problem: openai:/gpt answered 503 (UNAVAILABLE)"
    )


def test_what_is_certain_pauses_at_once() -> None:
    breaker = Breaker()
    breaker.record(NO_KEY, 0.0)

    assert breaker.state is State.OPEN
    assert "Set OPENAI_API_KEY" in (breaker.reason(0.0) or "")


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


def test_one_probe_closes_it_or_doubles_the_wait() -> None:
    breaker = tripped()
    now, wait = 0.0, FIRST_WAIT
    for _ in range(10):
        assert not breaker.allows(now + wait - 0.1)
        now += wait
        assert breaker.allows(now)
        assert not breaker.allows(now)  # one
        breaker.record(DOWN, now)
        wait = min(LONGEST_WAIT, wait * 2)
    assert wait == LONGEST_WAIT

    assert breaker.allows(now + wait)
    breaker.record(None, now + wait)
    assert breaker.state is State.CLOSED
    assert breaker.allows(now + wait)

    for _ in range(IN_A_ROW):
        breaker.record(DOWN, now)
    assert breaker.allows(now + FIRST_WAIT)  # it begins anew


def test_what_was_under_way_changes_nothing() -> None:
    breaker = tripped()
    breaker.record(None, 1.0)
    breaker.record(DOWN, 2.0)

    assert not breaker.allows(FIRST_WAIT - 1)
    assert breaker.allows(FIRST_WAIT)


def test_a_probe_that_was_not_made_or_is_lost_is_made_again() -> None:
    breaker = tripped()
    assert breaker.allows(FIRST_WAIT)
    breaker.probe_not_made(FIRST_WAIT)
    assert breaker.allows(FIRST_WAIT)
    assert not breaker.allows(FIRST_WAIT + PROBE_LOST_AFTER)
    assert breaker.allows(FIRST_WAIT + PROBE_LOST_AFTER + 1)


def test_a_new_version_begins_anew() -> None:
    breaker = tripped(NO_KEY)
    breaker.reset(5.0)
    assert breaker.allows(5.0)
    assert breaker.reason(5.0) is None


def failed(code: str) -> Outcome:
    return Outcome("t", [failed_row("nice", code, "m")], 1.0)


def test_what_counts_against_a_scorer() -> None:
    held = Outcome("t", [], 1.0, hold=Hold("NO_API_KEY", "m"))
    again = Outcome("t", [], 1.0, retry=Retry("TIMEOUT", "m", None))
    fine = Outcome("t", [], 1.0)

    assert problem_of(held) == Problem("NO_API_KEY", "m", certain=True)
    assert problem_of(again) == Problem("TIMEOUT", "m")
    assert problem_of(fine) is None
    assert problem_of(failed("BAD_ANSWER")) == Problem("BAD_ANSWER", "m")
    for of_the_unit in ("SCORER_ERROR", "CONTENT_FILTERED", "CONTEXT_TOO_LONG", "REFUSED"):
        assert problem_of(failed(of_the_unit)) is None


events = st.lists(
    st.tuples(st.sampled_from([None, DOWN, BUSY, NO_KEY, "ask"]), st.floats(0, 1000)), max_size=200
)


@given(events)
def test_whatever_happens_it_asks_seldom_and_never_stays_shut(
    happenings: list[tuple[Problem | str | None, float]],
) -> None:
    breaker, now, probes = Breaker(), 0.0, []
    for what, pause in happenings:
        now += pause
        if what == "ask":
            before = breaker.state
            if breaker.allows(now) and before is not State.CLOSED:
                probes.append(now)
        else:
            assert not isinstance(what, str)
            if breaker.record(what, now) and breaker.state is State.CLOSED:
                probes.clear()
        assert (breaker.reason(now) is None) == (breaker.state is State.CLOSED)
    assert all(b - a >= FIRST_WAIT for a, b in pairwise(probes))
    assert breaker.allows(now + PROBE_LOST_AFTER + 1)
