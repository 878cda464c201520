"""History scored beside live traffic, with a SIGKILL of the engine in the middle.

A code scorer scores history whose spans are in the tables alone, while traces keep arriving that it
scores live. Exactly the units of the history must be decided, each once, and live scores must come
as soon as without.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import psutil
from deltalake import DeltaTable

from bench.live_scorers import CODE
from bench.live_scores import COMPLETION_SECONDS, TAKE_UP_SECONDS, Seen, Watch, send, start_scorer
from bench.million import Filling
from bench.processes import pss_by_part, wait_until_quiet
from bench.results import Table, record
from bench.servers import Server, vedette_up
from vedette.scoring.sample import draw

_LONGEST_FILL_SECONDS = 3_600.0
_DRAIN_SECONDS = 1_800.0
_LONGEST_SECONDS = 4 * 3_600.0
_LOOK_SECONDS = 1.0
_BESIDE_UNTIL, _KILL_AT = 0.4, 0.5  # of the units
_MEGABYTE = 1e6


class Look(NamedTuple):
    """How far the backfill was, and the memory, at one moment."""

    at: float  # time.monotonic()
    decided: int
    state: str
    bytes_by_part: dict[str, int]


class Compared(NamedTuple):
    """What the tables have, against what they must."""

    expected: int  # units of the history that hash and rate select
    missing: int  # of those, not decided or without a score
    extra: int  # decided, and not expected
    double: int  # decisions too many


def main() -> None:
    """Measure and record; exit code 1 if the set of units isn't exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000, help="of history")
    parser.add_argument("--payload", type=int, default=1_500, help="bytes of text per trace")
    parser.add_argument("--sample", type=float, default=1.0, help="the backfill's rate")
    parser.add_argument("--rate", type=int, default=20, help="live traces per second")
    parser.add_argument("--alone", type=float, default=60.0, help="seconds of live traffic alone")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch,
        vedette_up(Path(scratch) / "vedette") as server,
    ):
        sys.exit(_measure(server, options))


def _measure(server: Server, options: argparse.Namespace) -> int:
    experiment = server.create_experiment("backfill")
    made, end_ms = _load(server, experiment, options)
    start_scorer(server.url, experiment, CODE, 1.0)
    time.sleep(TAKE_UP_SECONDS)
    wait_until_quiet()
    wanted = {
        "experiment_id": experiment,
        "scorers": [{"name": CODE, "sample_rate": options.sample}],
        "start_time_ms": 0,
        "end_time_ms": end_ms,
    }
    began = time.monotonic()
    (told,) = server.call("POST", "/api/backfills", {**wanted, "dry_run": True})["dry_run"]
    dry_run_seconds = time.monotonic() - began
    with Traffic(server, experiment, options.rate) as traffic:
        time.sleep(options.alone)
        traffic.begin("beside the backfill")
        job = server.call("POST", "/api/backfills", wanted)["job"]
        before = _follow(server, job, until=_BESIDE_UNTIL * told["units"])
        traffic.begin("killed")  # what completes in between is seen before the kill
        before += _follow(server, job, until=_KILL_AT * told["units"])
        _kill_engine(server)
        killed = _follow(server, job, until=0)  # what the old one had put into the journal
        killed += _follow(server, job, until=killed[-1].decided + 1)
        traffic.begin("after that")
        after = _follow(server, job)
    server.drain(at_most_seconds=_DRAIN_SECONDS)
    lake = server.directory / "data" / "lake" / "main" / "default"
    compared = _compare(lake, job, end_ms, options.sample)
    peak = Counter[str]()
    for look in (*before, *killed, *after):
        peak |= Counter(look.bytes_by_part)
    table = Table("history", "rate", "selected", "units/s", "after kill -9", "back in s", "missing",
                  "extra", "double")  # fmt: skip
    table.add(
        f"{told['units']:,}",
        f"{options.sample:g}",
        f"{compared.expected:,}",
        _pace(before[0], before[-1]),
        _pace(killed[-1], after[-1]),
        f"{killed[-1].at - before[-1].at:.1f}",
        *(f"{count:,}" for count in compared[1:]),
    )
    record(
        "A backfill beside live traffic",
        table,
        [
            f"A code scorer, history of {options.payload / 1000:.1f} kB of text per trace; the "
            f"engine was killed at {before[-1].decided / told['units']:.0%}. units/s: decided "
            "and on disk, of all units in the window.",
            f"Live traffic at {options.rate} traces/s, scored by the same scorer; seconds from "
            f"complete to visible: {traffic.told()}.",
            f"The dry run took {dry_run_seconds:.1f} s. At most, MB of PSS: "
            + ", ".join(f"{name} {size / _MEGABYTE:.0f}" for name, size in peak.items())
            + ".",
            "missing, extra, double: decisions and scores in the tables, against the ids in the "
            "history that hash and rate select.",
        ],
    )
    exact = compared[1:] == (0, 0, 0) and made == told["units"] == after[-1].decided
    return 0 if exact and after[-1].state == "done" else 1


