"""Are exactly those traces scored that hash, rate and filter choose? Under SIGKILLs.

Known traces arrive shuffled, in bursts and in a trickle, some in pieces, some with start times half
an hour ago, while the engine and its workers are killed. At the end the scores in the Delta tables
are compared with the set that is computed here from the traces' ids, and the ledger's counts with
the number of traces.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.crash.victim import Victim
from bench.json_client import HttpError, JsonClient
from bench.servers import free_port
from vedette.scoring.sample import draw

# Of the scorers: rate and filter, and what the filter means for a trace made here
SCORERS = {
    "every": (1.0, "attributes.status = 'OK'"),
    "some": (0.2, "tags.env = 'prod'"),
    "rare": (0.002, None),
}
_SETTINGS = {"VEDETTE_TRACE_COMPLETION_BUFFER": "2"}
_BURST = 200
_DRAIN_SECONDS = 600.0
_HALF_AN_HOUR_NS = 1_800_000_000_000


@dataclass(frozen=True)
class Known:
    """A trace whose fate is known beforehand."""

    number: int
    trace_id: bytes
    failed: bool
    prod: bool
    late: bool  # its spans say that it began half an hour ago
    in_pieces: bool  # its root comes after its other span

    def chosen_by(self, scorer: str) -> bool:
        """Whether the scorer must score it."""
        matches = {"every": not self.failed, "some": self.prod, "rare": True}[scorer]
        return matches and draw(f"tr-{self.trace_id.hex()}") < SCORERS[scorer][0]


def main() -> None:
    """Run the check; exit code 1 if a set differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=12, help="of the engine or a worker")
    parser.add_argument("--data", type=Path, default=None, help="keep the data there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vedette-exactness-"))
        )
        wrong = check(directory, options.traces, options.kills)
    for line in wrong:
        print(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


def check(directory: Path, count: int, kills: int) -> list[str]:
    """Load, kill, drain, compare; returns what is wrong."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(7)
    traces = [_known(generator, number) for number in range(count)]
    victim = Victim(directory / "data", free_port(), _SETTINGS, only=("engine", "worker"))
    try:
        victim.start()
        victim.wait_until_ready()
        http = JsonClient(victim.url)
        created = http.call("POST", "/api/2.0/mlflow/experiments/create", {"name": "exactness"})
        experiment_id = str(created["experiment_id"])
        subprocess.run(
            [sys.executable, "-m", "bench.exact_scorers", victim.url, experiment_id], check=True
        )
        time.sleep(3.0)  # the engine has taken the scorers up
        requests = list(_requests(generator, traces))
        kill_at = {len(requests) * (1 + number) // (kills + 1) for number in range(kills)}
        for number, body in enumerate(requests):
            post(victim.url, experiment_id, body)
            if number in kill_at:
                print(
                    f"{number:6}/{len(requests)} requests, killed {victim.kill_one()}", flush=True
                )
        victim.wait_until_ready()
        began = time.monotonic()
        _drain(http, experiment_id, count)
        print(f"drained {time.monotonic() - began:.1f} s after the last trace", flush=True)
        victim.stop()
        found = victim.problems
        return [*found, *_compare(directory / "data" / "lake", traces)]
    finally:
        victim.end()


def _known(generator: random.Random, number: int) -> Known:
    return Known(
        number,
        generator.randbytes(16),
        failed=generator.random() < 0.1,
        prod=generator.random() < 0.5,
        late=generator.random() < 0.05,
        in_pieces=generator.random() < 0.2,
    )


def _requests(generator: random.Random, traces: Sequence[Known]) -> Iterator[bytes]:
    """OTLP requests: bursts of many traces, then some one by one; roots of pieces come later."""
    order = generator.sample(traces, len(traces))
    pending: list[Known] = []
    while order or pending:
        size = _BURST if generator.random() < 0.7 else 1
        batch, order = order[:size], order[size:]
        roots = [pending.pop() for _ in range(min(len(pending), len(batch) or len(pending)))]
        pending += [trace for trace in batch if trace.in_pieces]
        parts = [(trace, not trace.in_pieces, True) for trace in batch]
        parts += [(trace, True, False) for trace in roots]
        yield _request(parts)


def _request(parts: Sequence[tuple[Known, bool, bool]]) -> bytes:
    """Of each trace the root, the other span, or both."""
    request = ExportTraceServiceRequest()
    for prod in (True, False):
        group = request.resource_spans.add()
        attribute = group.resource.attributes.add(key="env")
        attribute.value.string_value = "prod" if prod else "dev"
        spans = group.scope_spans.add().spans
        for trace, with_root, with_child in parts:
            if trace.prod != prod:
                continue
            began = time.time_ns() - trace.late * _HALF_AN_HOUR_NS
            for is_root in [True] * with_root + [False] * with_child:
                span = spans.add()
                span.trace_id = trace.trace_id
                span.span_id = bytes([1 + is_root]) * 8
                span.parent_span_id = b"" if is_root else bytes([2]) * 8
                span.name = "answer" if is_root else "look up"
                span.start_time_unix_nano, span.end_time_unix_nano = began, began + 1_000_000
                span.status.code = 2 if trace.failed and is_root else 1
    body: bytes = request.SerializeToString()
    return body


def post(url: str, experiment_id: str, body: bytes) -> None:
    headers = {
        "x-mlflow-experiment-id": experiment_id,
        "Content-Type": "application/x-protobuf",
    }
    request = urllib.request.Request(f"{url}/v1/traces", body, headers)
    urllib.request.urlopen(request, timeout=60).close()


def _drain(http: JsonClient, experiment_id: str, count: int) -> None:
    """Until every scorer has decided every trace, and the ledger is in the lake."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, HttpError):
            rows = http.call("GET", f"/api/scorers?experiment_id={experiment_id}")["scorers"]
            journal = http.call("GET", "/health")["journal"]
            if (
                len(rows) == len(SCORERS)
                and all(row["units"] == count and not row["retrying"] for row in rows)
                and journal["backlog_bytes"] == 0
            ):
                return
        time.sleep(0.5)
    print("not everything was decided in time", flush=True)


def _compare(lake: Path, traces: Sequence[Known]) -> list[str]:
    wrong: list[str] = []
    tables = lake / "main" / "default"
    annotations = table_rows(
        tables / "mlflow_otel_annotations",
        "SELECT name, split_part(target_id, ':', 1) AS trace, count(*) FROM"
        " (SELECT * FROM rows WHERE annotation_type = 'FEEDBACK' QUALIFY row_number()"
        " OVER (PARTITION BY annotation_id ORDER BY updated_at DESC) = 1)"
        " WHERE deleted_at IS NULL AND valid GROUP BY ALL",
    )
    decisions = table_rows(
        tables / "mlflow_monitor_decisions",
        "SELECT scorer, decision, sum(units)::BIGINT FROM (SELECT * FROM rows QUALIFY row_number()"
        " OVER (PARTITION BY decision_id ORDER BY record_id DESC) = 1) GROUP BY ALL",
    )
    for scorer in SCORERS:
        expected = {trace.trace_id.hex() for trace in traces if trace.chosen_by(scorer)}
        scored = [target for name, target, _ in annotations if name == scorer]
        scores = [number for name, _, number in annotations if name == scorer]
        if missing := expected - set(scored):
            wrong.append(f"{scorer}: {len(missing)} traces have no score, such as {min(missing)}")
        if extra := set(scored) - expected:
            wrong.append(f"{scorer}: {len(extra)} traces have a score, such as {min(extra)}")
        if any(number != 1 for number in scores):
            wrong.append(f"{scorer}: {sum(number != 1 for number in scores)} traces have several")
        counts = {decision: units for name, decision, units in decisions if name == scorer}
        if sum(counts.values()) != len(traces):
            wrong.append(f"{scorer}: the ledger has {counts}, not {len(traces)} in all")
        print(f"{scorer}: {len(scored)} of {len(expected)} scored, ledger {counts}", flush=True)
    return wrong


def table_rows(table: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.register("rows", DeltaTable(str(table)).to_pyarrow_table())
        return connection.execute(query).fetchall()


if __name__ == "__main__":
    main()
