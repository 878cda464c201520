"""Has every session one live score per scorer, of its last revision? Under SIGKILLs.

The turns of many sessions arrive interleaved and out of order while the engine and its workers are
killed; of every fourth session a turn comes when the session was scored already. A score says how
many turns its scorer saw; at the end those in the Delta tables are compared with what was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.crash.victim import Victim
from bench.exactness import post, table_rows
from bench.json_client import HttpError, JsonClient
from bench.servers import free_port
from vedette.scoring.sample import draw

RATES = {"turns": 1.0, "turns_of_some": 0.3}
_MOST_TURNS = 8
_SETTINGS = {"VEDETTE_TRACE_COMPLETION_BUFFER": "1", "VEDETTE_SESSION_COMPLETION_BUFFER": "10"}
_TURNS_PER_REQUEST = 50
_REQUESTS_PER_SECOND = 12  # all turns must come within the session's buffer of each other
_DRAIN_SECONDS = 300.0


@dataclass(frozen=True)
class Session:
    """A session whose score is known beforehand."""

    session_id: str
    trace_ids: Sequence[bytes]  # by their start times
    late: bool  # its last turn comes after the others were scored


@dataclass(frozen=True)
class Turn:
    """One trace of a session."""

    session: Session
    number: int


def main() -> None:
    """Run the check; exit code 1 if a session's scores are not as they must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=6, help="of the engine or a worker")
    parser.add_argument("--data", type=Path, default=None, help="keep the data there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vedette-sessions-"))
        )
        wrong = check(directory, options.sessions, options.kills)
    for line in wrong:
        print(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


def check(directory: Path, count: int, kills: int) -> list[str]:
    """Send, kill, drain, send what is late, drain, compare; returns what is wrong."""
    generator = random.Random(11)
    sessions = [_session(generator, number) for number in range(count)]
    turns = [Turn(each, n) for each in sessions for n in range(len(each.trace_ids))]
    late = [turn for turn in turns if turn.session.late and turn.number == _last(turn.session)]
    early = [turn for turn in turns if turn not in late]
    generator.shuffle(early)
    began_ns = time.time_ns()
    victim = Victim(directory / "data", free_port(), _SETTINGS, only=("engine", "worker"))
    try:
        victim.start()
        victim.wait_until_ready()
        http = JsonClient(victim.url)
        created = http.call("POST", "/api/2.0/mlflow/experiments/create", {"name": "sessions"})
        experiment_id = str(created["experiment_id"])
        subprocess.run(
            [sys.executable, "-m", "bench.session_scorers", victim.url, experiment_id], check=True
        )
        time.sleep(3.0)  # the engine has taken the scorers up
        decided = 0
        for part, units in ((early, len(sessions)), (late, len(late))):
            decided += units
            _send(victim, experiment_id, part, began_ns, kills)
            victim.wait_until_ready()
            if not _drain(http, experiment_id, decided):
                victim.problems.append(f"not {decided:,} revisions were decided in time")
        victim.stop()
        return [*victim.problems, *_compare(directory / "data" / "lake", sessions)]
    finally:
        victim.end()


def _session(generator: random.Random, number: int) -> Session:
    turns = generator.randint(1, _MOST_TURNS)
    late = turns > 1 and number % 4 == 0
    return Session(f"session-{number}", [generator.randbytes(16) for _ in range(turns)], late)


def _last(session: Session) -> int:
    return len(session.trace_ids) - 1


def _send(
    victim: Victim, experiment_id: str, turns: Sequence[Turn], began_ns: int, kills: int
) -> None:
    requests = list(_requests(turns, began_ns))
    kill_at = {len(requests) * (1 + number) // (kills + 1) for number in range(kills)}
    began = time.monotonic()
    for number, body in enumerate(requests):
        time.sleep(max(0.0, began + number / _REQUESTS_PER_SECOND - time.monotonic()))
        post(victim.url, experiment_id, body)
        if number in kill_at:
            print(f"{number:4}/{len(requests)} requests, killed {victim.kill_one()}", flush=True)


def _requests(turns: Sequence[Turn], began_ns: int) -> Iterator[bytes]:
    for at in range(0, len(turns), _TURNS_PER_REQUEST):
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        for turn in turns[at : at + _TURNS_PER_REQUEST]:
            span = spans.add()
            span.trace_id, span.span_id = turn.session.trace_ids[turn.number], bytes([1]) * 8
            span.name = "turn"
            span.start_time_unix_nano = began_ns + turn.number * 1_000_000_000
            span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
            span.status.code = 1
            attribute = span.attributes.add(key="session.id")
            attribute.value.string_value = turn.session.session_id
        yield request.SerializeToString()


def _drain(http: JsonClient, experiment_id: str, units: int) -> bool:
    """Until every scorer has decided so many revisions, and the ledger is in the lake."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, HttpError):
            rows = http.call("GET", f"/api/scorers?experiment_id={experiment_id}")["scorers"]
            journal = http.call("GET", "/health")["journal"]
            done = [row["units"] >= units and not row["retrying"] for row in rows]
            if len(done) == len(RATES) and all(done) and journal["backlog_bytes"] == 0:
                return True
        time.sleep(0.5)
    return False


def _compare(lake: Path, sessions: Sequence[Session]) -> list[str]:
    wrong: list[str] = []
    scores = table_rows(
        lake / "main" / "default" / "mlflow_otel_annotations",
        "SELECT name, split_part(target_id, ':', 1), value FROM"
        " (SELECT * FROM rows WHERE annotation_type = 'FEEDBACK' QUALIFY row_number()"
        " OVER (PARTITION BY annotation_id ORDER BY updated_at DESC) = 1)"
        " WHERE deleted_at IS NULL AND valid",
    )
    for scorer, rate in RATES.items():
        expected = {
            each.trace_ids[0].hex(): len(each.trace_ids)
            for each in sessions
            if draw(each.session_id) < rate
        }
        found = [(trace, int(value)) for name, trace, value in scores if name == scorer]
        if missing := expected.keys() - dict(found).keys():
            wrong.append(f"{scorer}: {len(missing)} sessions have no score on their first trace")
        if extra := dict(found).keys() - expected.keys():
            wrong.append(f"{scorer}: {len(extra)} traces have a score and should not")
        if len(found) != len(dict(found)):
            wrong.append(f"{scorer}: {len(found) - len(dict(found))} live scores too many")
        if stale := [t for t, value in found if value != expected.get(t, value)]:
            wrong.append(f"{scorer}: {len(stale)} scores are not of the last revision")
        print(f"{scorer}: {len(found)} of {len(expected)} sessions scored", flush=True)
    return wrong


if __name__ == "__main__":
    main()
