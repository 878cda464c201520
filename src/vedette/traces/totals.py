"""Totals over traces that MLflow's issues and gateway budgets ask for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from mlflow.tracing.constant import TraceMetadataKey

from vedette.named_sql import statements

_SQL = statements("vedette.traces", "totals")


def issue_trace_counts(index: sqlite3.Connection, issue_ids: Collection[str]) -> dict[str, int]:
    """How many traces refer to each of the issues; issues without any are left out."""
    parameters = {"issue_ids": json.dumps(list(issue_ids))}
    return dict(index.execute(_SQL["issue_trace_counts"], parameters).fetchall())


def gateway_cost(
    index: sqlite3.Connection,
    start_ms: int,
    end_ms: int,
    endpoint_id: str | None,
    username: str | None,
) -> float:
    """Cost in USD of traces of MLflow's gateway that began in [start, end); None stands for any."""
    parameters = {
        "start_ms": start_ms,
        "end_ms": end_ms,
        "endpoint_id": endpoint_id,
        "endpoint_key": TraceMetadataKey.GATEWAY_ENDPOINT_ID,
        "username": username,
        "user_key": TraceMetadataKey.AUTH_USERNAME,
    }
    (cost,) = index.execute(_SQL["gateway_cost"], parameters).fetchone()
    return float(cost)
