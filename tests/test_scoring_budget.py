"""A budget lowers the rate before it is used up, stops when it is, and begins anew each day."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.scoring.budget import (
    LOWEST,
    RAISE_AFTER_SECONDS,
    Allowance,
    Cap,
    Spent,
    allow,
    unpriced,
)

DAY = 24 * 3600.0


def spent(**what: float | None) -> Spent:
    """Ten calls a minute of a cent each, at noon, if nothing else is said."""
    values: dict[str, float | None] = {
        "dollars_today": 0.0,
        "calls_last_minute": 0,
        "calls_under_way": 0,
        "dollars_per_call": 0.01,
        "calls_per_minute_at_full_rate": 10.0,
        "calls_left_today_at_full_rate": 7200.0,
        **what,
    }
    return Spent(**values)  # type: ignore[arg-type]


def at_noon(cap: Cap, used: Spent, factor_now: float = 1.0, changed_at: float = 0.0) -> Allowance:
    return allow([(cap, used)], factor_now, changed_at=changed_at, day_began_at=0.0, now=DAY / 2)


@pytest.mark.parametrize(
    ("dollars", "used", "factor"),
    [
        (None, 0.0, 1.0),
        (72.0, 0.0, 1.0),  # exactly what the rest of the day costs
        (71.0, 0.0, 0.5),
        (36.0, 0.0, 0.5),
        (35.9, 0.0, 0.25),
        (40.0, 30.0, 0.125),
        (40.0, 39.999, LOWEST),
        (40.0, 40.0, 0.0),
        (40.0, 41.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_the_rest_of_the_day_is_made_to_fit(
    dollars: float | None, used: float, factor: float
) -> None:
    allowance = at_noon(Cap(dollars_per_day=dollars), spent(dollars_today=used))

    assert allowance.factor == factor
    assert allowance.stopped == (factor == 0)
    assert (allowance.reason is None) == (factor == 1)
    if factor < 1:
        assert f"of {dollars:.2f} dollars" in (allowance.reason or "")


def test_what_is_under_way_counts_as_spent() -> None:
    allowance = at_noon(Cap(dollars_per_day=40.0), spent(dollars_today=39.0, calls_under_way=100))
    assert allowance.stopped


@pytest.mark.parametrize(("cap", "factor"), [(10, 1.0), (9, 0.5), (5, 0.5), (1, 0.0625)])
def test_calls_a_minute_lower_the_rate_too(cap: float, factor: float) -> None:
    allowance = at_noon(Cap(calls_per_minute=cap), spent())

    assert allowance.factor == factor
    assert allowance.calls_now == cap
    if factor < 1:
        assert "10 calls a minute" in (allowance.reason or "")


def test_calls_a_minute_are_kept_to_the_second() -> None:
    used = spent(calls_last_minute=6, calls_under_way=3)
    assert at_noon(Cap(calls_per_minute=10), used).calls_now == 1
    used = spent(calls_last_minute=60, calls_under_way=3)
    assert at_noon(Cap(calls_per_minute=10), used).calls_now == 0


def test_the_tightest_cap_counts() -> None:
    own, of_all = Cap(dollars_per_day=1000.0), Cap(dollars_per_day=10.0)
    allowance = allow(
        [(own, spent()), (of_all, spent(dollars_today=10.0))],
        *(1.0,),
        changed_at=0.0,
        day_began_at=0.0,
        now=1.0,
    )
    assert allowance.stopped


def test_up_one_step_with_room_to_spare_and_after_a_while() -> None:
    enough = spent(calls_left_today_at_full_rate=100.0)
    cap = Cap(dollars_per_day=10.0)
    now = DAY / 2

    assert at_noon(cap, enough, 0.125, now - RAISE_AFTER_SECONDS + 1).factor == 0.125
    assert at_noon(cap, enough, 0.125, now - RAISE_AFTER_SECONDS).factor == 0.25
    just = spent(calls_left_today_at_full_rate=2000.0)  # 20 dollars: a half fits, just so
    assert at_noon(cap, just, 0.25).factor == 0.25


def test_stopped_until_the_new_day_or_another_cap() -> None:
    cap = Cap(dollars_per_day=10.0)

    assert at_noon(cap, spent(), 0.0, changed_at=1.0).stopped
    assert at_noon(cap, spent(), 0.0, changed_at=-1.0).factor == 0.125  # yesterday's


def test_without_a_price_dollars_cannot_be_kept_and_it_says_so() -> None:
    used = spent(dollars_per_call=None)
    assert at_noon(Cap(dollars_per_day=1.0), used).factor == 1.0
    assert "price" in (unpriced(Cap(dollars_per_day=1.0), used) or "")
    assert unpriced(Cap(calls_per_minute=1.0), used) is None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cap=st.floats(0.5, 200.0),
    per_minute=st.floats(1.0, 60.0),
    latency=st.integers(1, 20),
)
def test_days_of_traffic_never_pass_the_cap_by_more_than_what_was_under_way(
    seed: int, cap: float, per_minute: float, latency: int
) -> None:
    chance = random.Random(seed)
    factor, changed_at, changes = 1.0, float("-inf"), 0
    for day in range(2):
        dollars, calls, peak, under_way, minutes = 0.0, 0, 0, [], 24 * 6
        for tenth in range(minutes):  # steps of ten minutes
            now = day * DAY + tenth * 600.0
            ended = [cost for at, cost in under_way if at <= now]
            under_way = [(at, cost) for at, cost in under_way if at > now]
            dollars, calls = dollars + sum(ended), calls + len(ended)
            each = dollars / calls if calls else 0.01
            used = Spent(
                *(dollars, len(ended), len(under_way), each, per_minute),
                calls_left_today_at_full_rate=per_minute * 10 * (minutes - tenth),
            )
            allowance = allow(
                [(Cap(dollars_per_day=cap), used)],
                factor,
                changed_at=changed_at,
                day_began_at=day * DAY,
                now=now,
            )
            if allowance.factor != factor:
                factor, changed_at, changes = allowance.factor, now, changes + 1
            assert allowance.calls_now is not None
            wanted = sum(chance.random() < factor for _ in range(int(per_minute * 10)))
            for _ in range(min(wanted, allowance.calls_now)):
                under_way.append((now + latency * 60.0, chance.uniform(0.0, 0.02)))
            peak = max(peak, len(under_way))
            assert dollars <= cap + 0.02 * peak  # no call is dearer
        if day == 1:
            assert calls > 0  # it went on in the morning
    assert changes <= 60
