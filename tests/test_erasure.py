"""What was deleted for good is in no file any more, and what was not is all there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from archive_support import NAME, NOW, Archive, Plant, enable
from lake_support import compactor, stored
from test_archive import DAY_MS, trace
from test_fold import assessment, spans_record, start_record
from test_rebuild import content
from vedette.archive.archival import Archival
from vedette.archive.setting import ArchiveSetting
from vedette.erasure import Erasure
from vedette.intake.journal import JournalReader
from vedette.intake.records import Record
from vedette.lake import erase
from vedette.lake.erase import Leaving, erase_rows, replaced_files
from vedette.lake.maintenance import vacuum_files
from vedette.lake.schemas import lake_trace_id
from vedette.lake.table import LakeTable
from vedette.rebuild import Rebuild
from vedette.scoring.completion import Completion
from vedette.settings import Settings

MARK = "MARKfc7b"  # what the user has written, wherever it ends up
LATER = 2e9  # seconds since the epoch


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path / "data")
    plant.settings = Settings(data=tmp_path / "data", erasure_grace=0)
    yield plant
    plant.close()


def trace_id(number: int) -> str:
    return f"tr-{number:032x}"


def log_record(number: int, at: int) -> Record:
    """A line of a log that names the trace, and one that names none."""
    request = ExportLogsServiceRequest()
    lines = request.resource_logs.add().scope_logs.add().log_records
    lines.add(
        trace_id=number.to_bytes(16, "big"), time_unix_nano=at * 10**6
    ).body.string_value = f"{MARK} line"
    lines.add(time_unix_nano=at * 10**6).body.string_value = "of no trace"
    return Record("logs", at, {"experiment_id": "1"}, request.SerializeToString())


def marked_trace(number: int, *, at: int = NOW) -> list[Record]:
    """Everything that can be known of a trace has the mark in it."""
    found = spans_record(number, "root", "child", at=at, prompt=f"{MARK} prompt", say=MARK * 9)
    found.fields["experiment_id"] = "1"
    decision = {
        "unit_id": trace_id(number),
        "unit_type": "trace",
        "trace_id": trace_id(number),
        "revision": 0,
        "version": 1,
        "epoch": 1,
        "stratum": -1,
        "inclusion_probability": 1.0,
        "draw": 0.5,
        "decision": "failed",
        "scores": "[]",
        "error_code": "X",
        "error": f"{MARK} error",
        "attempts": 1,
        "first_attempt_ms": at,
        "next_attempt_ms": None,
        "milliseconds": 1.0,
        "worker": None,
        "model": None,
        "calls": 0,
        "input_tokens": None,
        "output_tokens": None,
        "cost_usd": None,
        "completed_ms": at,
        "decided_ms": at,
        "origin": "live",
    }
    feedback = {
        **assessment(number, f"a-{number}", f'"{MARK} value"'),
        "rationale": f"{MARK} rationale",
        "aggregate_value": None,
        "span_id": f"{b'root'.rjust(8, bytes([1])).hex()}" if number % 2 else None,
    }
    return [
        found,
        log_record(number, at),
        start_record(
            number,
            experiment_id="1",
            request_preview=f"{MARK} preview",
            tags={"note": f"{MARK} tag", "mlflow.traceName": f"{MARK} name"},
            metadata={"mlflow.trace.session": f"{MARK} session", "mlflow.trace.user": MARK},
        ),
        Record("set_tag", at, {"trace_id": trace_id(number), "key": "k", "value": f"{MARK} 2"}),
        Record("assessments", at, {"put": [feedback]}),
        Record("link_prompts", at, {"trace_id": trace_id(number), "prompts": [f"{MARK}/1"]}),
        Record(
            "decisions",
            at,
            {
                "scorer": "1/exact",
                "cursor": None,
                "epochs": [],
                "decisions": [decision],
                "counts": [],
                "put": [],
            },
        ),
    ]


def delete_for_good(*numbers: int, at: int = NOW) -> Record:
    ids = [trace_id(number) for number in numbers]
    return Record("delete_traces", at, {"trace_ids": ids, "for_good": True})


def marked_files(data: Path, mark: str = MARK) -> set[str]:
    """The files in which the mark can be read: as it is, or after decompression."""
    found = set()
    for path in data.rglob("*"):
        if not path.is_file() or path.name == "durable.db":  # the plant's own
            continue
        held = path.read_bytes()
        if path.suffix == ".parquet":
            held += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        if mark.encode() in held:
            found.add(str(path.relative_to(data)))
    return found


class Eraser:
    """The parts of an engine that erase."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        settings = plant.settings
        self.archival = Archival(settings, plant.index, plant.contents, plant.stop)
        self.journals = [
            JournalReader(directory)
            for directory in (settings.server_journal, settings.engine_journal)
        ]
        self.erasure = Erasure(settings, plant.index, self.journals, self.archival, plant.stop)

    def run(self, time_of_day: float = LATER) -> list[str]:
        """A pass, if one is due, from beginning to end; returns what it was seen to be doing."""
        doing: list[str] = []
        for _ in range(200):
            self.erasure.step(time_of_day)
            if self.erasure.under_way is None:
                return doing
            if self.erasure.under_way.doing not in doing:
                doing.append(self.erasure.under_way.doing)
            self._plant.to_lake()
            while self.archival.tick():
                pass
        pytest.fail(f"it doesn't end: {doing}")


