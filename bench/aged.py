"""A lake as months leave it: as many files, versions and days, with few rows in them.

What a table costs to use grows with its active files, its log and its checkpoint, not with the rows
in files that nobody opens. So the days that are over are made at once: each with the sorted files
that its traffic would have left, two rows in each; and the log is that of a table of which all but
the last checkpoint was cleaned up, with the version number that it would have.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from vedette.lake.files import StatsCollector, add_action
from vedette.lake.location import DEFAULT
from vedette.lake.row_tables import MICROSECONDS_PER_DAY, table_of
from vedette.lake.schemas import ANNOTATIONS, DECISIONS, PARTITION, SPANS, TableSpec
from vedette.lake.storage import parquet_options
from vedette.lake.table import NO_HOOKS, LakeTable, checkpoint, table_storage

_JOURNAL = f"vedette-{0:032x}"
_DAY_SECONDS = 86_400
# Of a day of 20 traces/s of 12 kB, all scored: what sorting the day leaves, in files of 64 MB
FILES_PER_DAY = {SPANS.name: 100, ANNOTATIONS.name: 4, DECISIONS.name: 4}
_ROWS_PER_FILE = 2


def age(data: Path, days: int, speed: int) -> dict[str, int]:
    """Make the tables in a data directory that is new.

    Args:
        days: that are over.
        speed: time runs so much faster: logs and replaced files are kept so much shorter.

    Returns:
        Active files by table.
    """
    configuration = {
        "delta.logRetentionDuration": f"interval {900 // speed} seconds",
        "delta.deletedFileRetentionDuration": f"interval {7200 // speed} seconds",
    }
    today = int(time.time()) // _DAY_SECONDS
    made = {}
    for spec in (SPANS, ANNOTATIONS, DECISIONS):
        storage = table_storage(str(data / "lake"), DEFAULT, spec, {})
        table = LakeTable(spec, storage, data / "lake.state", configuration)
        for day in range(today - days, today):
            _add_day(table, day)
        _as_if_cleaned(table, days * _DAY_SECONDS)
        made[spec.name] = days * FILES_PER_DAY[spec.name]
    return made


def _add_day(table: LakeTable, day: int) -> None:
    spec, handle = table.spec, table.open()
    adds: list[AddAction | RemoveAction] = []
    count = FILES_PER_DAY[spec.name]
    date = time.strftime("%Y-%m-%d", time.gmtime(day * _DAY_SECONDS))
    for number in range(count):
        rows = table_of(list(_rows(spec, day, number, count)), spec.schema)
        rows = rows.sort_by(spec.sort_key).drop_columns([PARTITION])
        path = f"{PARTITION}={date}/day-{uuid.uuid4()}.parquet"
        size = _write(Path(table.storage.uri) / path, rows)
        stats = StatsCollector(spec)
        stats.add(rows)
        now_ms = int(time.time() * 1000)
        adds.append(add_action(path, size, date, stats.stats(), now_ms, data_change=True))
    handle.create_write_transaction(
        adds,
        mode="append",
        schema=spec.schema,
        partition_by=[PARTITION],
        post_commithook_properties=NO_HOOKS,
    )


def _write(path: Path, rows: pa.Table) -> int:
    """As `Storage.write` does, but thousands of files need not be durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **parquet_options(rows.schema))
    return path.stat().st_size


def _rows(spec: TableSpec, day: int, number: int, files: int) -> Iterator[dict[str, Any]]:
    """Rows of one sorted file of a day; the files' ranges of keys don't overlap."""
    for row in range(_ROWS_PER_FILE):
        arrived_ms = (day * _DAY_SECONDS + number * _DAY_SECONDS // files) * 1000 + row
        arrived = arrived_ms * 1000
        trace_id = f"{number * 2**128 // files + day * _ROWS_PER_FILE + row:032x}"
        common = {
            "record_id": f"{arrived_ms:011x}-{_JOURNAL}-{day:08x}-{number:08x}-{row:05x}",
            "received_at": arrived,
            PARTITION: arrived // MICROSECONDS_PER_DAY,
        }
        if spec is SPANS:
            yield {
                **common,
                "time": arrived,
                "date": arrived // MICROSECONDS_PER_DAY,
                "trace_id": trace_id,
                "span_id": f"{row:016x}",
                "name": "agent",
                "kind": "SPAN_KIND_INTERNAL",
                "start_time_unix_nano": arrived * 1000,
                "end_time_unix_nano": arrived * 1000 + 10**9,
                "attributes": "{}",
                "events": [],
                "links": [],
                "status": {"message": "", "code": "STATUS_CODE_OK"},
                "resource": {"attributes": "{}", "dropped_attributes_count": 0},
                "experiment_id": "0",
            }
        elif spec is ANNOTATIONS:
            yield {
                **common,
                "annotation_id": hashlib.sha256(f"{trace_id}:tag:env".encode()).hexdigest(),
                "target_type": "TRACE",
                "target_id": trace_id,
                "annotation_type": "TAG",
                "name": "env",
                "value": '"prod"',
                "created_at": arrived,
                "updated_at": arrived,
            }
        else:
            yield {
                **common,
                "decision_id": trace_id * 2,
                "experiment_id": "0",
                "scorer": "before",
                "epoch": 1,
                "stratum": -1,
                "decision": "not_selected",
                "units": 1,
                "completed_at": arrived // 3_600_000_000 * 3_600_000_000,
                "decided_at": arrived,
            }


def _as_if_cleaned(table: LakeTable, version: int) -> None:
    """Give the table's newest version this number, and delete the log before it."""
    handle = table.open()
    checkpoint(handle, table.storage)
    log = Path(table.storage.uri) / "_delta_log"
    old = handle.version()
    (log / f"{old:020}.checkpoint.parquet").rename(log / f"{version:020}.checkpoint.parquet")
    (log / f"{old:020}.json").rename(log / f"{version:020}.json")
    for leftover in log.glob("*.json"):
        if int(leftover.stem) < version:
            leftover.unlink()
    last = log / "_last_checkpoint"
    last.write_text(json.dumps({**json.loads(last.read_text()), "version": version}))
