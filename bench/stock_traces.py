"""Fills both servers with the same kind of traces, spread over the last 24 hours."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.agent_traces import AgentTraces, TraceRef
from bench.json_client import JsonClient
from bench.otlp_client import send
from bench.queries import DAY_MS
from bench.servers import Server

_TRACES_PER_REQUEST = 100
_COPIES_SQL = Path(__file__).with_name("mlflow_copies.sql")


def send_day(server: Server, experiment_id: str, count: int) -> list[TraceRef]:
    """``count`` traces over OTLP, evenly over the last 24 hours, and a feedback on each.

    Raises:
        RuntimeError: a request was refused again and again.
    """
    refs: list[TraceRef] = []
    traces = AgentTraces(seed=1)
    now_ns, step_ns = time.time_ns(), DAY_MS * 1_000_000 // count
    first_ns = now_ns - count * step_ns
    for first in range(0, count, 10_000):  # a chunk at a time, so that memory stays small
        numbers = range(first, min(first + 10_000, count))
        requests = traces.requests([first_ns + i * step_ns for i in numbers], _TRACES_PER_REQUEST)
        bodies = [request.body for request in requests]
        _send_all(server, experiment_id, bodies)
        refs += [trace for request in requests for trace in request.traces]
    _assess(server, [ref.trace_id for ref in refs])
    return refs


def _send_all(server: Server, experiment_id: str, bodies: Sequence[bytes]) -> None:
    for concurrency in (4, 1, 1):  # a database that is locked for too long is answered 503
        sent = send(server.url, experiment_id, bodies, concurrency=concurrency, seconds=600)
        acknowledged = set(sent.acknowledged)
        bodies = [body for i, body in enumerate(bodies) if i not in acknowledged]
        if not bodies:
            return
    raise RuntimeError(f"{server.name} refused requests while it was filled: {sent.refused}")


def _assess(server: Server, trace_ids: Sequence[str]) -> None:
    def assess(share: Sequence[str]) -> None:
        client = JsonClient(server.url)
        for number, trace_id in enumerate(share):
            feedback = {
                "assessment_name": "helpful",
                "trace_id": trace_id,
                "source": {"source_type": "CODE", "source_id": "bench"},
                "feedback": {"value": number % 5 > 0},
            }
            path = f"/api/3.0/mlflow/traces/{trace_id}/assessments"
            client.call("POST", path, {"assessment": feedback})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(assess, [trace_ids[i::4] for i in range(4)]))


def multiply(database: Path, seeds: int, copies: int) -> None:
    """Add copies of each of the traces in the sqlite database of a stopped MLflow server.

    Args:
        database: whose ``seeds`` traces are spread over 24 hours; see ``mlflow_copies.sql``.
        seeds: traces in it.
        copies: to be added of each.
    """
    parameters = {"copies": copies, "step_ms": DAY_MS // seeds // (copies + 1)}
    statements = re.split(r";\s*\n", _COPIES_SQL.read_text())
    with sqlite3.connect(database) as connection:
        for statement in statements:
            if statement.strip():
                connection.execute(statement, parameters)
    connection.close()
