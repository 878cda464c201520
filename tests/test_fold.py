"""The read model: the same whoever folds, however often, and in whichever pieces."""

from __future__ import annotations

import logging
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Position, Record
from vedette.traces.fold import decoded
from vedette.traces.index import TraceIndex

TABLES = [
    "traces",
    "trace_previews",
    "trace_tags",
    "trace_metadata",
    "spans",
    "assessments",
    "run_links",
    "completing",
    "scorer_cursors",
]
NOW = 1_700_000_000_000


def spans_record(
    trace: int, *names: str, at: int = NOW, tokens: int | None = None, **attributes: str
) -> Record:
    """An OTLP record of one trace: the first name is the root, the others are its children."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        span = scope.spans.add()
        span.trace_id = trace.to_bytes(16, "big")
        span.span_id = name.encode().rjust(8, b"\1")
        if name != "root":
            span.parent_span_id = b"root".rjust(8, b"\1")
        span.name = name
        span.start_time_unix_nano = NOW * 1_000_000 + len(name)
        span.end_time_unix_nano = (NOW + 500) * 1_000_000
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
        if tokens is not None:
            attribute = span.attributes.add()
            attribute.key = "mlflow.chat.tokenUsage"
            attribute.value.string_value = (
                f'{{"input_tokens": {tokens}, "output_tokens": 1, "total_tokens": {tokens + 1}}}'
            )
    return Record("spans", at, {"experiment_id": "0"}, request.SerializeToString())


def start_record(trace: int, **changes: Any) -> Record:
    header = {
        "trace_id": f"tr-{trace:032x}",
        "experiment_id": "0",
        "request_time": NOW,
        "execution_duration": 500,
        "state": "OK",
        "client_request_id": None,
        "request_preview": None,
        "response_preview": None,
        "tags": {},
        "metadata": {},
        "assessments": [],
        **changes,
    }
    return Record("start_trace", NOW, {"trace": header})


def assessment(trace: int, assessment_id: str, value: str = "true") -> dict[str, Any]:
    return {
        "assessment_id": assessment_id,
        "trace_id": f"tr-{trace:032x}",
        "name": "correct",
        "assessment_type": "feedback",
        "value": value,
        "error": None,
        "created_timestamp": NOW,
        "last_updated_timestamp": NOW,
        "source_type": "CODE",
        "source_id": "correct",
        "run_id": None,
        "span_id": None,
        "rationale": None,
        "overrides": None,
        "valid": True,
        "assessment_metadata": None,
        "aggregate_value": 1.0,
        "is_numeric_value": False,
    }


HISTORY = [
    spans_record(1, "child", tokens=7),
    start_record(2, tags={"env": "prod", "mlflow.traceName": "two"}),
    spans_record(1, "root", "other", tokens=9),
    spans_record(2, "root"),
    Record("set_tag", NOW, {"trace_id": f"tr-{1:032x}", "key": "env", "value": "prod"}),
    start_record(1, metadata={"mlflow.trace.session": "s"}),
    spans_record(1, "child", tokens=8),
    Record(
        "assessments",
        NOW,
        {
            "put": [assessment(1, "a-1"), assessment(1, "a-2"), assessment(2, "a-3")],
            "cursors": [{"scorer": "0/correct", "position": 2}],
        },
    ),
    Record("assessments", NOW, {"delete": [[f"tr-{1:032x}", "a-2"]]}),
    spans_record(3, "root"),
    Record("link_run", NOW, {"trace_ids": [f"tr-{3:032x}"], "run_id": "r"}),
    Record("delete_tag", NOW, {"trace_id": f"tr-{2:032x}", "key": "env"}),
    Record("delete_traces", NOW, {"trace_ids": [f"tr-{3:032x}"]}),
    spans_record(4, "child"),
]


def content(index: TraceIndex) -> dict[str, list[Any]]:
    """All the index holds, traces named by their trace_id."""
    names = dict(index.connection().execute("SELECT id, trace_id FROM traces"))
    found = {}
    for table in TABLES:
        cursor = index.connection().execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in cursor.description]
        rows = []
        for row in cursor:
            values = dict(zip(columns, row, strict=True))
            values.pop("id", None)
            if "trace" in values:
                values["trace"] = names[values["trace"]]
            rows.append(tuple(values.values()))
        found[table] = sorted(rows, key=repr)
    return found


def folded(directory: Path, pieces: list[int]) -> TraceIndex:
    """An index of HISTORY, folded in batches of these sizes."""
    index, start = TraceIndex(directory / "index.db"), 0
    for size in pieces:
        batch = [
            (decoded(record), Position(1, number))
            for number, record in enumerate(HISTORY[start : start + size], start + 1)
        ]
        index.apply("journal", batch)
        start += size
    return index


@pytest.mark.parametrize("pieces", [[14], [1] * 14, [3, 8, 3], [6, 1, 7], [2, 2, 2, 2, 2, 4]])
def test_the_result_does_not_depend_on_the_batches(tmp_path: Path, pieces: list[int]) -> None:
    assert sum(pieces) == len(HISTORY)
    one = content(folded(tmp_path / "a", [1] * len(HISTORY)))
    assert content(folded(tmp_path / "b", pieces)) == one
    traces = {row[0]: row for row in one["traces"]}
    assert set(traces) == {f"tr-{n:032x}" for n in (1, 2, 4)}
    assert [row[0] for row in one["assessments"]] == ["a-1", "a-3"]


def test_what_has_been_folded_is_not_folded_again(tmp_path: Path) -> None:
    index = folded(tmp_path, [14])
    before = content(index)
    index.apply("journal", [(decoded(r), Position(1, n)) for n, r in enumerate(HISTORY, 1)])
    assert content(index) == before
    assert index.position("journal") == Position(1, 14)


def test_tokens_of_a_parent_that_sums_up_its_children_are_not_counted_twice(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.db")
    records = [spans_record(1, "child", tokens=10), spans_record(1, "root", tokens=30)]
    for number, record in enumerate(records, 1):
        index.apply("journal", [(decoded(record), Position(1, number))])
    row = index.connection().execute("SELECT input_tokens, span_count FROM traces").fetchone()
    assert row == (30, 2)


def test_tokens_of_spans_that_come_after_start_trace_count_unless_it_told_them(
    tmp_path: Path,
) -> None:
    index = TraceIndex(tmp_path / "index.db")
    told = {
        "mlflow.trace.tokenUsage": '{"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}'
    }
    records = [
        spans_record(1, "child", tokens=10),
        start_record(1),
        spans_record(1, "other", tokens=20),
        spans_record(2, "child", tokens=10),
        start_record(2, metadata=told),
        spans_record(2, "other", tokens=20),
    ]
    for number, record in enumerate(records, 1):
        index.apply("journal", [(decoded(record), Position(1, number))])
    rows = index.connection().execute("SELECT input_tokens FROM traces ORDER BY trace_id")
    assert rows.fetchall() == [(30,), (5,)]


NAMED = [
    start_record(1, tags={"mlflow.traceName": "told"}),
    Record("set_tag", NOW, {"trace_id": f"tr-{1:032x}", "key": "mlflow.traceName", "value": "set"}),
]


@pytest.mark.parametrize(
    ("records", "name"),
    [
        ([spans_record(1, "root")], "root"),
        ([spans_record(1, "child")], None),
        ([spans_record(1, "child"), spans_record(1, "root")], "root"),
        ([start_record(1), spans_record(1, "root")], "root"),
        ([spans_record(1, "root"), start_record(1)], "root"),
        ([NAMED[0], spans_record(1, "root")], "told"),
        ([spans_record(1, "root"), NAMED[0]], "told"),
        ([spans_record(1, "root"), NAMED[1]], "set"),
        ([spans_record(1, "child"), NAMED[1], spans_record(1, "root")], "set"),
        ([spans_record(1, "root"), NAMED[1], spans_record(1, "root")], "set"),
    ],
)
def test_a_trace_has_the_name_of_its_root_unless_it_was_named(
    tmp_path: Path, records: list[Record], name: str | None
) -> None:
    index = TraceIndex(tmp_path / "index.db")
    for number, record in enumerate(records, 1):
        index.apply("journal", [(decoded(record), Position(1, number))])
    assert index.connection().execute("SELECT trace_name FROM traces").fetchone() == (name,)


def test_a_record_that_fits_no_column_stops_nobody(tmp_path: Path, caplog: Any) -> None:
    index = TraceIndex(tmp_path / "index.db")
    records = [
        spans_record(1, "root"),
        start_record(2, request_time=2**70),
        spans_record(3, "root"),
    ]
    with caplog.at_level(logging.ERROR):
        index.apply("journal", [(decoded(r), Position(1, n)) for n, r in enumerate(records, 1)])
    rows = index.connection().execute("SELECT trace_id FROM traces").fetchall()
    assert {trace_id for (trace_id,) in rows} == {f"tr-{1:032x}", f"tr-{3:032x}"}
    assert "start_trace" in caplog.text
    assert index.position("journal") == Position(1, 3)


def test_a_span_that_fits_no_column_takes_no_others_of_its_request_along(
    tmp_path: Path, caplog: Any
) -> None:
    index = TraceIndex(tmp_path / "index.db")
    record, first = decoded(spans_record(1, "root", "child"))
    _, second = decoded(spans_record(2, "root", "child"))
    first[1].name = "cut \ud83d"  # no such text comes out of a decoder; a defect might make one
    index.apply("journal", [((record, [*first, *second]), Position(1, 1))])
    rows = index.connection().execute("SELECT trace_id FROM traces ORDER BY trace_id").fetchall()
    assert [trace_id for (trace_id,) in rows] == [f"tr-{1:032x}", f"tr-{2:032x}"]
    assert "it doesn't fit" in caplog.text


def test_half_a_character_within_json_costs_that_character_alone(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.db")
    asked = '{"messages": [{"role": "user", "content": "cut \\ud83d"}]}'
    said = {"mlflow.spanInputs": asked, "session.id": '"half \\ud800"'}
    record = spans_record(1, "root", **said)
    index.apply("journal", [(decoded(record), Position(1, 1))])
    row = (
        index.connection()
        .execute("SELECT request, session_id FROM traces, trace_previews")
        .fetchone()
    )
    assert row == ("cut ?", "half ?")


def catch_up_repeatedly(data: Path, until: float) -> None:
    index, reader = TraceIndex(data / "index.db"), JournalReader(data / "journal")
    while time.time() < until:
        index.catch_up([reader])


def test_several_processes_may_fold_at_once(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "journal", segment_seconds=0.1)
    context = multiprocessing.get_context("spawn")
    until = time.time() + 8
    folders = [
        context.Process(target=catch_up_repeatedly, args=(tmp_path, until)) for _ in range(2)
    ]
    for process in folders:
        process.start()
    index, reader = TraceIndex(tmp_path / "index.db"), JournalReader(tmp_path / "journal")
    for number in range(1, 200):
        writer.append(spans_record(number, "root", "child")).result(10)
        index.catch_up([reader])
        (count,) = index.connection().execute("SELECT count(*) FROM traces").fetchone()
        assert count == number  # a write is visible to the next read
        time.sleep(0.01)
    for process in folders:
        process.join()
        assert process.exitcode == 0
    (spans,) = index.connection().execute("SELECT count(*) FROM spans").fetchone()
    assert spans == 2 * 199
    writer.close()


def test_catching_up_reads_each_stretch_of_the_journal_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path / "journal", segment_seconds=60)
    for record in HISTORY:
        writer.append(record).result(10)
    index, reader = TraceIndex(tmp_path / "index.db"), JournalReader(tmp_path / "journal")
    starts: list[Position] = []
    read = reader.read

    def counted(start: Position, limit_bytes: int) -> list[tuple[Record, Position]]:
        starts.append(start)
        return read(start, limit_bytes)

    monkeypatch.setattr(reader, "read", counted)
    index.catch_up([reader])
    assert starts == [Position(0, 0)]
    assert index.position(reader.journal_id) == writer.end
    index.catch_up([reader])  # there is nothing new
    assert starts == [Position(0, 0)]
    writer.close()  # leaves an empty segment: the end is past the last record
    (tmp_path / "journal" / f"{9:020d}.open").touch()
    index.catch_up([reader])
    assert starts == [Position(0, 0), index.position(reader.journal_id)]


def test_confirming_the_lake_is_remembered(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.db")
    index.confirm_lake("journal", 7)
    index.confirm_lake("journal", 5)
    assert TraceIndex(tmp_path / "index.db").lake_segment("journal") == 7
