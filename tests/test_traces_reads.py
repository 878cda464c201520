"""What reads do beyond what MLflow's store answers: waiting, and saying what is wrong."""

from __future__ import annotations

import json
import operator
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from traces_support import T0, add_traces, filled_index
from vedette.lake.storage import LakeUnavailable
from vedette.traces import reads as reads_module
from vedette.traces import search as search_module
from vedette.traces.columns import Columns
from vedette.traces.index import TraceIndex
from vedette.traces.reads import TraceReads

CONTENT = {
    "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
    "span_id": "AAAAAAAAAAU=",
    "parent_span_id": None,
    "name": "agent",
    "start_time_unix_nano": 1,
    "end_time_unix_nano": 2,
    "events": [],
    "status": {"code": "STATUS_CODE_OK", "message": ""},
    "attributes": {"mlflow.traceRequestId": '"tr-1"'},
    "links": [],
}


class Shelf:
    """Contents that arrive when a test says so."""

    def __init__(self) -> None:
        self.spans: dict[int, list[str]] = {}
        self.error: Exception | None = None

    def of(self, rows: Sequence[int]) -> dict[int, list[str]]:
        if self.error is not None:
            raise self.error
        return {row: self.spans[row] for row in rows if row in self.spans}

    def sizes(self, rows: Sequence[int]) -> dict[int, int]:
        return {}

    def with_words(self, words: Sequence[str], received_from_ms: int | None) -> set[str]:
        raise NotImplementedError


@pytest.fixture
def index(tmp_path: Path) -> TraceIndex:
    index = filled_index(tmp_path / "index.db", 3)
    with index.transaction() as connection:
        connection.execute(
            "INSERT INTO trace_tags SELECT id, 'mlflow.trace.spansLocation', 'TRACKING_STORE'"
            " FROM traces"
        )
        connection.execute(
            "INSERT INTO trace_metadata VALUES (1, 'mlflow.trace.sizeStats', ?)",
            (json.dumps({"num_spans": 2}),),
        )
    return index


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def reads(index: TraceIndex, shelf: Shelf) -> TraceReads:
    return TraceReads(index.connection, Columns(None), shelf)


def id_of(index: TraceIndex, row: int) -> str:
    (trace_id,) = (
        index.connection().execute("SELECT trace_id FROM traces WHERE id = ?", (row,)).fetchone()
    )
    return str(trace_id)


def test_a_trace_is_waited_for_until_all_its_spans_are_there(
    index: TraceIndex, reads: TraceReads, shelf: Shelf
) -> None:
    content = json.dumps(CONTENT)
    shelf.spans[1] = [content]
    later = threading.Timer(0.4, lambda: shelf.spans.update({1: [content, content]}))
    later.start()
    assert len(reads.get_trace(id_of(index, 1)).data.spans) == 2


def test_it_is_not_waited_for_forever(
    index: TraceIndex, reads: TraceReads, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "_PATIENCE", 0.1)
    shelf.spans[1] = [json.dumps(CONTENT)]
    with pytest.raises(MlflowException, match="not fully exported"):
        reads.get_trace(id_of(index, 1))
    assert len(reads.get_trace(id_of(index, 1), allow_partial=True).data.spans) == 1
    assert reads.batch_get_traces([id_of(index, 1)]) == []


