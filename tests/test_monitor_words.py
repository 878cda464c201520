"""What the monitor's pages say: states, numbers, and the trace ids people paste."""

from __future__ import annotations

from typing import Any

import pytest

from vedette.monitor import words
from vedette.monitor.status import decision_status, scorer_status

ROW = {"active": True, "registered": True, "problem": None, "epoch": 1, "units": 5}


@pytest.mark.parametrize(
    ("changes", "engine", "word", "reason"),
    [
        ({}, "running", "running", ""),
        ({"epoch": None}, "running", "starting", "in a moment"),
        ({"problem": "no API key"}, "running", "waits", "no API key"),
        ({"problem": "told before it died"}, "stale", "waits", "the engine is stale"),
        ({}, "starting", "waits", "the engine is starting"),
        ({}, "not running", "waits", "the engine is not running"),
        ({"active": False}, "running", "stopped", ".start("),
        ({"active": False, "units": 0}, "running", "not started", ".start("),
        ({"active": False, "registered": False}, "running", "deleted", ""),
    ],
)
def test_the_state_of_a_scorer(
    changes: dict[str, Any], engine: str, word: str, reason: str
) -> None:
    status = scorer_status({**ROW, **changes}, engine)
    assert status.word == word
    assert reason in status.reason
    assert bool(reason) == bool(status.reason)


def test_a_decision_is_never_told_by_its_colour_alone() -> None:
    shown = [
        decision_status(decision)
        for decision in (
            *("scored", "failed", "retrying", "budget", "not_selected", "filtered", "incomplete"),
            *("evaluation_run", "superseded", "waiting", "not_started", "not_scored"),
            *("stopped", "deleted"),
        )
    ]
    assert len({status.word for status in shown}) == len(shown)
    for one in shown:
        assert {other.tone for other in shown if other.icon == one.icon} == {one.tone}


def test_a_decision_that_pages_do_not_know_is_shown_as_it_is_called() -> None:
    assert decision_status("put_aside").word == "put aside"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.count(1234567), "1,234,567"),
        (words.count(None), ""),
        (words.percent(0.125), "12.5 %"),
        (words.percent(0.0001), "0.01 %"),
        (words.dollars(0), "$0.00"),
        (words.dollars(0.00123), "$0.0012"),
        (words.dollars(12.345), "$12.35"),
        (words.span(0.4), "0 s"),
        (words.span(119), "119 s"),
        (words.span(600), "10 min"),
        (words.span(9000), "2.5 h"),
        (words.milliseconds(12.4), "12 ms"),
        (words.milliseconds(12_345), "12.3 s"),
        (words.moment(1_700_000_000_000), "2023-11-14 22:13:20 UTC"),
        (words.moment(None), ""),
    ],
)
def test_numbers_and_times(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("pasted", "found"),
    [
        ("tr-3f0c66c1d5f8a0e2d1b7c9a4e5f60718", "tr-3f0c66c1d5f8a0e2d1b7c9a4e5f60718"),
        (" 3F0C66C1D5F8A0E2D1B7C9A4E5F60718\n", "tr-3f0c66c1d5f8a0e2d1b7c9a4e5f60718"),
        ("http://v:5000/#/experiments/1/traces/tr-abc?x=1", "tr-abc"),
        ("of my own making", "of my own making"),
        ("  ", ""),
    ],
)
def test_the_trace_id_in_what_was_pasted(pasted: str, found: str) -> None:
    assert words.trace_id_in(pasted) == found
