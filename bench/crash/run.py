"""One run from the first start to the verdict."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.crash.clients import Clients
from bench.crash.ledger import Ledger
from bench.crash.verify import SCORERS, Findings, verify_in_the_lake, verify_over_http
from bench.crash.victim import Victim
from bench.json_client import HttpError, JsonClient
from bench.servers import drained, free_port

# Short, so that traces are complete while parts are being killed.
_SETTINGS = {"VEDETTE_TRACE_COMPLETION_BUFFER": "2"}
_DRAIN_SECONDS = 300.0
_UNCHANGED_SECONDS = 60.0  # scores that do not become more for this long will not come


@dataclass
class Report:
    """What happened and what was wrong."""

    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def run(
    directory: Path, *, kills: int, traces_per_second: float, say: Callable[[str], None]
) -> Report:
    """Load, kill, drain, verify.

    Args:
        directory: for the data directory and the log.
        kills: SIGKILLs, of server, engine, a worker, the supervisor, or everything at once.
        traces_per_second: of the load.
        say: takes lines of progress.
    """
    directory.mkdir(parents=True, exist_ok=True)
    victim = Victim(directory / "data", free_port(), _SETTINGS)
    began = time.monotonic()
    try:
        victim.start()
        victim.wait_until_ready()
        say(f"{victim.url} is ready after {time.monotonic() - began:.1f} s, log {victim.log}")
        http = JsonClient(victim.url)
        experiment = http.call("POST", "/api/2.0/mlflow/experiments/create", {"name": "crash"})
        experiment_id = str(experiment["experiment_id"])
        _start_scorers(victim.url, experiment_id)
        clients = Clients(victim.url, experiment_id, traces_per_second=traces_per_second)
        clients.start()
        try:
            for number in range(1, kills + 1):
                _wait_for_a_moment(victim)
                part = victim.kill_one()
                say(f"{number:4}/{kills} killed {part}, {_progress(clients.ledger)}")
            victim.wait_until_ready()
        finally:
            clients.stop()
        victim.wait_until_ready()
        say(f"load stopped, {_progress(clients.ledger)}; draining")
        drain_began = time.monotonic()
        _drain(victim, experiment_id, clients.ledger)
        say(f"drained after {time.monotonic() - drain_began:.1f} s; verifying")
        return _verify(victim, experiment_id, clients.ledger, directory / "data" / "lake")
    finally:
        victim.end()


def _start_scorers(url: str, experiment_id: str) -> None:
    arguments = (f"--url={url}", f"--experiment={experiment_id}")
    subprocess.run([sys.executable, "-m", "bench.crash.scorers", *arguments], check=True)


def _wait_for_a_moment(victim: Victim) -> None:
    """Mostly until work goes on, so that there is something to lose; sometimes not."""
    if random.random() < 0.75:
        victim.wait_until_ready()
        time.sleep(random.uniform(0.1, 3.0))
    else:
        time.sleep(random.uniform(0.0, 1.5))


def _progress(ledger: Ledger) -> str:
    acknowledged = ledger.acknowledged.total()
    return f"{acknowledged} requests acknowledged, {ledger.unanswered.total()} without an answer"


def _drain(victim: Victim, experiment_id: str, ledger: Ledger) -> None:
    """Until everything is in the lake and scored, or nothing moves any more."""
    expected = len(SCORERS) * sum(trace.must_be_scored for trace in ledger.traces)
    deadline = time.monotonic() + _DRAIN_SECONDS
    last, last_change = -1, time.monotonic()
    while time.monotonic() < deadline:
        http, scores = JsonClient(victim.url), last
        with contextlib.suppress(OSError, HttpError):
            scores = _count_scores(http, experiment_id)
            if scores >= expected and drained(http.call("GET", "/health")):
                return
        if scores != last:
            last, last_change = scores, time.monotonic()
        if time.monotonic() - last_change > _UNCHANGED_SECONDS:
            return  # the verdict will say what is missing
        time.sleep(0.5)


def _count_scores(http: JsonClient, experiment_id: str) -> int:
    body = {
        "experiment_ids": [experiment_id],
        "view_type": "ASSESSMENTS",
        "metric_name": "assessment_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
        "dimensions": ["assessment_name"],
    }
    points = http.call("POST", "/api/3.0/mlflow/traces/metrics", body).get("data_points", [])
    return sum(
        int(point["values"]["COUNT"])
        for point in points
        if point["dimensions"]["assessment_name"] in SCORERS
    )


def _verify(victim: Victim, experiment_id: str, ledger: Ledger, lake: Path) -> Report:
    report, findings = Report(), Findings()
    read = verify_over_http(JsonClient(victim.url), experiment_id, ledger, findings)
    victim.stop()
    stored = verify_in_the_lake(lake, ledger, findings)
    report.violations = [*victim.problems, *dict.fromkeys(ledger.wrong), *findings]
    for title, counter in (
        ("killed", victim.killed),
        ("acknowledged", ledger.acknowledged),
        ("without an answer", ledger.unanswered),
        ("asked to come later", ledger.refused),
        ("read over HTTP", read),
        ("read in the lake", stored),
    ):
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(counter.items()))
        report.lines.append(f"{title}: {counts or 'nothing'}")
    if victim.gave_up:
        report.lines.append(f"`up` ended by itself and was started again: {victim.gave_up}")
    return report
