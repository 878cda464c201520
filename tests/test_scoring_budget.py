"""A budget lowers the rate before it is used up, stops when it is, and begins anew each day."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.scoring.budget import (
    LOWEST,
    RAISE_AFTER_SECONDS,
    Allowance,
    Cap,
    Room,
    Spent,
    UnitCost,
    allow,
)
from vedette.scoring.epochs import Epoch, Epochs
from vedette.scoring.told import scorer_warnings

DAY = 24 * 3600.0
CENT = UnitCost(calls=1.0, dollars=0.01)


def spent(**what: float) -> Spent:
    """Ten calls a minute of a cent each, at noon, if nothing else is said."""
    return Spent(**{"dollars_to_come": 72.0, "calls_per_minute": 10.0, **what})


def at_noon(
    cap: Cap,
    used: Spent,
    factor_now: float = 1.0,
    changed_at: float = 0.0,
    each: UnitCost = CENT,
) -> Allowance:
    return allow(
        [(cap, used)], each, factor_now, changed_at=changed_at, day_began_at=0.0, now=DAY / 2
    )


@pytest.mark.parametrize(
    ("dollars", "used", "factor"),
    [
        (None, 0.0, 1.0),
        (72.0, 0.0, 1.0),  # exactly what the rest of the day costs
        (71.0, 0.0, 0.5),
        (36.0, 0.0, 0.5),
        (35.9, 0.0, 0.25),
        (40.0, 30.0, 0.125),
        (40.0, 39.5, 2**-8),
        (40.0, 39.995, 0.0),  # less than a unit costs
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


@pytest.mark.parametrize("each", [UnitCost(), CENT])
@pytest.mark.parametrize("used", [1.0, 1.5])
def test_a_day_that_is_spent_is_spent_whether_prices_are_known_or_not(
    each: UnitCost, used: float
) -> None:
    assert at_noon(Cap(dollars_per_day=1.0), Spent(dollars_today=used), each=each).stopped


def test_what_is_under_way_leaves_no_room_but_is_not_spent_yet() -> None:
    cap, used = Cap(dollars_per_day=40.0), spent(dollars_today=39.0, dollars_under_way=1.0)
    assert not at_noon(cap, used).stopped
    room = Room.under(cap, used, 1.0, DAY)
    assert room.units(CENT) < 1
    assert "under way" in (room.why_full(cap, used, CENT) or "")


@pytest.mark.parametrize(("cap", "factor"), [(10, 1.0), (9, 0.5), (5, 0.5), (1, 0.0625), (0, 0.0)])
def test_calls_a_minute_lower_the_rate_too(cap: float, factor: float) -> None:
    allowance = at_noon(Cap(calls_per_minute=cap), spent())

    assert allowance.factor == factor
    if factor < 1:
        assert f"{cap} " in f"{allowance.reason} ".replace(".", " ")


@pytest.mark.parametrize(
    ("cap", "calls_of_unit", "window"),
    [
        (10, 1, (10, 60.0)),
        (2.5, 1, (3, 72.0)),
        (0.1, 1, (1, 600.0)),
        (2, 3, (3, 90.0)),
        (0, 1, (0, 60.0)),
        (None, 1, (math.inf, 60.0)),
    ],
)
def test_windows_hold_whole_calls_and_whole_units(
    cap: float | None, calls_of_unit: float, window: tuple[float, float]
) -> None:
    assert Cap(calls_per_minute=cap).window(calls_of_unit) == pytest.approx(window)


@given(cap=st.floats(1e-3, 1e6), calls_of_unit=st.floats(1, 20))
def test_a_window_that_is_free_has_room_for_a_unit_and_keeps_the_cap(
    cap: float, calls_of_unit: float
) -> None:
    limit = Cap(calls_per_minute=cap)
    calls, seconds = limit.window(calls_of_unit)
    assert calls / seconds * 60 == pytest.approx(cap)
    assert Room.under(limit, Spent(), calls_of_unit, seconds).units(UnitCost(calls_of_unit)) >= 1


def test_calls_a_minute_are_kept_to_the_second() -> None:
    cap = Cap(calls_per_minute=10)
    assert Room.under(cap, Spent(calls=9), 1.0, DAY).units(UnitCost()) == 1
    room = Room.under(cap, Spent(calls=2), 1.0, DAY)
    room.take(3, UnitCost(calls=2.0))
    assert room.units(UnitCost()) == 2
    assert Room.under(cap, Spent(calls=63), 1.0, DAY).units(UnitCost()) < 0


def test_a_minute_of_which_only_a_part_is_known_has_that_part_of_the_calls() -> None:
    cap = Cap(calls_per_minute=10)
    assert Room.under(cap, Spent(), 1.0, 0.0).units(UnitCost()) == 0
    assert Room.under(cap, Spent(calls=1), 1.0, 30.0).units(UnitCost()) == 4
    assert "10 a minute" in (Room(0).why_full(cap, Spent(), UnitCost()) or "")


def test_the_tightest_cap_counts() -> None:
    own, of_all = Cap(dollars_per_day=1000.0), Cap(dollars_per_day=10.0)
    allowance = allow(
        [(own, spent()), (of_all, spent(dollars_today=10.0))],
        CENT,
        1.0,
        changed_at=0.0,
        day_began_at=0.0,
        now=1.0,
    )
    assert allowance.stopped


def test_up_one_step_with_room_to_spare_and_after_a_while() -> None:
    enough = spent(dollars_to_come=1.0)
    cap = Cap(dollars_per_day=10.0)
    now = DAY / 2

    assert at_noon(cap, enough, 0.125, now - RAISE_AFTER_SECONDS + 1).factor == 0.125
    assert at_noon(cap, enough, 0.125, now - RAISE_AFTER_SECONDS).factor == 0.25
    assert at_noon(cap, enough, 0.5, now - RAISE_AFTER_SECONDS).factor == 1.0
    just = spent(dollars_to_come=20.0)  # a half fits, just so
    assert at_noon(cap, just, 0.25).factor == 0.25


def test_a_lowered_rate_always_has_a_reason() -> None:
    idle = spent(dollars_to_come=0.0, calls_per_minute=0.0)
    allowance = at_noon(Cap(dollars_per_day=10.0), idle, 0.25, DAY / 2)
    assert (allowance.factor, bool(allowance.reason)) == (0.25, True)


def test_stopped_until_the_new_day_or_another_cap() -> None:
    cap = Cap(dollars_per_day=10.0)

    assert at_noon(cap, spent(), 0.0, changed_at=1.0).stopped
    assert at_noon(cap, spent(), 0.0, changed_at=-1.0).factor == 0.125  # yesterday's


@given(
    cap=st.floats(0.0, 1e6),
    used=st.floats(0.0, 1e6),
    to_come=st.floats(0.0, 1e9),
    each=st.floats(1e-9, 10.0),
    factor_now=st.sampled_from([1.0, 0.5, 2.0**-10, 0.0]),
)
def test_no_unit_is_waited_for_that_can_not_be_paid(
    cap: float, used: float, to_come: float, each: float, factor_now: float
) -> None:
    """Either there is room as soon as nothing is under way, or the day is over."""
    limit = Cap(dollars_per_day=cap)
    used_up = Spent(dollars_today=used, dollars_to_come=to_come)
    cost = UnitCost(dollars=each)
    allowance = at_noon(limit, used_up, factor_now, each=cost)
    room = Room.under(limit, used_up, 1.0, DAY)
    assert allowance.stopped or room.units(cost) >= 1 - 1e-9
    assert allowance.stopped or LOWEST <= allowance.factor <= 1.0


def epochs(rate: float) -> Epochs:
    return Epochs([Epoch(1, 0, 0, 1, rate, None, (), "started", of_sessions=False)])


@pytest.mark.parametrize(
    ("last", "rate", "factor"),
    [
        (0.05, 0.2, 0.25),
        (0.2, 0.2, 1.0),
        (0.2, 0.05, 1.0),
        (0.1, 0.3, 1.0),
        (0.3 / 1024, 0.3, LOWEST * 1024),
    ],
)
def test_what_a_budget_left_is_read_from_the_last_epoch(
    last: float, rate: float, factor: float
) -> None:
    assert epochs(last).factor(rate) == factor
    assert Epochs().factor(rate) == 1.0


def told(**state: object) -> list[str]:
    known = {"problem": None, "note": None, "lag_seconds": 0.0, "in_flight": 3, "retrying": 4}
    return list(scorer_warnings({"1/nice": {**known, **state}}))


def test_who_is_behind_is_told_whatever_else_is_told() -> None:
    assert told() == []
    assert told(lag_seconds=300.0) == []
    (behind,) = told(lag_seconds=301.0)
    assert "1/nice is 301 s behind" in behind
    assert "3 units are being scored, 4 wait" in behind
    lines = told(lag_seconds=400.0, note="3.00 of 3.00 dollars are spent today.", problem="No key.")
    assert lines[0] == "scorer 1/nice waits: No key."
    assert "dollars" in lines[1]
    assert "400 s behind" in lines[2]
