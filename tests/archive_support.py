"""Archives for tests: an engine's parts in a directory, and what a table really holds."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy
from deltalake import DeltaTable
from mlflow.entities import Assessment, TraceInfo
from mlflow.entities.span import LazySpan

from vedette.archive.files import ArchiveFiles
from vedette.archive.names import TableName
from vedette.archive.places import Places
from vedette.archive.setting import ARCHIVAL_TAG, ArchiveSetting
from vedette.archive.sync import ArchiveSync
from vedette.archive.table import archive_table
from vedette.archive.upkeep import Upkeep
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Record
from vedette.intake.segments import segment_files
from vedette.lake.span_readers import SpanReaders
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.settings import Settings
from vedette.traces.contents import SpanContents
from vedette.traces.index import TraceIndex
from vedette.traces.infos import INCOMPLETE_TAG, infos_by_row

_TAGS_OF_READS = (INCOMPLETE_TAG, "mlflow.artifactLocation")  # put there by whoever reads
NOW = 1_767_300_000_000  # ms: 2026-01-01
NAME = TableName("main", "quality", "traces")


class Plant:
    """A data directory with its journal, read model and archives."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        self.writer = JournalWriter(self.settings.server_journal, segment_seconds=0.2)
        self.journal = JournalReader(self.settings.server_journal)
        self.stop = threading.Event()
        self._durable = data / "durable.db"
        self.open()

    def open(self) -> None:
        """What an engine that starts does."""
        settings = self.settings
        self.index = TraceIndex(settings.index_path)
        self.index.catch_up([self.journal])
        self.lake = Lake(settings.lake_uri, settings.lake_state, {})
        self.contents = SpanContents(self.index, [self.journal], SpanReaders(self.lake))
        self._copy_what_is_durable()

    def _copy_what_is_durable(self) -> None:
        """Now, and whenever the read model says that it is durable."""
        make_durable = self.index.make_durable

        def copy() -> None:
            make_durable()
            with closing(sqlite3.connect(self._durable)) as target:
                self.index.connection().backup(target)

        copy()
        self.index.make_durable = copy  # type: ignore[method-assign]

    def cut_power(self) -> None:
        """What of the read model was not durable is folded again, into other batches."""
        for path in self.settings.data.glob("index.db*"):
            path.unlink()
        shutil.copy(self._durable, self.settings.index_path)
        self.open()

    def close(self) -> None:
        self.writer.close()

    def lose_read_model(self) -> None:
        """It is made anew from the journal, as `vedette.rebuild` does."""
        for path in self.settings.data.glob("index.db*"):
            path.unlink()
        self.open()
        self.index.connection().execute("DELETE FROM changes")

    def arrive(self, *records: Record) -> None:
        """These records are acknowledged, and in the read model."""
        for written in [self.writer.append(record) for record in records]:
            written.result(10)
        self.index.catch_up([self.journal])

    def to_lake(self) -> None:
        """What has arrived is sealed and committed to the lake's tables."""
        tail = Tail(self.journal, self.index, self.lake)
        while not self._is_empty():
            tail.advance()
            tail.commit_sealed(lambda: False)
            time.sleep(0.02)

    def _is_empty(self) -> bool:
        try:
            files = segment_files(self.journal.directory)
            return all(path.stat().st_size == 0 for _, _, path in files)
        except FileNotFoundError:  # one is being sealed
            return False

    def archive(self, experiment_id: str = "1", name: TableName = NAME, **settings: Any) -> Archive:
        """The archive of an experiment, as an engine that starts takes it up."""
        return Archive(self, experiment_id, ArchiveSetting(name, **settings))


class Archive:
    """One experiment's archive, as one engine keeps it."""

    def __init__(self, plant: Plant, experiment_id: str, setting: ArchiveSetting) -> None:
        settings = plant.settings
        self.table = archive_table(settings, setting.table)
        self.files = ArchiveFiles(self.table, settings.scratch)
        self.places = Places(settings.archive_state / f"{setting.table}.db")
        self.upkeep = Upkeep(self.table, self.files, plant.stop)
        self.sync = ArchiveSync(
            experiment_id,
            setting,
            self.table,
            self.files,
            self.places,
            plant.index,
            plant.contents,
            plant.stop,
        )

    def settle(self) -> None:
        """Sync and fill until nothing is left to be done."""
        while self.sync.sync() or self.sync.fill():
            pass
        assert not self.sync.progress.behind

    def stored(self) -> list[dict[str, Any]]:
        """Every row of the table's newest version, read without our code."""
        return stored(self.table.storage.uri)

    def ids(self) -> list[str]:
        """The trace ids of the table's rows, sorted."""
        return sorted(row["trace_id"] for row in self.stored())


def enable(settings: Settings, experiment_id: str, setting: ArchiveSetting) -> None:
    """What of MLflow's database an archive is set in."""
    engine = sqlalchemy.create_engine(settings.control_uri)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE IF NOT EXISTS experiments (experiment_id, lifecycle_stage)",
            "CREATE TABLE IF NOT EXISTS experiment_tags (experiment_id, key, value)",
        ):
            connection.execute(sqlalchemy.text(statement))
        connection.execute(
            sqlalchemy.text("INSERT INTO experiments VALUES (:id, 'active')"), {"id": experiment_id}
        )
        connection.execute(
            sqlalchemy.text("INSERT INTO experiment_tags VALUES (:id, :key, :value)"),
            {"id": experiment_id, "key": ARCHIVAL_TAG, "value": json.dumps(setting.as_json())},
        )
    engine.dispose()


