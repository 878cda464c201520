"""How long after a trace is complete its score can be seen, while traces keep arriving.

300 traces a second arrive with the default settings; a code scorer scores all of them. Then again
with a judge of a slow model beside it: it must not hold up the code scorer. One trace in ten is
watched, by the search that a user would make.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.agent_traces import AgentTraces, Request
from bench.fake_llm import FakeLLM, Reply
from bench.json_client import JsonClient
from bench.live_scorers import CODE, JUDGE
from bench.processes import cpu_seconds, wait_until_quiet
from bench.queries import LARGEST_PAGE, search
from bench.results import Table, record
from bench.servers import Server, vedette_up
from vedette.scoring.sample import draw

_PER_REQUEST = 10
_WATCHED = "canary"  # the value of the tag env that a tenth of the traces have
COMPLETION_SECONDS = 10.0  # trace_completion_buffer's default
_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 120.0  # for the last scores
TAKE_UP_SECONDS = 5.0  # until the engine has taken up a scorer that was started
_MODEL_SECONDS = 1.0


class Seen(NamedTuple):
    """Of the watched traces, seconds from complete to visible, rising; how many never were."""

    delays: list[float]
    missing: int


class Watched(NamedTuple):
    """A trace that is waited for."""

    start_ms: int
    complete: float  # time.monotonic()
    scorers: set[str]  # whose scores are not there yet


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=300, help="traces per second")
    parser.add_argument("--seconds", type=float, default=120.0, help="of traffic, per scenario")
    parser.add_argument("--judge-rate", type=float, default=0.05, help="share the judge samples")
    options = parser.parse_args()
    table = Table(
        "scorers",
        "traces/s",
        "scorer",
        "p50 s",
        "p99 s",
        "longest s",
        "watched",
        "missing",
        "cores",
    )
    llm = FakeLLM()
    llm.answer = Reply(seconds=_MODEL_SECONDS)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch,
            vedette_up(Path(scratch) / "vedette", **llm.environment) as server,
        ):
            for label, scorers in (("code", (CODE,)), ("code, slow judge", (CODE, JUDGE))):
                _scenario(server, table, label, scorers, options)
            calls = len(llm.requests)
    finally:
        llm.close()
    record(
        "Scores on live traffic",
        table,
        [
            f"{options.seconds:.0f} s of traces of five spans and 12 kB, {_PER_REQUEST} per "
            "request, default settings. cores: busy for the whole of Vedette.",
            f"Complete: {COMPLETION_SECONDS:.0f} s (trace_completion_buffer) after the "
            f"acknowledgement. Visible: a search that is made every {_LOOK_SECONDS} s lists the "
            "trace with the score; p99 is of the watched traces, one in ten.",
            f"The judge samples {options.judge_rate:.0%}; its model takes {_MODEL_SECONDS:.0f} s "
            f"({calls:,} calls).",
        ],
    )


def _scenario(
    server: Server,
    table: Table,
    label: str,
    scorers: Sequence[str],
    options: argparse.Namespace,
) -> None:
    experiment = server.create_experiment(label)
    rates = {CODE: 1.0, JUDGE: options.judge_rate}
    shares = {name: rates[name] for name in scorers}
    for name, share in shares.items():
        start_scorer(server.url, experiment, name, share)
    time.sleep(TAKE_UP_SECONDS)
    wait_until_quiet()
    watch = Watch(server, experiment, scorers)
    cpu, began = cpu_seconds(server.pid), time.monotonic()
    sent = 0
    for request, start_ms in send(server.url, experiment, options.rate, options.seconds):
        watch.sent(request, start_ms, shares)
        sent += len(request.traces)
    elapsed = time.monotonic() - began
    cores = (cpu_seconds(server.pid) - cpu) / elapsed
    watch.finish()
    for name in scorers:
        delays, missing = watch.seen(name)
        table.add(
            label,
            f"{sent / elapsed:.0f}",
            name,
            *(f"{delays[int(share * (len(delays) - 1))]:.2f}" for share in (0.5, 0.99, 1.0)),
            str(len(delays) + missing),
            str(missing),
            f"{cores:.2f}",
        )


def start_scorer(url: str, experiment: str, name: str, rate: float, *model: str) -> None:
    """As a user does, from a process of its own. A judge may be given its model."""
    subprocess.run(
        [sys.executable, "-m", "bench.live_scorers", url, experiment, name, str(rate), *model],
        check=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


def send(url: str, experiment: str, rate: int, seconds: float) -> Iterator[tuple[Request, int]]:
    """Requests at fixed times, whatever the server does; each after it was acknowledged."""
    maker, client = AgentTraces(3), JsonClient(url)
    headers = {"x-mlflow-experiment-id": experiment, "content-type": "application/x-protobuf"}
    began = time.monotonic()
    for number in range(int(seconds * rate / _PER_REQUEST)):
        time.sleep(max(0.0, began + number * _PER_REQUEST / rate - time.monotonic()))
        start_ns = time.time_ns()
        request = maker.request([start_ns] * _PER_REQUEST)
        client.send("POST", "/v1/traces", request.body, headers)
        yield request, start_ns // 1_000_000


class Watch:
    """Looks for the scores of the watched traces until they are there."""

    def __init__(self, server: Server, experiment: str, scorers: Sequence[str]) -> None:
        self._server = dataclasses.replace(server)  # with a connection for its own thread
        self._experiment = experiment
        self._waiting: dict[str, Watched] = {}
        self._visible: dict[str, dict[str, float]] = {name: {} for name in scorers}
        self._expected = dict.fromkeys(scorers, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sent(self, request: Request, start_ms: int, shares: Mapping[str, float]) -> None:
        """A request was acknowledged just now."""
        complete = time.monotonic() + COMPLETION_SECONDS
        for trace in request.traces:
            if trace.env == _WATCHED:
                scorers = {name for name, share in shares.items() if draw(trace.trace_id) < share}
                for name in scorers:
                    self._expected[name] += 1
                self._waiting[trace.trace_id] = Watched(start_ms, complete, scorers)

    def finish(self) -> None:
        """Wait until every score is there, or for so long that it won't come."""
        self._over.set()
        self._thread.join()

    def seen(self, scorer: str) -> Seen:
        """What was seen of one scorer's scores."""
        delays = sorted(self._visible[scorer].values())
        return Seen(delays, self._expected[scorer] - len(delays))

    def _run(self) -> None:
        given_up = float("inf")
        while time.monotonic() < given_up and (self._waiting or not self._over.is_set()):
            if self._over.is_set():
                given_up = min(given_up, time.monotonic() + _PATIENCE_SECONDS)
            time.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        waiting = dict(self._waiting)  # at once: the sender adds to it
        complete = [one for one in waiting.values() if one.complete < time.monotonic()]
        if not complete:
            return
        first, last = min(one.start_ms for one in complete), max(one.start_ms for one in complete)
        page = search(
            self._server,
            self._experiment,
            filter_string=f"tags.env = '{_WATCHED}' AND timestamp_ms >= {first} "
            f"AND timestamp_ms <= {last}",
            max_results=LARGEST_PAGE,
            order_by=("timestamp_ms ASC",),
        )
        now = time.monotonic()
        for trace in page.get("traces", ()):
            if found := waiting.get(trace["trace_id"]):
                names = {each["assessment_name"] for each in trace.get("assessments", ())}
                for name in names & found.scorers:
                    self._visible[name][trace["trace_id"]] = now - found.complete
                found.scorers.difference_update(names)
                if not found.scorers:
                    self._waiting.pop(trace["trace_id"], None)


if __name__ == "__main__":
    main()
