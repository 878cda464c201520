"""Hostile scorers beside a healthy one: each harms the trace at hand, and nothing and nobody else.

All run at once on the same stream of traces, in one scoring plane.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from poison import POISONED, POISONS, Poison
from scoring_support import Plane, Score, make_control_database, spans_record
from vedette.scoring.sandbox import missing_for_isolation

pytestmark = pytest.mark.skipif(
    missing_for_isolation() is not None, reason=str(missing_for_isolation())
)

TRACES = range(100, 120)
WAVE = 4  # traces that arrive at once
# From arrival to score of the healthy scorer, while two dozen others do their worst on two cores.
# That is the time limit of those that hang: who waited for one of them would be later.
BOUND_SECONDS = 5.0


@dataclass
class Havoc:
    """What was found after the poisons had run."""

    scores: dict[str, list[Score]]
    delays: list[float] = field(default_factory=list)
    left_running: list[str] = field(default_factory=list)
    data_files: set[str] = field(default_factory=set)
    connections: int = 0


@pytest.fixture(scope="module")
def havoc(tmp_path_factory: pytest.TempPathFactory) -> Havoc:
    data: Path = tmp_path_factory.mktemp("poison")
    make_control_database(data / "control.db")
    sleep = str(31_000_000 + os.getpid())  # how long: by this its process is known
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("SECRET_API_KEY", "hunter2")
        server.setblocking(False)
        harm = {
            "data": str(data),
            "engine": os.getpid(),
            "port": server.getsockname()[1],
            "sleep": sleep,
        }
        plane = Plane(data)
        before = {process.pid for process in psutil.process_iter()}
        for one in POISONS:
            plane.register("0", one.name, one.body(**harm), timeout=one.timeout)
            plane.start("0", one.name)
        plane.register("0", "healthy", "return inputs")
        plane.start("0", "healthy")
        plane.scoring._pools._code._forks.prepare()  # importing MLflow is no delay of this test
        havoc = Havoc({})
        try:
            stream(plane, havoc)
            havoc.scores = {
                name: plane.scores("0", name) for name in ["healthy", *(p.name for p in POISONS)]
            }
        finally:
            plane.close()
        deadline = time.monotonic() + 5
        while (running := started_since(before, harm)) and time.monotonic() < deadline:
            time.sleep(0.1)
        havoc.left_running = running
        havoc.data_files = {path.name for path in data.rglob("*")}
        try:
            server.accept()
            havoc.connections += 1
        except BlockingIOError:
            pass
    return havoc


def stream(plane: Plane, havoc: Havoc) -> None:
    """Let traces arrive, a few at a time, until all are scored by all."""
    arrived: dict[int, float] = {}
    seen: set[int] = set()
    for first in range(0, len(TRACES), WAVE):
        wave = TRACES[first : first + WAVE]
        plane.arrive(*(spans_record("0", number) for number in wave))
        arrived |= dict.fromkeys(wave, time.monotonic())
        turn(plane, havoc, arrived, seen, 0.3)
    deadline = time.monotonic() + 60
    while len(seen) < len(TRACES):
        assert time.monotonic() < deadline, plane.scoring.state()
        turn(plane, havoc, arrived, seen, 0.1)
    plane.settle(60)


def turn(
    plane: Plane, havoc: Havoc, arrived: dict[int, float], seen: set[int], seconds: float
) -> None:
    """Do what the engine does for some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        plane.fold()
        plane.scoring.tick()
        for number in set(plane.scored("0", "healthy")) - seen:
            havoc.delays.append(time.monotonic() - arrived[number])
            seen.add(number)
        time.sleep(0.01)


def started_since(before: set[int], harm: dict[str, Any]) -> list[str]:
    """Workers of this test, and daemons that its scorers tried to leave behind."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid not in before and {harm["data"], harm["sleep"]} & set(command):
            found.append(f"{process.pid} {' '.join(command)}")
    return found


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
def test_the_trace_at_hand_has_one_error_that_says_what_happened(
    havoc: Havoc, poison: Poison
) -> None:
    scores = {score.number: score for score in havoc.scores[poison.name]}

    assert sorted(score.number for score in havoc.scores[poison.name]) == list(TRACES)
    for number, score in scores.items():
        if number == POISONED and poison.code is not None:
            assert score.error is not None, score.value
            assert score.error["error_code"] == poison.code, score.error
            assert poison.says in score.error["error_message"]
            assert len(score.error["error_message"]) <= 5_000
        else:
            assert (score.value, score.error) == (number, None), score.error


def test_the_healthy_scorer_has_scored_everything_in_time(havoc: Havoc) -> None:
    scores = havoc.scores["healthy"]

    assert sorted((score.number, score.value) for score in scores) == [(n, n) for n in TRACES]
    assert len(havoc.delays) == len(TRACES)
    assert max(havoc.delays) < BOUND_SECONDS


def test_nothing_is_left_running_or_lying_about(havoc: Havoc) -> None:
    assert havoc.left_running == []
    assert "control.db" in havoc.data_files
    assert not [name for name in havoc.data_files if "workers" in name or name.startswith("tmp")]


def test_the_network_was_not_reached(havoc: Havoc) -> None:
    assert havoc.connections == 0
