"""``vedette.sql``: queries over the lake's tables, from Python."""

from __future__ import annotations

import warnings

import pyarrow as pa

from vedette.client.rest import ask_server
from vedette.lake.sql.formats import TRUNCATED, from_arrow

_TRANSFER_SECONDS = 60.0


def sql(
    query: str,
    *,
    dialect: str = "databricks",
    max_rows: int = 10_000,
    seconds: float = 30.0,
) -> pa.Table:
    """Run one query on the newest version of the lake's tables.

    Args:
        query: a SELECT. Tables may be named ``main.default.mlflow_otel_spans`` or
            ``mlflow_otel_spans``.
        dialect: ``databricks``, or ``duckdb``.
        max_rows: of the result, at most 1,000,000. If there are more, a warning says so.
        seconds: how long it may take, at most 300.

    Returns:
        The rows; instants are in UTC.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE: the query is wrong, may not be run, or took too
            much time or memory; the message says which.
    """
    body = {
        "sql": query,
        "dialect": dialect,
        "format": "arrow",
        "max_rows": max_rows,
        "seconds": seconds,
    }
    response = ask_server("POST", "/api/sql", body, timeout=seconds + _TRANSFER_SECONDS)
    table = from_arrow(response.content)
    if response.headers.get(TRUNCATED) == "1":
        warnings.warn(
            f"the result has more than the {max_rows:,} rows that were asked for (max_rows)",
            stacklevel=2,
        )
    return table