def stored(uri: str) -> list[dict[str, Any]]:
    """Every row of a table, by trace id; maps as dicts."""
    rows: list[dict[str, Any]] = DeltaTable(uri).to_pyarrow_table().to_pylist()
    for row in rows:
        for column in ("trace_metadata", "tags"):
            row[column] = dict(row[column])
        for assessment in row["assessments"]:
            assessment["metadata"] = dict(assessment["metadata"])
    return sorted(rows, key=lambda row: row["trace_id"])


def expected(plant: Plant, experiment_id: str) -> list[dict[str, Any]]:
    """What an archive is to hold of an experiment, told by MLflow's entities of its traces."""
    connection = plant.index.connection()
    rows = [
        row
        for (row,) in connection.execute(
            "SELECT id FROM traces WHERE experiment_id = ?", (int(experiment_id),)
        )
    ]
    infos = infos_by_row(connection, rows)
    contents = plant.contents.of(rows)
    found = []
    for row in rows:
        spans = [LazySpan.from_stored_content(text) for text in contents.get(row, [])]
        found.append(told(infos[row], spans))
    return sorted(found, key=lambda one: one["trace_id"])


def told(info: TraceInfo, spans: Sequence[Any]) -> dict[str, Any]:
    """What of a trace MLflow tells and an archive's row has to tell as well."""
    roots = [span for span in spans if span.parent_id is None]
    return {
        "trace_id": info.trace_id.removeprefix("tr-"),
        "client_request_id": info.client_request_id,
        "request_ms": info.request_time,
        "state": str(info.state.value),
        "execution_duration_ms": info.execution_duration,
        "request": roots[0].inputs if roots and roots[0].inputs is not None else None,
        "response": roots[0].outputs if roots and roots[0].outputs is not None else None,
        "trace_metadata": dict(info.trace_metadata),
        "tags": {k: v for k, v in info.tags.items() if k not in _TAGS_OF_READS},
        "spans": [
            {
                "span_id": span.span_id,
                "parent_span_id": span.parent_id,
                "name": span.name,
                "start": span.start_time_ns,
                "end": span.end_time_ns or None,
                "status": str(span.status.status_code.value),
                "events": [event.name for event in span.events],
            }
            for span in spans
        ],
        "assessments": [_assessment_told(one) for one in info.assessments],
        "experiment_id": str(info.experiment_id),
    }


def as_told(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an archive in the form of `told`."""
    has_root = bool(row["spans"]) and row["spans"][0]["parent_span_id"] is None
    return {
        **{
            key: row[key]
            for key in (
                "trace_id",
                "client_request_id",
                "state",
                "execution_duration_ms",
                "trace_metadata",
                "tags",
                "experiment_id",
            )
        },
        "request_ms": round(row["request_time"].timestamp() * 1000),
        "request": _of_root(row, "mlflow.spanInputs", "request") if has_root else None,
        "response": _of_root(row, "mlflow.spanOutputs", "response") if has_root else None,
        "spans": [
            {
                "span_id": span["span_id"],
                "parent_span_id": span["parent_span_id"],
                "name": span["name"],
                "start": span["start_time_unix_nano"],
                "end": span["end_time_unix_nano"],
                "status": span["status"]["code"].removeprefix("STATUS_CODE_"),
                "events": [event["name"] for event in span["events"]],
            }
            for span in row["spans"]
        ],
        "assessments": [_row_told(one) for one in row["assessments"]],
    }


def _of_root(row: dict[str, Any], attribute: str, column: str) -> Any:
    if json.loads(row["spans"][0]["attributes"]).get(attribute) is None:
        return None
    return json.loads(row[column])


def _assessment_told(one: Assessment) -> dict[str, Any]:
    kind = "feedback" if one.feedback is not None else "expectation"
    value = (one.feedback or one.expectation).value
    error = one.feedback.error if one.feedback is not None else None
    return {
        "id": one.assessment_id,
        "name": one.name,
        "source": [one.source.source_type, one.source.source_id],
        "times": [one.create_time_ms, one.last_update_time_ms],
        "kind": kind,
        "value": value if value is None or isinstance(value, str) else json.dumps(value),
        "error": error and [error.error_code, error.error_message],
        "rationale": one.rationale,
        "metadata": one.metadata or {},
        "span_id": one.span_id,
        "overrides": one.overrides,
        "valid": one.valid,
    }


def _row_told(one: dict[str, Any]) -> dict[str, Any]:
    kind = "feedback" if one["feedback"] is not None else "expectation"
    error = (one["feedback"] or {}).get("error")
    times = [one["create_time"], one["last_update_time"]]
    return {
        "id": one["assessment_id"],
        "name": one["assessment_name"],
        "source": [one["source"]["source_type"], one["source"]["source_id"]],
        "times": [round(time.timestamp() * 1000) for time in times],
        "kind": kind,
        "value": one[kind]["value"],
        "error": error and [error["error_code"], error["error_message"]],
        "rationale": one["rationale"],
        "metadata": one["metadata"],
        "span_id": one["span_id"],
        "overrides": one["overrides"],
        "valid": one["valid"],
    }


def keep_for(data: Path) -> None:
    """What an engine does with the archive of experiment 1, until it is killed."""
    plant = Plant.__new__(Plant)
    plant.settings = Settings(data=data)
    plant.journal = JournalReader(plant.settings.server_journal)
    plant.stop = threading.Event()
    plant._durable = data / "durable.db"
    plant.open()
    archive = plant.archive()
    print("begun", flush=True)
    while True:
        busy = archive.sync.sync() or archive.sync.fill() or archive.upkeep.merge()
        if not busy:
            time.sleep(0.005)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    keep_for(Path(sys.argv[1]))
