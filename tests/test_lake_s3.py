"""A lake on S3: commits are conditional puts; a network that fails loses and doubles nothing."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from archive_support import NAME, NOW, Plant, as_told, expected
from lake_support import DAY, JOURNAL, compactor, numbered_segment, span, spans_segment, trace_id
from s3_server import (
    BUCKET,
    CUT_AFTER,
    CUT_BEFORE,
    CUT_SHORT,
    ERROR_AFTER,
    THROTTLED,
    Fault,
    Request,
    S3Server,
    run_s3_server,
    times,
)
from test_archive import score, trace
from vedette.archive.table import ArchiveRefused
from vedette.lake import read, storage
from vedette.lake.arrivals import arrivals
from vedette.lake.files import active_files
from vedette.lake.maintenance import clean_log, vacuum_files
from vedette.lake.objects import ObjectFiles
from vedette.lake.read import SpanReader, Wanted
from vedette.lake.sql.engine import SqlEngine
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.formats import from_arrow
from vedette.lake.storage import LakeRefused, LakeUnavailable
from vedette.lake.table import Lake, LakeTable
from vedette.settings import load_settings


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with run_s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def root(s3: S3Server) -> str:
    """Where a test's own lake is."""
    s3.requests.clear()
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def open_lake(root: str, directory: Path) -> Lake:
    return Lake(root, directory / "state")


def stored(table: LakeTable, s3: S3Server) -> pa.Table:
    """Every row of the table, read without our code."""
    options = {**s3.environment, "AWS_ENDPOINT_URL": s3.upstream}
    return DeltaTable(table.storage.uri, storage_options=options).to_pyarrow_table()


def require_segments(table: LakeTable, s3: S3Server, segments: int) -> None:
    ids = stored(table, s3)["record_id"].to_pylist()
    assert len(ids) == len(set(ids)) == segments * 20