def tables_of(plant: Plant) -> list[LakeTable]:
    """Those with rows that tell of traces."""
    return [*plant.lake.folded, plant.lake.logs]


def settled(plant: Plant) -> None:
    plant.to_lake()
    plant.index.checkpoint()


def of_others(plant: Plant, archive: Archive | None = None) -> Any:
    """All that is known of traces that weren't deleted."""
    rows = [stored(table).to_pylist() for table in tables_of(plant)]
    kept = [
        sorted(repr(row) for row in table if MARK not in repr(row) and not row.get("deleted_by"))
        for table in rows
    ]
    theirs = {trace_id(number) for number in range(100, 200)}
    known = {
        name: [row for row in rows if theirs & {row.get("trace"), row.get("trace_id")}]
        for name, rows in content(plant.index).items()
    }
    return kept, known, archive.stored() if archive else None


def test_nothing_is_left_of_it_in_any_byte_on_disk(plant: Plant) -> None:
    """In tables of every age, the journal, the read model and its log, and the archive."""
    data = plant.settings.data
    enable(plant.settings, "1", ArchiveSetting(NAME))
    for day in range(3):
        for number in range(1, 5):
            plant.arrive(*marked_trace(10 * day + number, at=NOW + day * DAY_MS))
            plant.arrive(trace(100 + 10 * day + number, at=NOW + day * DAY_MS))
            if number % 2:
                plant.to_lake()
    plant.archive().settle()
    for table in tables_of(plant):
        work = compactor(table, data)
        while work.merge_small() or work.sort_day("2026-01-02"):
            pass
    plant.arrive(*marked_trace(50, at=NOW + 3 * DAY_MS))  # not in the lake yet
    attachments = plant.settings.artifacts / "1" / "traces"
    for number in (1, 101):
        place = attachments / trace_id(number) / "artifacts"
        place.mkdir(parents=True)
        (place / "note.txt").write_text(MARK if number == 1 else "theirs")
    plant.index.checkpoint()
    # The search finds it where it is
    places = {name.split("/")[0] for name in marked_files(data)}
    assert places >= {"journal", "lake", "artifacts", "index.db"}
    lake = {name.split("/")[-3] for name in marked_files(data) if name.startswith("lake")}
    assert lake >= {*(table.spec.name for table in tables_of(plant)), "traces"}
    plant.to_lake()
    others = of_others(plant)
    theirs = [row for row in plant.archive().stored() if MARK not in repr(row)]

    plant.arrive(delete_for_good(*range(1, 5), *range(11, 15), *range(21, 25), 50))
    eraser = Eraser(plant)
    assert eraser.run()

    assert marked_files(data) == set()
    assert of_others(plant) == others
    assert plant.archive().stored() == theirs
    assert (attachments / trace_id(101)).exists()
    found = stored(plant.lake.annotations).to_pylist()
    stones = [row for row in found if row["deleted_by"]]
    assert len(stones) == 13  # which keep what comes late out
    assert eraser.run() == []  # there is nothing left to do