def test_a_lake_that_cannot_be_read_is_not_the_callers_fault(
    index: TraceIndex, reads: TraceReads, shelf: Shelf
) -> None:
    shelf.error = LakeUnavailable("reading /lake: permission denied")
    with pytest.raises(MlflowException, match="permission denied") as caught:
        reads.get_trace(id_of(index, 2), allow_partial=True)
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize(
    "arguments",
    [
        {"filter_string": f"timestamp > {'9' * 5000}"},
        {"filter_string": "tags.env = '\ud800'"},
        {"filter_string": f"tags.env LIKE '{'%' * 60_000}'"},
        {"filter_string": "request_id IN (" + "'x', " * 31_000 + "'x')"},
        {"page_token": "eyJvZmZzZXQiOiA5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OX0="},
        {"page_token": "\u2603"},
        {"order_by": ["timestamp", "timestamp"]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_cannot_be_searched_for_is_refused(
    reads: TraceReads, arguments: dict[str, Any]
) -> None:
    with pytest.raises(MlflowException) as caught:
        reads.search_traces(["1"], **arguments)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


_COMPARATORS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["timestamp_ms", "execution_time_ms", "end_time_ms"]),
    st.sampled_from(list(_COMPARATORS)),
    st.integers(-(10**30), 10**30)
    | st.integers(T0, T0 + 10**10)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**23, 10**400, -(10**400)])
    | st.decimals(-(10**30), 10**30, places=2).map(float),
)
def test_numbers_of_any_size_are_compared_as_what_they_are(
    reads: TraceReads, field: str, comparator: str, value: float
) -> None:
    shown = f"{value:.2f}" if isinstance(value, float) else str(value)
    found, _ = reads.search_traces(["1"], f"{field} {comparator} {shown}")
    every, _ = reads.search_traces(["1"])
    assert len(every) == 3
    expected = {
        info.trace_id
        for info in every
        if _COMPARATORS[comparator](
            {
                "timestamp_ms": info.request_time,
                "execution_time_ms": info.execution_duration or 0,
                "end_time_ms": info.request_time + (info.execution_duration or 0),
            }[field],
            value,
        )
    }
    assert {info.trace_id for info in found} == expected


@pytest.mark.parametrize("size", [20, 400])
def test_a_number_beyond_all_that_is_stored_bounds_spans_and_assessments_too(
    index: TraceIndex, reads: TraceReads, size: int
) -> None:
    with index.transaction() as connection:
        connection.execute("UPDATE assessments SET is_numeric_value = 1")
    for clause, count in (
        (f"timestamp < {10**size} AND span.name = 'llm'", 3),
        (f"timestamp > {10**size} AND span.name = 'llm'", 0),
        (f"timestamp > -{10**size} AND span.name = 'llm'", 3),
        (f"feedback.correct < {10**size}", 3),
        (f"feedback.correct >= {10**size}", 0),
        (f"metadata.`mlflow.trace.tokenUsage` = '{{\"total_tokens\": {10**size}}}'", 0),
    ):
        assert len(reads.search_traces(["1"], clause)[0]) == count, clause
    assert reads.search_traces([str(10**size)])[0] == []


def test_a_read_model_that_cannot_be_read_is_said_to_be(shelf: Shelf, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "empty.db")
    reads = TraceReads(lambda: connection, Columns(None), shelf)
    with pytest.raises(MlflowException, match="no such table") as caught:
        reads.search_traces(["1"])
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"


def test_rare_spans_are_found_through_the_mirror(
    index: TraceIndex, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_traces(index.connection(), 4, 200)
    columns = Columns(None)
    reads = TraceReads(index.connection, columns, shelf)
    index.connection().execute(
        "UPDATE spans SET name = 'rare' WHERE trace BETWEEN 4 AND 9 AND name = 'tool'"
    )
    text = "span.name = 'rare' AND span.status IN ('OK', 'UNSET')"
    expected = [id_of(index, row) for row in range(4, 10)]
    monkeypatch.setattr(search_module, "WINDOW", 5)
    asked: list[list[int] | None] = []
    original = columns.traces_with_span

    def spy(*arguments: Any) -> list[int] | None:
        asked.append(original(*arguments))
        return asked[-1]

    monkeypatch.setattr(columns, "traces_with_span", spy)
    for _ in range(2):  # a mirror that has everything to take over isn't waited for
        found = reads.search_traces(["1", "2"], text, max_results=20)[0]
        assert sorted(info.trace_id for info in found) == sorted(expected)
        columns.sync(index.connection())
    assert asked[0] is None
    assert asked[1] is not None
    assert sorted(asked[1]) == list(range(4, 10))
