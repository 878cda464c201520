"""The columnar mirror holds what the read model holds, whatever happened to either."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from traces_support import add_traces, filled_index, note_changed
from vedette.traces import following
from vedette.traces.columns import Columns, ColumnsUnavailable, trim_changes
from vedette.traces.index import TraceIndex

TRACES = 300


@pytest.fixture
def index(tmp_path: Path) -> TraceIndex:
    return filled_index(tmp_path / "index.db", TRACES)


@pytest.fixture
def columns(tmp_path: Path) -> Iterator[Columns]:
    opened = Columns(tmp_path / "metrics.duckdb")
    yield opened
    opened.close()


def mirrored(columns: Columns, index: TraceIndex) -> list[tuple[Any, ...]]:
    """How many of each, and sums that tell if one is missing or there twice."""
    return columns.query(
        index.connection(),
        "SELECT count(*), sum(id), sum(execution_time_ms), (SELECT count(*) FROM spans),"
        " (SELECT sum(latency_ms) FROM spans), (SELECT count(*) FROM assessments) FROM traces",
    )


def held(index: TraceIndex) -> list[tuple[Any, ...]]:
    """The same of the read model."""
    return (
        index.connection()
        .execute(
            "SELECT count(*), sum(id), sum(execution_time_ms), (SELECT count(*) FROM spans),"
            " (SELECT sum((end_ns - start_ns) / 1000000) FROM spans),"
            " (SELECT count(*) FROM assessments WHERE valid = 1) FROM traces"
        )
        .fetchall()
    )


def test_it_is_filled_when_first_asked(columns: Columns, index: TraceIndex) -> None:
    assert mirrored(columns, index) == held(index)
    assert held(index)[0][:2] == (TRACES, TRACES * (TRACES + 1) // 2)


def test_it_follows_what_comes_changes_and_goes(columns: Columns, index: TraceIndex) -> None:
    columns.sync(index.connection())
    add_traces(index.connection(), TRACES + 1, TRACES + 50)
    assert columns.sync(index.connection()) == 50
    with index.transaction() as connection:
        connection.execute("UPDATE traces SET execution_time_ms = 7 WHERE id IN (3, 4)")
        connection.execute("UPDATE assessments SET valid = 0 WHERE trace = 4")
        connection.execute("DELETE FROM spans WHERE trace = 4 AND name = 'tool'")
        for table in ("spans", "assessments", "trace_tags"):
            connection.execute(f"DELETE FROM {table} WHERE trace = 5")
        connection.execute("DELETE FROM traces WHERE id = 5")
        note_changed(connection, [3, 4, 5])
    assert mirrored(columns, index) == held(index)
    assert columns.sync(index.connection()) == 0


def test_it_goes_on_where_it_was_when_opened_again(tmp_path: Path, index: TraceIndex) -> None:
    first = Columns(tmp_path / "metrics.duckdb")
    assert first.sync(index.connection()) == TRACES
    first.close()
    add_traces(index.connection(), TRACES + 1, TRACES + 5)
    again = Columns(tmp_path / "metrics.duckdb")
    assert again.sync(index.connection()) == 5
    assert mirrored(again, index) == held(index)
    again.close()


@pytest.mark.parametrize("damage", ["garbage", "cut", "other tables"])
def test_a_file_that_cannot_be_used_is_made_anew(
    tmp_path: Path, index: TraceIndex, damage: str
) -> None:
    path = tmp_path / "metrics.duckdb"
    if damage == "other tables":
        with duckdb.connect(str(path)) as other:
            other.execute("CREATE TABLE mirror (something VARCHAR)")
    else:
        columns = Columns(path)
        columns.sync(index.connection())
        columns.close()
        content = path.read_bytes()
        path.write_bytes(b"\xff" * 9000 if damage == "garbage" else content[: len(content) // 2])
    columns = Columns(path)
    assert mirrored(columns, index) == held(index)
    columns.close()


def test_the_mirror_of_another_read_model_is_made_anew(tmp_path: Path, index: TraceIndex) -> None:
    other = filled_index(tmp_path / "other.db", 20)
    columns = Columns(tmp_path / "metrics.duckdb")
    columns.sync(index.connection())
    assert mirrored(columns, other) == held(other)
    columns.close()


def test_changes_are_trimmed_and_a_mirror_that_missed_them_is_filled_anew(
    columns: Columns, index: TraceIndex
) -> None:
    columns.sync(index.connection())
    for row in range(1, 11):
        with index.transaction() as connection:
            connection.execute("UPDATE traces SET execution_time_ms = 0 WHERE id = ?", (row,))
            note_changed(connection, [row])
    trim_changes(index, keep=3)
    assert index.connection().execute("SELECT count(*) FROM changes").fetchone() == (3,)
    assert columns.sync(index.connection()) == TRACES
    assert mirrored(columns, index) == held(index)
    trim_changes(index, keep=3)  # nothing to trim: nothing missed
    with index.transaction() as connection:
        note_changed(connection, [1])
    assert columns.sync(index.connection()) == 1


def test_changes_are_trimmed_in_bites_and_exactly(index: TraceIndex) -> None:
    for first in range(1, TRACES, 10):
        with index.transaction() as connection:
            note_changed(connection, range(first, first + 10))
    statements: list[str] = []
    index.connection().set_trace_callback(statements.append)
    trim_changes(index, keep=35, bite=100)
    index.connection().set_trace_callback(None)
    # A batch is kept or goes as a whole
    assert index.connection().execute("SELECT count(*) FROM changes").fetchone() == (30,)
    bites = [text for text in statements if text.startswith("DELETE")]
    assert len(bites) > (TRACES - 30) // 100


def test_writers_hardly_wait_for_a_trim(index: TraceIndex) -> None:
    with index.transaction() as connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            " INSERT INTO changes SELECT i, t.value FROM n, json_each('[1,2,3,4,5,6,7,8,9]') t"
        )
    trim = threading.Thread(target=trim_changes, args=(index, 1000))
    trim.start()
    waits = []
    while trim.is_alive():
        started = time.monotonic()
        with index.transaction() as connection:
            connection.execute("UPDATE traces SET status = 'OK' WHERE id = 1")
        waits.append(time.monotonic() - started)
        time.sleep(0.001)
    assert index.connection().execute("SELECT count(*) FROM changes").fetchone()[0] <= 1000
    assert len(waits) > 3
    assert max(waits) < 2.0


def test_closing_does_not_wait_for_a_copy_under_way(tmp_path: Path) -> None:
    index = filled_index(tmp_path / "index.db", 25_000)
    columns = Columns(tmp_path / "metrics.duckdb")
    outcome: list[BaseException | int] = []

    def sync() -> None:
        try:
            outcome.append(columns.sync(TraceIndex(index.path).connection()))
        except ColumnsUnavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    while not (tmp_path / "metrics.duckdb").exists():
        time.sleep(0.01)
    columns.close()
    thread.join()
    assert isinstance(outcome[0], ColumnsUnavailable)
    assert mirrored(columns, index) == held(index)
    columns.close()


def test_it_is_kept_near_in_the_background(
    columns: Columns, index: TraceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PAUSE_SECONDS", 0.01)
    thread = following.Following(columns, index.connection)
    try:
        columns.sync(index.connection())
        add_traces(index.connection(), TRACES + 1, TRACES + 5)
        deadline = time.monotonic() + 10
        while columns._behind(index.connection()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert columns.sync(index.connection()) == 0
    finally:
        thread.stop()
    assert mirrored(columns, index) == held(index)


def _hold(path: str, ready: Any, done: Any) -> None:
    columns = Columns(Path(path))
    columns.query(sqlite3.connect(Path(path).with_name("index.db")), "SELECT 1")
    ready.set()
    done.wait(20)
    columns.close()


def test_only_one_process_has_it_open(tmp_path: Path, index: TraceIndex, columns: Columns) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    path = str(tmp_path / "metrics.duckdb")
    other = context.Process(target=_hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ColumnsUnavailable, match="another process"):
            columns.sync(index.connection())
    finally:
        done.set()
        other.join()
    assert mirrored(columns, index) == held(index)