def test_the_metrics_mirror_forgets_it_too(plant: Plant) -> None:
    from vedette.traces.columns import Columns

    plant.arrive(*marked_trace(1), trace(2))
    settled(plant)
    columns = Columns(plant.settings.metrics_path)
    names = "SELECT count(*), count(*) FILTER (contains(trace_name, ?)) FROM traces"
    assert columns.query(plant.index.connection(), names, [MARK]) == [(2, 1)]
    columns.close()
    assert plant.settings.metrics_path.name in marked_files(plant.settings.data)
    columns.sync(plant.index.connection())  # a server has it open
    plant.arrive(delete_for_good(1))
    Eraser(plant).run()
    assert columns.query(plant.index.connection(), names, [MARK]) == [(1, 0)]
    columns.close()
    assert marked_files(plant.settings.data) == set()


def test_what_comes_late_stays_out(plant: Plant) -> None:
    """A span sent again, a start_trace, a score that was on its way: before and after the pass."""
    plant.arrive(*marked_trace(1), trace(2))
    plant.to_lake()
    plant.arrive(delete_for_good(1, at=NOW + 1))
    plant.arrive(*marked_trace(1, at=NOW + 2))  # before its rows have left
    eraser = Eraser(plant)
    eraser.run()
    plant.arrive(*marked_trace(1, at=NOW + 3))
    both = spans_record(1, "root", at=NOW + 4, prompt=MARK)
    # One request of two traces
    plant.arrive(replace(both, body=both.body + spans_record(2, "late").body))
    settled(plant)
    assert [row for (row,) in plant.index.connection().execute("SELECT trace_id FROM traces")] == [
        trace_id(2)
    ]
    names = stored(plant.lake.spans)["name"].to_pylist()
    assert sorted(names) == ["child", "late", "root"]
    plant.index.compact()
    assert marked_files(plant.settings.data) == set()


def test_a_rebuilt_read_model_is_without_it_too(plant: Plant) -> None:
    for number in (1, 2):
        plant.arrive(*marked_trace(number))
        plant.to_lake()
    before = content(plant.index)
    plant.arrive(*marked_trace(3), *marked_trace(4), delete_for_good(3, 4))
    plant.to_lake()

    def rebuilt() -> dict[str, list[Any]]:
        settings = plant.settings
        for path in settings.data.glob("index.db*"):
            path.unlink()
        Rebuild(
            settings.index_path,
            plant.lake,
            [plant.journal, JournalReader(settings.engine_journal)],
            settings.scratch,
            completion=lambda index: Completion.of(settings, index),
            stopping=lambda: False,
        ).run("a test")
        plant.open()
        return content(plant.index)

    assert content(plant.index) == before
    assert rebuilt() == before  # while the rows are still in the files
    Eraser(plant).run()
    assert rebuilt() == before
    plant.arrive(*marked_trace(3))  # its deletion was in the lake
    assert content(plant.index) == before
    Eraser(plant).run()  # the rebuild has forgotten that it was done
    assert content(plant.index) == before


def test_a_trace_that_was_deleted_and_came_again_keeps_what_came(plant: Plant) -> None:
    """MLflow's delete_traces: what it deleted leaves the files in hours, not what came since."""
    plant.arrive(*marked_trace(1), *marked_trace(2), trace(3))
    deleted = [trace_id(1), trace_id(2)]
    plant.arrive(Record("delete_traces", NOW + 5, {"trace_ids": deleted}))
    plant.arrive(trace(1, at=NOW + 9))
    settled(plant)
    eraser = Eraser(plant)
    assert eraser.run(NOW / 1000 + 60) == []  # one pass does for many
    assert eraser.run(NOW / 1000 + 4000)
    spans = stored(plant.lake.spans).to_pylist()
    assert {row["trace_id"] for row in spans} == {lake_trace_id(trace_id(n)) for n in (1, 3)}
    assert MARK not in repr([stored(table).to_pylist() for table in tables_of(plant)])
    assert len(spans) == 4
    # Files that were replaced go with those of compaction
    for table in tables_of(plant):
        handle = table.open()
        assert replaced_files(table)
        handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        vacuum_files(table)
    lake = {name for name in marked_files(plant.settings.data) if name.startswith("lake")}
    assert lake == set()


