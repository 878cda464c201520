"""Segments for the lake's tests, and what a table really holds."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan, Resource
from vedette.lake.compaction import Compactor
from vedette.lake.rows import SegmentRows
from vedette.lake.table import Lake, LakeTable

DAY = 1_767_225_600_000  # 2026-01-01 00:00 UTC
NEXT_DAY = DAY + 86_400_000
JOURNAL = "0123456789abcdef0123456789abcdef"

_RESOURCE = Resource(attributes='{"service.name":"agent"}', service_name="agent")


def trace_id(number: int) -> str:
    """A trace id as MLflow has it; neighbours in number are far apart in order."""
    return f"tr-{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def span(trace: int, name: str = "root", **fields: Any) -> DecodedSpan:
    """One span of trace number ``trace``; its id is made of its name."""
    defaults: dict[str, Any] = {
        "trace_id": trace_id(trace),
        "span_id": name.encode().hex()[:16].rjust(16, "0"),
        "parent_span_id": None if name == "root" else b"root".hex().rjust(16, "0"),
        "name": name,
        "kind": "SPAN_KIND_INTERNAL",
        "start_ns": DAY * 1_000_000,
        "end_ns": DAY * 1_000_000 + 5_000_000,
        "status_code": "OK",
        "status_message": "",
        "trace_state": "",
        "flags": 1,
        "attributes": f'{{"number":{trace}}}',
        "dropped_attributes_count": 0,
        "events": [],
        "dropped_events_count": 0,
        "links": [],
        "dropped_links_count": 0,
        "resource": _RESOURCE,
    }
    return DecodedSpan(**{**defaults, **fields})


def spans_segment(segment: int, *spans: DecodedSpan, at: int = DAY) -> pa.Table:
    """The span rows of a segment with one record."""
    rows = SegmentRows(JOURNAL, segment)
    record = Record("spans", at, {"experiment_id": "7", "run_id": None})
    rows.add(record, 0, spans)
    return rows.spans()


def numbered_segment(segment: int, traces: int = 10, at: int | None = None) -> pa.Table:
    """Segment number ``segment`` of an endless series: ``traces`` traces of two spans."""
    first = segment * traces
    spans = [span(n, name) for n in range(first, first + traces) for name in ("root", "tool")]
    return spans_segment(segment, *spans, at=DAY + segment * 1000 if at is None else at)


def open_lake(directory: Path) -> Lake:
    """The lake of a data directory."""
    return Lake(str(directory / "lake"), directory / "state", {})


def compactor(table: LakeTable, directory: Path) -> Compactor:
    """A compactor with its scratch space in ``directory``."""
    return Compactor(table, directory / "scratch", threading.Event())


def stored(table: LakeTable) -> pa.Table:
    """Every row of the table's newest version, read without our code."""
    handle = DeltaTable(table.storage.uri)
    files = [pq.read_table(path, partitioning=None) for path in handle.file_uris()]
    return pa.concat_tables(files) if files else table.spec.file_schema.empty_table()


def file_names(table: LakeTable) -> list[str]:
    """The names of the active files, sorted."""
    return sorted(Path(path).name for path in DeltaTable(table.storage.uri).file_uris())


def commit_series(directory: Path, last: int) -> None:
    """What the engine does with sealed segments: commit each, then note it as done.

    Begins with the segment that was noted last, as after a crash between commit and note.
    """
    lake = open_lake(directory)
    noted = directory / "noted"
    first = int(noted.read_text()) if noted.exists() else 1
    for segment in range(first, last + 1):
        lake.spans.append_segment(JOURNAL, segment, numbered_segment(segment))
        temporary = directory / "noted.tmp"
        temporary.write_text(str(segment))
        temporary.replace(noted)


def compact_for(directory: Path, seconds: float) -> None:
    """What the engine's maintenance does, over and over, without a pause."""
    table = open_lake(directory).spans
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        done += compactor(table, directory).merge_small() is not None
    print(done)


if __name__ == "__main__":
    {"commit": commit_series, "compact": compact_for}[sys.argv[1]](
        Path(sys.argv[2]), (int if sys.argv[1] == "commit" else float)(sys.argv[3])
    )
