"""``vedette up``: one per data directory, restarts what dies, leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from running import RunningVedette, free_port
from vedette.processes import AlreadyRunning, exclusive_lock, read_state, write_state

Start = Callable[..., RunningVedette]


def family(vedette: RunningVedette) -> list[psutil.Process]:
    """The supervisor and everything that it, directly or not, has started."""
    supervisor = psutil.Process(vedette.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def vedette_command(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vedette", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def part_pid(vedette: RunningVedette, part: str) -> int:
    pid: int = vedette.health()["parts"][part]["pid"]
    return pid


def test_a_second_one_on_the_data_directory_is_refused(vedette: RunningVedette) -> None:
    holders = {
        "up": vedette.process.pid,
        "server": part_pid(vedette, "server"),
        "engine": part_pid(vedette, "engine"),
    }
    for command, pid in holders.items():
        code, said = vedette_command(
            command, "--data", str(vedette.data), "--port", str(free_port())
        )
        assert code == 5
        assert f"process {pid} already runs" in said
        assert str(vedette.data) in said
        assert said.count("\n") == 1


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = vedette_command("up", "--data", str(tmp_path), "--port", str(port))
    assert code == 1
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


def test_what_dies_is_started_again(fresh_vedette: Start) -> None:
    vedette = fresh_vedette()
    for part in ("engine", "server"):
        killed = part_pid(vedette, part)
        os.kill(killed, signal.SIGKILL)
        vedette.wait_until(
            lambda killed=killed, part=part: (
                vedette.health()["status"] == "ok" and part_pid(vedette, part) != killed
            )
        )
        assert vedette.health()["parts"][part]["restarts"] == 1
    log = vedette.log.read_text()
    assert "the engine died (signal SIGKILL); starting it again" in log
    assert "the server died (signal SIGKILL); starting it again" in log
    stops_in_order(vedette)


def test_nothing_outlives_a_killed_supervisor(fresh_vedette: Start, tmp_path: Path) -> None:
    vedette = fresh_vedette()
    processes = family(vedette)
    assert len(processes) >= 3
    vedette.process.kill()
    vedette.process.wait()
    again = fresh_vedette(tmp_path / "data")  # waits for the old ones, then has the directory
    assert psutil.wait_procs(processes, timeout=0)[1] == []
    stops_in_order(again)


def stops_in_order(vedette: RunningVedette) -> None:
    """SIGTERM ends it with 0 in under 10 s, with no process left and no error in its log."""
    vedette.wait_until(lambda: f"is ready: {vedette.url}" in vedette.log.read_text())
    processes = family(vedette)
    before = time.monotonic()
    assert vedette.stop() == 0
    assert time.monotonic() - before < 10
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert "Traceback" not in vedette.log.read_text()


def test_health_tells_of_every_part(vedette: RunningVedette) -> None:
    health = vedette.health()
    assert health["status"] == "ok"
    assert health["warnings"] == []
    for part in ("server", "engine"):
        assert health["parts"][part]["state"] == "running"
        assert psutil.pid_exists(health["parts"][part]["pid"])
    assert health["journal"]["backlog_bytes"] >= 0
    assert health["journal"]["backlog_seconds"] >= 0
    assert {"lag_seconds", "last_commit"} <= set(health["lake"])
    assert health["index"]["lag_bytes"] >= 0
    assert "MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE" in health["sdk"]["environment"]


def test_an_engine_that_is_away_is_reported(vedette: RunningVedette) -> None:
    engine = part_pid(vedette, "engine")
    os.kill(engine, signal.SIGSTOP)  # alive, but does nothing
    try:
        vedette.wait_until(lambda: vedette.health()["status"] == "degraded", seconds=60)
        (warning,) = vedette.health()["warnings"]
        assert "the engine is stale" in warning
    finally:
        os.kill(engine, signal.SIGCONT)
    vedette.wait_until(lambda: vedette.health()["status"] == "ok")


def test_metrics_are_prometheus_text(vedette: RunningVedette) -> None:
    with urllib.request.urlopen(f"{vedette.url}/metrics") as response:
        text = response.read().decode()
        assert response.headers["Content-Type"].startswith("text/plain")
    assert 'vedette_up{part="engine"} 1.0' in text
    assert re.search(r"^vedette_journal_backlog_bytes \d", text, re.M)
    assert "process_resident_memory_bytes" in text


def test_a_lock_is_free_again_however_its_holder_ended(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.lock"
    code = (
        "import sys, time, pathlib; from vedette.processes import exclusive_lock\n"
        f"with exclusive_lock(pathlib.Path({str(path)!r}), 'it'): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(AlreadyRunning) as refusal, exclusive_lock(path, "it"):
            pass
        assert refusal.value.pid == holder.pid
        holder.kill()
    with exclusive_lock(path, "it"):
        pass


def test_a_state_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "run" / "engine.json"
    assert read_state(path) is None
    write_state(path, {"lake": {"lag_seconds": 0.5}})
    state = read_state(path)
    assert state is not None
    assert state["lake"] == {"lag_seconds": 0.5}
    assert state["pid"] == os.getpid()
    assert abs(state["at"] - time.time()) < 5
    assert [file.name for file in path.parent.iterdir()] == ["engine.json"]