def test_what_came_again_a_moment_ago_stays_though_the_read_model_lacks_it_yet(
    plant: Plant,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    plant.arrive(*marked_trace(1))
    plant.arrive(Record("delete_traces", NOW + 5, {"trace_ids": [trace_id(1)]}))
    settled(plant)
    plant.writer.append(trace(1, at=now_ms)).result(10)  # durable, and not folded
    assert Eraser(plant).run()
    plant.index.catch_up([plant.journal])
    plant.to_lake()
    spans = stored(plant.lake.spans).to_pylist()
    assert [row["trace_id"] for row in spans] == [lake_trace_id(trace_id(1))] * 2
    assert MARK not in repr(spans)


@pytest.mark.parametrize("at", range(4))
def test_a_pass_that_dies_is_done_again(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At the commit that replaces files, before or after it, or later on."""
    for number in range(1, 7):
        plant.arrive(*marked_trace(number), trace(100 + number))
        if number % 3 == 0:
            plant.to_lake()
    plant.to_lake()
    others = of_others(plant)
    plant.arrive(delete_for_good(*range(1, 7)))
    replace_files, times = erase.replace_files, iter(range(100))

    def dies(*arguments: Any) -> bool:
        number = next(times)
        if number == at // 2 and at % 2 == 0:
            raise KeyboardInterrupt
        done = replace_files(*arguments)
        if number == at // 2:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(erase, "replace_files", dies)
    with pytest.raises(KeyboardInterrupt):
        Eraser(plant).run()
    monkeypatch.undo()
    Eraser(plant).run()
    # What the dead one wrote and never committed goes when it is old enough
    for table in tables_of(plant):
        table.open().vacuum(
            retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
        )
    assert marked_files(plant.settings.data) == set()
    assert of_others(plant) == others


def test_a_rival_that_compacts_the_same_files_doubles_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 9):
        plant.arrive(*marked_trace(number), trace(100 + number))
        plant.to_lake()
    others = of_others(plant)
    rewrite, rivals = erase.rewrite, []

    def overtaken(spec: Any, *arguments: Any, **options: Any) -> Any:
        outputs = rewrite(spec, *arguments, **options)
        for table in tables_of(plant):
            if table.spec is spec and spec.name not in rivals:
                rivals.append(spec.name)
                assert compactor(table, plant.settings.data).merge_small() is not None
        return outputs

    monkeypatch.setattr(erase, "rewrite", overtaken)
    stop = threading.Event()
    leaving = [Leaving(trace_id(number), 2**60) for number in range(1, 9)]
    for table in tables_of(plant):
        assert erase_rows(table, leaving, plant.settings.scratch, stop) > 0
    assert len(rivals) == 4
    assert MARK not in repr([stored(table).to_pylist() for table in tables_of(plant)])
    assert of_others(plant) == others


def test_files_are_looked_at_only_where_such_rows_can_be(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        plant.arrive(trace(number))
        plant.to_lake()
    looked: list[str] = []
    paths = erase.FileCache.paths

    def noted(self: Any, files: Any) -> list[str]:
        looked.extend(file.path for file in files)
        return paths(self, files)

    monkeypatch.setattr(erase.FileCache, "paths", noted)
    version = plant.lake.spans.open().version()
    stop = threading.Event()
    for nothing in (Leaving(trace_id(99), 2**60), Leaving(trace_id(7), (NOW - 1) * 1000)):
        assert erase_rows(plant.lake.spans, [nothing], plant.settings.scratch, stop) == 0
    assert looked == []
    assert plant.lake.spans.open().version() == version
    leaving = [Leaving(trace_id(7), NOW * 1000)]
    assert erase_rows(plant.lake.spans, leaving, plant.settings.scratch, stop) == 2
    assert len(set(looked)) == 1
    assert stored(plant.lake.spans).num_rows == 14


def test_it_is_no_arrival_of_the_other_rows(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    plant.to_lake()
    before = plant.lake.spans.open().version()
    leaving = [Leaving(trace_id(1), 2**60)]
    erase_rows(plant.lake.spans, leaving, plant.settings.scratch, threading.Event())
    handle = plant.lake.spans.open()
    assert handle.version() == before + 1
    log = Path(plant.lake.spans.storage.uri) / "_delta_log" / f"{before + 1:020}.json"
    assert '"dataChange":true' not in log.read_text()
    assert '"remove"' in log.read_text()
