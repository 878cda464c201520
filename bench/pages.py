"""How long the monitor's pages take over a million traces: pages and the API under them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from bench.processes import wait_until_quiet
from bench.results import Table, record
from bench.servers import free_port
from vedette.settings import Settings
from vedette.traces.columns import Columns
from vedette.traces.index import TraceIndex

_DAY_MS = 86_400_000
_DAYS = 30
_EXPERIMENT = 0  # MLflow's own first one
# Name, share of the traces that is scored, how many of a thousand pass
_SCORERS = (("relevant", 0.1, 930), ("safe", 0.1, 995), ("short", 1.0, 700))

# A third of the traces are of no session, the others of sessions of seven; every twentieth fails.
_TRACES = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO traces (id, trace_id, experiment_id, timestamp_ms, execution_time_ms, status, finalized,
  trace_name, session_id, input_tokens, output_tokens, total_tokens, total_cost, has_root,
  span_count, first_received_ms, last_received_ms, completed_ms)
SELECT i, 'tr-' || printf('%032x', i * 2654435761), :experiment, at, 50 + i * 31 % 3000,
  iif(i * 7919 % 20 = 0, 'ERROR', 'OK'), 1, 'agent', iif(i % 3 = 0, NULL, 'session-' || (i / 10)),
  100 + i % 900, 10 + i % 200, 110 + i % 900 + i % 200, i % 100 * 0.0001, 1, 5, at, at + 3000,
  at + 13000
FROM (SELECT i, :since + i * :step AS at FROM n)"""
_DECISIONS = """
INSERT INTO decisions (scorer, unit_id, revision, unit_type, trace_id, version, epoch, stratum,
  inclusion_probability, draw, decision, scores, attempts, calls, completed_ms, decided_ms, origin)
SELECT :experiment || '/' || :name, trace_id, 0, 'trace', trace_id, 1, 1, -1, :share, 0.0, 'scored',
  json_array(json_object('assessment_id', 'a-' || id, 'name', :name,
    'value', json(iif(id * 7927 % 1000 < :passing, 'true', 'false')))),
  1, 0, completed_ms, completed_ms + 500, 'live'
FROM traces WHERE id * 6553 % 1000 < 1000 * :share"""


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7, help="of every request")
    parser.add_argument("--quiet", type=float, default=60.0, help="wait for quiet, at most seconds")
    options = parser.parse_args()
    table = Table("request", "median ms", "slowest ms")
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch:
        settings = Settings(data=Path(scratch))
        began = time.monotonic()
        copied = _fill(settings, options.traces)
        print(f"filled in {time.monotonic() - began:.0f} s, the mirror in {copied:.0f} s")
        with _server(Path(scratch)) as url:
            wait_until_quiet(at_most_seconds=options.quiet)
            for name, path in _requests():
                times = [_timed(f"{url}{path(turn)}") for turn in range(options.repeats)]
                table.add(name, f"{median(times):.0f}", f"{max(times):.0f}")
    scores = ", ".join(f"{name} of {share:.0%}" for name, share, _ in _SCORERS)
    record(
        "The monitor's pages",
        table,
        [
            f"{options.traces:,} traces over {_DAYS} days, two thirds in sessions; scores: "
            f"{scores}.",
            "Each request is for another second, so that none is answered from what was known; "
            f"{options.repeats} of each. Copying everything into the columnar mirror took "
            f"{copied:.0f} s, once.",
        ],
    )


def _requests() -> Iterator[tuple[str, Callable[[int], str]]]:
    now = int(time.time() * 1000)
    for name in ("1h", "24h", "7d", "30d"):
        for what, place in (("API", "/api/vedette/overview"), ("page", "/monitor/")):

            def path(turn: int, place: str = place, name: str = name) -> str:
                until = now - 1000 * turn
                return f"{place}?experiment_id={_EXPERIMENT}&range={name}&until={until}"

            yield f"Overview, {name}, {what}", path


def _fill(settings: Settings, traces: int) -> float:
    """Write the read model and its mirror; how many seconds the mirror took."""
    index = TraceIndex(settings.index_path)
    connection = index.connection()
    since = int(time.time() * 1000) - _DAYS * _DAY_MS
    with index.transaction():
        step = _DAYS * _DAY_MS // traces
        values = {"last": traces, "since": since, "step": step, "experiment": _EXPERIMENT}
        connection.execute(_TRACES, values)
        for name, share, passing in _SCORERS:
            chosen = {"name": name, "share": share, "passing": passing}
            connection.execute(_DECISIONS, {**chosen, "experiment": _EXPERIMENT})
    with closing(Columns(settings.metrics_path)) as columns:
        began = time.monotonic()
        columns.sync(connection)
        return time.monotonic() - began


@contextmanager
def _server(data: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "vedette", "server", "--data", str(data), "--port", str(port)]
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _timed(address: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(address, timeout=60) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
