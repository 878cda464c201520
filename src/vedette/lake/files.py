"""A table's data files as Delta's log knows them: paths, sizes, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from vedette.lake.schemas import PARTITION, TableSpec


@dataclass(frozen=True, slots=True)
class DataFile:
    """One active file. Times are milliseconds since the epoch; None where there is no statistic."""

    path: str
    size: int  # bytes
    rows: int
    day: str  # the partition: "2026-01-31"
    key_min: str | None  # of the table's sort key
    key_max: str | None
    received_min: int | None
    received_max: int | None


def active_files(table: DeltaTable, spec: TableSpec) -> list[DataFile]:
    """The files of the table's loaded version, in order of arrival."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if not len(actions):
        return []
    names = set(actions.column_names)

    def column(name: str, *kinds: pa.DataType) -> list[Any]:
        values = actions[name] if name in names else pa.nulls(len(actions))
        for kind in kinds:
            values = values.cast(kind, safe=False)
        return list(values.to_pylist())

    milliseconds = (pa.timestamp("ms", tz="UTC"), pa.int64())

    found = [
        DataFile(path, size, rows or 0, day, key_min, key_max, first, last)
        for path, size, rows, day, key_min, key_max, first, last in zip(
            column("path"),
            column("size_bytes"),
            column("num_records"),
            [value.isoformat() for value in column(f"partition.{PARTITION}")],
            column(f"min.{spec.sort_key}"),
            column(f"max.{spec.sort_key}"),
            column("min.received_at", *milliseconds),
            column("max.received_at", *milliseconds),
            strict=True,
        )
    ]
    return sorted(found, key=lambda file: (file.day, file.received_min or 0, file.path))


def add_action(
    path: str, size: int, day: str, stats: dict[str, Any], now_ms: int, *, data_change: bool
) -> AddAction:
    """Delta's action that adds a file; ``stats`` as `StatsCollector` gives them."""
    return AddAction(
        path=path,
        size=size,
        partition_values={PARTITION: day},
        modification_time=now_ms,
        data_change=data_change,
        stats=orjson.dumps(stats).decode(),
    )


def remove_action(file: DataFile, now_ms: int, *, data_change: bool = False) -> RemoveAction:
    """Delta's action that takes a file away; without ``data_change`` others have its rows."""
    return RemoveAction(
        path=file.path,
        data_change=data_change,
        deletion_timestamp=now_ms,
        size=file.size,
        partition_values={PARTITION: file.day},
    )


class StatsCollector:
    """Delta's statistics of one file, collected while its rows are written."""

    def __init__(self, spec: TableSpec) -> None:
        self._rows = 0
        self._nulls = dict.fromkeys(spec.stats, 0)
        self._least: dict[str, Any] = {}
        self._greatest: dict[str, Any] = {}

    def add(self, rows: pa.Table) -> None:
        """Take ``rows`` into account."""
        self._rows += rows.num_rows
        for name in self._nulls:
            column = rows[name]
            self._nulls[name] += column.null_count
            if column.null_count < len(column):
                found = pc.min_max(column)
                least, greatest = found["min"].as_py(), found["max"].as_py()
                self._least[name] = min(self._least.get(name, least), least)
                self._greatest[name] = max(self._greatest.get(name, greatest), greatest)

    def stats(self) -> dict[str, Any]:
        """The statistics, as Delta's log has them."""
        return {
            "numRecords": self._rows,
            "minValues": {name: _stat(value, 0) for name, value in self._least.items()},
            "maxValues": {name: _stat(value, 999) for name, value in self._greatest.items()},
            "nullCount": self._nulls,
        }


def _stat(value: Any, round_up: int) -> Any:
    """Delta keeps times to the millisecond: a maximum has to be rounded up."""
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) + timedelta(microseconds=round_up)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