def _load(server: Server, experiment: str, options: argparse.Namespace) -> tuple[int, int]:
    """Make history: how many traces, and a time after it in ms since the epoch."""
    filling = Filling(server, experiment, options.payload, _LONGEST_FILL_SECONDS)
    filling.fill_to(options.traces)
    waited = server.drain(at_most_seconds=_DRAIN_SECONDS)
    seconds = filling.seconds + waited
    print(f"{filling.traces:,} traces in the tables after {seconds:.0f} s", flush=True)
    # Else the scorer would find some of them to score live
    time.sleep(COMPLETION_SECONDS + TAKE_UP_SECONDS)
    return filling.traces, int(time.time() * 1000)


def _kill_engine(server: Server) -> None:
    """And wait until there is another."""
    (engine,) = _engines(server)
    engine.kill()
    while engine in (found := _engines(server)) or not found:
        time.sleep(0.1)


def _engines(server: Server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "engine" in child.cmdline():
                found.append(child)
    return found


def _follow(server: Server, job: str, until: float = float("inf")) -> list[Look]:
    """Look at the job until so many units are decided, or it has ended."""
    looks: list[Look] = []
    deadline = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < deadline:
        found = server.call("GET", f"/api/backfills/{job}")
        decided = found["scorers"][0]["decided"]
        memory = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = pss_by_part(server.pid)
        looks.append(Look(time.monotonic(), decided, found["state"], memory))
        if decided >= until or found["state"] not in ("waiting", "running"):
            break
        if len(looks) % 60 == 0:
            print(f"{decided:,} decided, {found['scorers'][0]['note'] or 'running'}", flush=True)
        time.sleep(_LOOK_SECONDS)
    return looks


def _pace(first: Look, last: Look) -> str:
    """Units per second between two looks."""
    seconds = last.at - first.at
    return f"{(last.decided - first.decided) / seconds:.0f}" if seconds else "-"


class Traffic:
    """Live traffic in a thread, and how soon its scores are there, in one phase after the other."""

    def __init__(self, server: Server, experiment: str, rate: int) -> None:
        self._server = server
        self._experiment = experiment
        self._rate = rate
        self._over = threading.Event()
        self._watches: dict[str, Watch] = {}
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Traffic:
        self.begin("alone")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for watch in self._watches.values():
            watch.finish()

    def begin(self, phase: str) -> None:
        """What is sent from now on is of another phase."""
        self._watches[phase] = self._watch = Watch(self._server, self._experiment, [CODE])

    def told(self) -> str:
        """For people, when it is over."""
        return "; ".join(_told(phase, watch.seen(CODE)) for phase, watch in self._watches.items())

    def _send(self) -> None:
        for request, start_ms in send(
            self._server.url, self._experiment, self._rate, _LONGEST_SECONDS
        ):
            self._watch.sent(request, start_ms, {CODE: 1.0})
            if self._over.is_set():
                return


def _told(phase: str, seen: Seen) -> str:
    found, missing = seen
    if not found:
        return f"{phase}, none seen of {missing}"
    p50, p99 = (found[int(share * (len(found) - 1))] for share in (0.5, 0.99))
    return f"{phase}, p50 {p50:.2f}, p99 {p99:.2f} ({len(found)} watched, {missing} missing)"


def _compare(tables: Path, job: str, end_ms: int, rate: float) -> Compared:
    with duckdb.connect() as connection:
        history = _column(
            connection,
            f"SELECT DISTINCT trace_id FROM {_rows(tables / 'mlflow_otel_spans')}"
            f" WHERE parent_span_id IS NULL AND start_time_unix_nano < {end_ms} * 1000000",
        )
        decided = _column(
            connection,
            f"SELECT trace_id FROM {_rows(tables / 'mlflow_monitor_decisions')}"
            f" WHERE origin = 'backfill:{job}' AND decision = 'scored'",
        )
        scored = _column(
            connection,
            "SELECT DISTINCT split_part(target_id, ':', 1)"
            f" FROM {_rows(tables / 'mlflow_otel_annotations')}"
            f" WHERE annotation_type = 'FEEDBACK' AND name = '{CODE}' AND deleted_at IS NULL",
        )
    expected = {trace_id for trace_id in history if draw(f"tr-{trace_id}") < rate}
    right = set(decided)
    return Compared(
        len(expected),
        len(expected - (right & set(scored))),
        len(right - expected),
        len(decided) - len(right),
    )


def _rows(table: Path) -> str:
    files = ", ".join(f"'{file}'" for file in DeltaTable(str(table)).file_uris())
    return f"read_parquet([{files}], union_by_name = true)"


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> Sequence[Any]:
    return [value for (value,) in connection.execute(query).fetchall()]


if __name__ == "__main__":
    main()