@pytest.mark.parametrize("fault", [CUT_AFTER, ERROR_AFTER], ids=["cut", "error"])
@pytest.mark.parametrize("count", [1, 100], ids=["once", "until it gives up"])
def test_a_commit_that_succeeded_without_an_answer_is_known_as_ours(
    root: str, s3: S3Server, tmp_path: Path, fault: Fault, count: int
) -> None:
    table = open_lake(root, tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    with s3.failing(times(count, lambda request: request.is_commit, fault)):
        if count == 1:
            assert not table.append_segment(JOURNAL, 2, numbered_segment(2))
        else:
            with pytest.raises(LakeUnavailable, match="journal segment 2"):
                table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert not table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert table.append_segment(JOURNAL, 3, numbered_segment(3))
    require_segments(table, s3, 3)


@pytest.mark.parametrize("fault", [THROTTLED, CUT_BEFORE], ids=["throttled", "cut"])
def test_a_store_that_takes_nothing_is_told_and_written_again_without_a_restart(
    root: str, s3: S3Server, tmp_path: Path, fault: Fault
) -> None:
    table = open_lake(root, tmp_path).spans
    for fails in (lambda _: True, lambda request: request.is_commit):
        with (
            s3.failing(times(1000, fails, fault)),
            pytest.raises(LakeUnavailable, match=r"S3 error|error sending request"),
        ):
            table.append_segment(JOURNAL, 1, numbered_segment(1))
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    require_segments(table, s3, 1)


def test_nothing_is_lost_or_doubled_when_anything_may_fail_at_any_time(
    root: str, s3: S3Server, tmp_path: Path
) -> None:
    """Commits, compaction, log clean-up, vacuum and reads, with a fault in every eighth request."""
    rng = random.Random(4)
    faults = (THROTTLED, CUT_BEFORE, CUT_AFTER, ERROR_AFTER, CUT_SHORT, Fault(delay=0.3))

    def rule(_: Request) -> Fault | None:
        return rng.choice(faults) if rng.random() < 1 / 8 else None

    table = open_lake(root, tmp_path).spans
    told = 0
    with s3.failing(rule):
        for segment in range(1, 13):
            while True:
                try:
                    table.append_segment(JOURNAL, segment, numbered_segment(segment))
                    if segment == 10:
                        compactor(open_lake(root, tmp_path).spans, tmp_path).merge_small()
                        clean_log(open_lake(root, tmp_path).spans)
                        vacuum_files(open_lake(root, tmp_path).spans)
                    break
                except LakeUnavailable:
                    told += 1
                    assert told < 100
    require_segments(table, s3, 12)
    assert DeltaTable(
        table.storage.uri,
        storage_options={**s3.environment, "AWS_ENDPOINT_URL": s3.upstream},
    ).transaction_version("maintenance")


def test_two_writers_of_one_table_double_nothing(root: str, s3: S3Server, tmp_path: Path) -> None:
    open_lake(root, tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    done: list[bool] = []

    def append() -> None:
        table = open_lake(root, tmp_path).spans
        for segment in range(2, 8):
            done.append(table.append_segment(JOURNAL, segment, numbered_segment(segment)))

    rivals = [threading.Thread(target=append) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert sum(done) == 6
    require_segments(open_lake(root, tmp_path).spans, s3, 7)


def test_compaction_whose_commit_got_no_answer_is_done(
    root: str, s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = open_lake(root, tmp_path).spans
    for segment in range(1, 9):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    with s3.failing(times(1, lambda request: request.is_commit, CUT_AFTER)):
        done = compactor(table, tmp_path).merge_small()
    assert done is not None
    assert (done.files_before, done.files_after) == (8, 1)
    assert "another process" not in caplog.text
    require_segments(table, s3, 8)


def test_a_slow_store_keeps_nobody_else_waiting(root: str, s3: S3Server, tmp_path: Path) -> None:
    """Python's lock is not held: this process would else have no thread to answer."""
    table = open_lake(root, tmp_path).spans
    table.append_segment(JOURNAL, 1, numbered_segment(1))
    beats: list[float] = []
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            beats.append(time.monotonic())

    thread = threading.Thread(target=beat)
    with s3.failing(lambda _: Fault(delay=0.05)):
        thread.start()
        table.append_segment(JOURNAL, 2, numbered_segment(2))
        reader = SpanReader(open_lake(root, tmp_path).spans)
        reader.refresh()
        assert reader.read_spans([Wanted(trace_id(20), DAY + 2000, DAY + 2000)])
        clean_log(open_lake(root, tmp_path).spans)
    over.set()
    thread.join()
    assert max(later - before for before, later in pairwise(beats)) < 1.0


@pytest.mark.parametrize(
    ("place", "environment", "rule", "told"),
    [
        ("s3://no-such-bucket/x", {}, None, "there is no bucket for s3://no-such-bucket/x"),
        (
            None,
            {},
            lambda request: Fault(without="if-none-match"),
            r"overwrites what it is asked to put only if it isn't there",
        ),
        (None, {}, lambda request: Fault(False, 501), "has no conditional writes"),
        (None, {}, lambda request: Fault(False, 403), "doesn't let us write .* AWS_ACCESS_KEY_ID"),
        (None, {"AWS_ALLOW_HTTP": ""}, None, "set AWS_ALLOW_HTTP=true"),
        (None, {"AWS_SECRET_ACCESS_KEY": ""}, None, "no credentials|SecretAccessKey"),
    ],
    ids=["no bucket", "overwrites", "no conditions", "no rights", "plain http", "no credentials"],
)
def test_what_cannot_hold_a_lake_is_refused_before_anything_is_written(
    root: str,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str | None,
    environment: dict[str, str],
    rule: object,
    told: str,
) -> None:
    monkeypatch.setattr(storage, "_SAFE_STORES", set())
    for name, value in environment.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)
    lake = open_lake(place or root, tmp_path)
    with s3.failing(rule or (lambda request: None)):  # type: ignore[arg-type]
        for attempt in (lake.require_safe_commits, lake.spans.open):
            with pytest.raises(LakeRefused, match=told):
                attempt()
    assert not any("_delta_log" in r.path for r in s3.requests if r.method == "PUT")


def test_a_store_that_answers_late_is_not_refused(
    root: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SAFE_STORES", set())
    lake = open_lake(root, tmp_path)
    with s3.failing(lambda _: THROTTLED), pytest.raises(LakeUnavailable) as caught:
        lake.require_safe_commits()
    assert not isinstance(caught.value, LakeRefused)
    for fault in (CUT_AFTER, ERROR_AFTER):  # its own first write is there when it is tried again
        storage._SAFE_STORES.clear()
        with s3.failing(times(1, lambda request: request.method == "PUT", fault)):
            lake.require_safe_commits()


def test_commits_are_conditional_whatever_is_set_for_other_programs(
    root: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    open_lake(root, tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    puts = [r for r in s3.requests if r.method == "PUT" and "_delta_log/0" in r.path]
    assert [request.headers["if-none-match"] for request in puts] == ["*", "*"]


def test_a_commit_is_worth_its_requests(root: str, s3: S3Server, tmp_path: Path) -> None:
    """They cost money: two writes, three lists and some reads for a commit."""
    table = open_lake(root, tmp_path).spans
    table.append_segment(JOURNAL, 1, numbered_segment(1))
    s3.requests.clear()
    table.append_segment(JOURNAL, 2, numbered_segment(2))
    methods = [request.method for request in s3.requests]
    assert methods.count("PUT") == 2
    assert len(methods) <= 12
    assert load_settings({"lake": root}).settings.commit_seconds == 5
    assert load_settings({}).settings.commit_seconds == 1
    assert load_settings({"lake": root, "segment_seconds": 2.0}).settings.commit_seconds == 2


def test_traces_are_read_from_a_large_file_by_ranges_of_it(
    root: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_lake(root, tmp_path).spans
    rng = random.Random(1)
    for segment in range(1, 9):
        spans_sent = [
            span(n, name, attributes=f'"{rng.randbytes(150).hex()}"')
            for n in range(segment * 500, segment * 500 + 500)
            for name in ("root", "tool")
        ]
        rows = spans_segment(segment, *spans_sent, at=DAY + segment * 1000)
        table.append_segment(JOURNAL, segment, rows)
    assert compactor(table, tmp_path).merge_small() is not None
    wanted = [Wanted(trace_id(n), DAY, DAY + 100_000) for n in (510, 2600, 10**9)]

    def spans(one: Wanted) -> list[object]:
        reader = SpanReader(open_lake(root, tmp_path).spans)
        reader.refresh()
        found = reader.read_spans([one], ["status", "kind"]).get(one.trace_id, [])
        return sorted(found, key=lambda span: str(span["span_id"]))

    whole = [spans(one) for one in wanted]
    assert [len(found) for found in whole] == [2, 2, 0]
    for path in table.cache.iterdir():
        path.unlink()
    monkeypatch.setattr(read, "_FETCHED_BYTES", 0)
    s3.requests.clear()
    with s3.failing(times(3, lambda request: "range" in request.headers, CUT_SHORT)):
        assert [spans(one) for one in wanted] == whole
    parts = [r.headers["range"] for r in s3.requests if "tier-" in r.path]  # none without one
    bounds = [part.removeprefix("bytes=").split("-") for part in parts]
    read_bytes = sum(int(last) - int(first) + 1 for first, last in bounds)
    (size,) = (file.size for file in active_files(table.open(), table.spec))
    assert read_bytes < 0.8 * len(wanted) * size, (parts, size)
    assert not list(table.cache.iterdir())


def test_rows_come_back_in_the_order_of_arrival(root: str, s3: S3Server, tmp_path: Path) -> None:
    """What the read model is made anew from, with answers that break off."""
    table = open_lake(root, tmp_path).spans
    for segment in range(1, 4):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    with s3.failing(times(2, lambda request: ".parquet" in request.path, CUT_SHORT)):
        found = list(arrivals(table, ["span_id"], tmp_path / "scratch"))
    assert [one.place.segment for one in found] == [1, 2, 3]
    assert sum(len(one.rows) for one in found) == 60


def test_queries_read_copies_of_what_is_not_too_much(
    root: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(root, tmp_path)
    engine = SqlEngine(lake)
    query = "SELECT count(*) AS n, min(arrival_date) AS day FROM mlflow_otel_spans"
    try:
        lake.spans.append_segment(JOURNAL, 1, numbered_segment(1))
        for segment in (2, 3):
            lake.spans.append_segment(JOURNAL, segment, numbered_segment(segment))
            (row,) = from_arrow(engine.run(query).content).to_pylist()
            assert (row["n"], str(row["day"])) == (segment * 20, "2026-01-01")
        monkeypatch.setattr("vedette.lake.sql.snapshot.LIMIT_BYTES", 1000)
        with pytest.raises(QueryRefused, match=r"GB from the object store .*mlflow_otel_spans"):
            engine.run(query)
        assert from_arrow(engine.run("SELECT 1 AS one").content).to_pylist() == [{"one": 1}]
    finally:
        engine.close()


def test_copies_that_break_off_are_not_taken_for_whole(
    root: str, s3: S3Server, tmp_path: Path
) -> None:
    table = open_lake(root, tmp_path).spans
    table.append_segment(JOURNAL, 1, numbered_segment(1))
    reader = SpanReader(table)
    reader.refresh()
    wanted = [Wanted(trace_id(10), DAY + 1000, DAY + 1000)]
    with (
        s3.failing(times(100, lambda request: ".parquet" in request.path, CUT_SHORT)),
        pytest.raises(LakeUnavailable),
    ):
        reader.read_spans(wanted)
    assert not list(table.cache.iterdir())
    assert len(reader.read_spans(wanted)[trace_id(10)]) == 2


def test_an_archive_on_s3_is_what_the_read_model_says(
    root: str, s3: S3Server, tmp_path: Path
) -> None:
    plant = Plant(tmp_path)
    plant.settings = plant.settings.model_copy(update={"lake": root})
    theirs = ObjectFiles(f"{root}/main/quality", s3.environment)
    theirs.put("traces/of_others.csv", b"1,2")
    archive = plant.archive()
    with pytest.raises(ArchiveRefused, match="no Delta table"):
        archive.table.prepare(None)
    plant.settings = plant.settings.model_copy(update={"lake": f"{root}/2"})
    archive = plant.archive()
    try:
        archive.table.prepare(None)
        for number in range(1, 5):
            plant.arrive(trace(number, at=NOW + number))
            archive.settle()
        with s3.failing(times(1, lambda request: request.is_commit, CUT_AFTER)):
            plant.arrive(score(1))
            for _ in range(3):
                try:
                    archive.settle()
                    break
                except Exception:
                    archive.sync.forget()
        archive.settle()
        while archive.upkeep.merge():
            pass
        archive.upkeep.clean()
        options = {**s3.environment, "AWS_ENDPOINT_URL": s3.upstream}
        handle = DeltaTable(NAME.uri(f"{root}/2"), storage_options=options)
        rows = handle.to_pyarrow_table().to_pylist(maps_as_pydicts="strict")
        assert [as_told(row) for row in sorted(rows, key=lambda row: row["trace_id"])] == expected(
            plant, "1"
        )
    finally:
        plant.close()
