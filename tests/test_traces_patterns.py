"""RLIKE finds what Python's `re` finds, and no pattern takes the server's time for ever."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from traces_support import filled_index
from vedette.traces import patterns
from vedette.traces.columns import Columns
from vedette.traces.index import TraceIndex
from vedette.traces.patterns import limited_time, matches
from vedette.traces.reads import TraceReads

HOSTILE = "(a|a)*$"
VICTIM = "a" * 60 + "b"

_pieces = st.sampled_from(
    [
        *(
            "a",
            "b",
            "é",
            "ß",
            "Σ",
            "5",
            " ",
            "\n",
            '"',
            "\\\\",
            "-",
            "_",
            "{",
            "}",
            "{e}",
            "{i<=1}",
        ),
        *(".", "^", "$", r"\d", r"\w", r"\W", r"\s", r"\b", r"\B", r"\A", r"\Z", "[ab]", "[^a]"),
        *("[a-z{e}]", r"[\w-]", "(a)", "(?:b|a)", "(?=a)", "(?!b)", "(?<=a)", r"\1", "|", "(?i:B)"),
        *(
            "*",
            "+",
            "?",
            "*?",
            "{2}",
            "{1,2}",
            "{,1}",
            "{}",
            "(",
            ")",
            "[",
            r"\p{L}",
            r"\{",
            r"\N{BULLET}",
        ),
    ]
)
_patterns = st.lists(_pieces, max_size=5).map("".join)
# Not the empty text: there, whether \B holds depends on the version of Python
_texts = st.text(st.sampled_from('abBAéßσς5 \n"\\-_{}e•'), min_size=1, max_size=8)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(_patterns, _texts)
def test_what_python_finds_is_found(pattern: str, text: str) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            expected = re.search(pattern, text) is not None
    except re.error:
        expected = False
    with limited_time():
        assert matches(pattern, text) == expected


def test_nothing_is_found_in_nothing() -> None:
    assert not matches(None, "a")
    assert not matches("a", None)


class NoContents:
    def of(self, rows: Sequence[int]) -> dict[int, list[str]]:
        raise NotImplementedError

    def sizes(self, rows: Sequence[int]) -> dict[int, int]:
        return {}

    def with_words(self, words: Sequence[str], received_from_ms: int | None) -> set[str]:
        raise NotImplementedError


@pytest.fixture
def index(tmp_path: Path) -> TraceIndex:
    index = filled_index(tmp_path / "index.db", 30)
    with index.transaction() as connection:
        connection.execute("UPDATE traces SET trace_name = ?", (VICTIM,))
    return index


@pytest.mark.parametrize("pattern", [HOSTILE, "(a|aa)+$"])
def test_a_search_that_would_take_for_ever_is_refused(
    index: TraceIndex, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.3)
    reads = TraceReads(index.connection, Columns(None), NoContents())
    begun = time.monotonic()
    with pytest.raises(MlflowException, match="RLIKE pattern") as caught:
        reads.search_traces(filter_string=f"trace.name RLIKE '{pattern}'")
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert time.monotonic() - begun < 5
    # The next search has all its time
    found, _ = reads.search_traces(filter_string="trace.name RLIKE 'a+b$'")
    assert len(found) == 30


def test_others_go_on_while_a_pattern_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 1.0)
    longest, stop = 0.0, threading.Event()

    def live() -> None:
        nonlocal longest
        while not stop.is_set():
            before = time.monotonic()
            time.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(MlflowException), limited_time():
            matches(HOSTILE, VICTIM)
    finally:
        stop.set()
        other.join()
    assert longest < 0.5
