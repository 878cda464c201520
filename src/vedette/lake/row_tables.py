"""What rows of the append-only tables have in common: their place, their arrival, their types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from vedette.lake.schemas import PARTITION

MICROSECONDS_PER_DAY = 86_400_000_000


def place(rows: Iterable[dict[str, Any]], record_id: str, received: int) -> None:
    """Say of the rows of one record where it was journaled and when it arrived.

    Args:
        record_id: the record's; each row's has its number at the end.
        received: microseconds since the epoch.
    """
    for index, row in enumerate(rows):
        row["record_id"] = f"{record_id}-{index:05x}"
        row["received_at"] = received
        row[PARTITION] = received // MICROSECONDS_PER_DAY


def table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a value that is not there is null.

    Times are given in microseconds since the epoch, dates in days.
    """
    if not rows:  # as most segments have none for most tables
        return schema.empty_table()
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        kind = pa.int32() if pa.types.is_date32(field.type) else field.type
        arrays.append(pa.array(values, kind).cast(field.type))
    return pa.table(arrays, schema=schema)
