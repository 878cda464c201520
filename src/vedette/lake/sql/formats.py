"""A query's result as an Arrow stream, JSON, CSV, Parquet, or a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from vedette.lake.sql.errors import QueryRefused

TRUNCATED = "X-Vedette-Truncated"  # header of an Arrow stream over HTTP: 1 if there are more rows
_CELL_CHARACTERS = 60  # of a table for people
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def to_arrow(table: pa.Table) -> bytes:
    """An Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_arrow(content: bytes) -> pa.Table:
    """The inverse of `to_arrow`."""
    return pa.ipc.open_stream(content).read_all()


def to_json(table: pa.Table, more: Mapping[str, Any] | None = None) -> bytes:
    """An object with ``columns`` (name and Arrow type of each) and ``rows`` (lists of values).

    What JSON has no form for (large decimals, bytes, intervals) is text.

    Args:
        more: further fields of the object.

    Raises:
        QueryRefused: it has a value that Python has no form for; so with the other forms of text.
    """
    columns = [{"name": field.name, "type": str(field.type)} for field in table.schema]
    rows = [_dumps(_rows(batch))[1:-1] for batch in table.to_batches() if batch.num_rows]
    start = _dumps({**(more or {}), "columns": columns})[:-1]
    return start + b',"rows":[' + b",".join(rows) + b"]}"


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_text, option=_OPTIONS)


def to_csv(table: pa.Table) -> str:
    """CSV with a header; lists, structs and maps are JSON, NULL is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row] for row in _rows(table))
    return text.getvalue()


def to_parquet(table: pa.Table) -> bytes:
    """A Parquet file.

    Raises:
        QueryRefused: a column's type can't be in one.
    """
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise QueryRefused(f"Parquet can't hold this result: {error}; cast the column") from error
    content: bytes = sink.getvalue().to_pybytes()
    return content


def to_cells(table: pa.Table) -> list[tuple[str, ...]]:
    """Names and rows as texts for people: long values are cut off, line breaks shown."""
    shown = [tuple(table.column_names)]
    for row in _rows(table):
        cells = (_cell(round(v, 6) if isinstance(v, float) else v) for v in row)
        shown.append(tuple(_short(cell.replace("\n", "\\n")) for cell in cells))
    return shown


def _rows(table: pa.Table | pa.RecordBatch) -> list[list[Any]]:
    try:
        columns = [column.to_pylist(maps_as_pydicts="lossy") for column in table.columns]
    except (ValueError, OverflowError) as error:  # a date beyond the year 9999
        raise QueryRefused(f"{error}; cast the column to STRING") from error
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat(sep=" ").removesuffix("+00:00")
        case list() | dict():
            return _dumps(value).decode()
    return _text(value)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _short(cell: str) -> str:
    return cell if len(cell) <= _CELL_CHARACTERS else cell[: _CELL_CHARACTERS - 3] + "..."
