"""Retries, breaker and budget are arithmetic: what holds for them holds for all inputs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.scoring.backoff import (
    GIVE_UP_SECONDS,
    LONGEST_SECONDS,
    duration,
    given_up,
    next_try,
)
from vedette.scoring.outcomes import Retry

BUSY = Retry("RATE_LIMITED", "slow down", None)
DAY = 24 * 3600.0


@given(unit=st.text(), attempt=st.integers(1, 1000), now=st.floats(0, 1e6))
def test_a_replay_comes_to_the_same_time(unit: str, attempt: int, now: float) -> None:
    first = next_try(unit, attempt, now, now, BUSY)

    assert first == next_try(unit, attempt, now, now, BUSY)
    assert first is not None
    assert now <= first <= now + min(LONGEST_SECONDS, 5.0 * 2 ** min(attempt - 1, 20)) + 1e-6


@given(after=st.floats(0, DAY), attempt=st.integers(1, 50))
def test_never_before_the_provider_wants_it(after: float, attempt: int) -> None:
    at = next_try("a", attempt, 0.0, 0.0, Retry("RATE_LIMITED", "", after))

    assert at is not None
    assert at >= after


@given(failed=st.floats(0, DAY - 1), after=st.none() | st.floats(0, 10 * DAY))
def test_within_24_hours_there_is_always_another_try(failed: float, after: float | None) -> None:
    at = next_try("a", 1, 0.0, failed, Retry("RATE_LIMITED", "", after))

    assert at is not None
    assert failed <= at <= GIVE_UP_SECONDS
    assert next_try("a", 2, 0.0, DAY, BUSY) is None


@given(unit=st.text())
def test_for_24_hours_and_not_longer(unit: str) -> None:
    now, attempt = 0.0, 1
    while (at := next_try(unit, attempt, 0.0, now, BUSY)) is not None:
        assert at <= GIVE_UP_SECONDS
        now, attempt = at, attempt + 1

    assert now > GIVE_UP_SECONDS - LONGEST_SECONDS
    assert 100 < attempt < 400
    code, message = given_up(BUSY, attempt, now)
    assert code == "RATE_LIMITED"
    assert f"after {attempt} attempts in 24 h" in message
    assert "slow down" in message


@pytest.mark.parametrize(
    ("seconds", "said"), [(29.4, "29 s"), (1500.0, "25 min"), (40_000.0, "11.1 h"), (DAY, "24 h")]
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_units_that_failed_together_do_not_come_back_together() -> None:
    times = [next_try(f"unit {number}", 8, 0.0, 0.0, BUSY) or 0.0 for number in range(1000)]

    assert sum(times) / 1000 == pytest.approx(5 * 2**7 / 2, rel=0.1)
    assert max(sum(math.floor(t / 64) == k for t in times) for k in range(10)) < 150
