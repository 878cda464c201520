"""A running Vedette whose read model is lost makes it anew, and takes traces meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running import RunningVedette, launch_vedette
from vedette.processes import read_state
from vedette.traces.index import VERSION

Start = Callable[..., RunningVedette]

T0 = 1_764_000_000_000_000_000  # ns
EXPERIMENT = "0"


def post(url: str, body: Any, method: str = "POST", **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and JSON of an answer."""
    request = urllib.request.Request(
        url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read() or b"{}")


def send(vedette: RunningVedette, traces: range, spans: int = 2) -> int:
    """Send traces by OTLP; returns the status."""

    def span(trace: int, number: int) -> dict[str, Any]:
        parent = {} if number == 0 else {"parentSpanId": f"{1:016x}"}
        inputs = {"key": "mlflow.spanInputs", "value": {"stringValue": f'"question {trace}"'}}
        return {
            "traceId": f"{trace:032x}",
            "spanId": f"{number + 1:016x}",
            "name": "agent" if number == 0 else "step",
            "startTimeUnixNano": str(T0 + trace * 1_000_000),
            "endTimeUnixNano": str(T0 + trace * 1_000_000 + 5_000_000),
            "attributes": [inputs],
            **parent,
        }

    all_spans = [span(trace, number) for trace in traces for number in range(spans)]
    body = {"resourceSpans": [{"scopeSpans": [{"spans": all_spans}]}]}
    headers = {"x-mlflow-experiment-id": EXPERIMENT}
    return post(f"{vedette.url}/v1/traces", body, **headers)[0]


def search(vedette: RunningVedette, **more: Any) -> tuple[int, Any, Any]:
    location = {
        "type": "MLFLOW_EXPERIMENT",
        "mlflow_experiment": {"experiment_id": EXPERIMENT},
    }
    body = {"locations": [location], "max_results": 500, **more}
    return post(f"{vedette.url}/api/3.0/mlflow/traces/search", body)


def everything(vedette: RunningVedette) -> list[Any]:
    """What searches tell of all traces, and the whole of some."""
    found: list[Any] = []
    token: dict[str, Any] = {}
    while True:
        status, _, page = search(vedette, **token)
        assert status == 200, page
        found.extend(page.get("traces", ()))
        if not page.get("next_page_token"):
            break
        token = {"page_token": page["next_page_token"]}
    for trace in (1, 2, 3):
        url = f"{vedette.url}/api/3.0/mlflow/traces/get?trace_id=tr-{trace:032x}"
        with urllib.request.urlopen(url, timeout=30) as response:
            found.append(json.load(response))
    return found


def fill(vedette: RunningVedette, traces: int) -> None:
    """Traces by OTLP, and what else can be said of them."""
    for first in range(1, traces + 1, 500):
        assert send(vedette, range(first, min(first + 500, traces + 1))) == 200
    one = f"{vedette.url}/api/3.0/mlflow/traces/tr-{1:032x}"
    assert post(f"{one}/tags", {"key": "env", "value": "prod"}, "PATCH")[0] == 200
    feedback = {
        "assessment_name": "correct",
        "source": {"source_type": "HUMAN", "source_id": "ada"},
        "feedback": {"value": True},
        "create_time": "2026-01-01T00:00:00Z",
        "last_update_time": "2026-01-01T00:00:00Z",
        "trace_id": f"tr-{1:032x}",
    }
    assert post(f"{one}/assessments", {"assessment": feedback})[0] == 200


def lose_index(data: Path) -> None:
    files = list(data.glob("index.db*"))
    assert files
    for file in files:
        file.unlink()


def drained(vedette: RunningVedette) -> bool:
    """Whether all is in the lake and quiet."""
    return bool(vedette.health()["journal"]["backlog_bytes"] == 0)


def test_a_lost_read_model_is_made_anew_and_all_is_read_back(fresh_vedette: Start) -> None:
    vedette = fresh_vedette()
    fill(vedette, 700)
    vedette.wait_until(lambda: drained(vedette))
    before = everything(vedette)
    assert len(before) == 703
    assert any(trace.get("tags", {}).get("env") == "prod" for trace in before)
    assert vedette.stop() == 0
    lose_index(vedette.data)
    again = fresh_vedette(vedette.data)
    assert everything(again) == before
    log = again.log.read_text()
    assert log.count("rebuilding the read model") == 1
    assert "it is missing" in log
    assert "the read model is rebuilt: 700 traces" in log
    assert send(again, range(701, 702)) == 200
    assert len(everything(again)) == 704


def freeze_rebuild(data: Path) -> int:
    """Stop the engine of a Vedette that has just been started in the middle of its rebuild.

    Returns:
        The engine's process id.
    """
    state: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    while not state.get("index", {}).get("rebuilding", {}).get("rows"):
        state = read_state(data / "run" / "engine.json") or {}
        assert time.monotonic() < deadline
        time.sleep(0.002)
    pid: int = state["pid"]
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_rebuild_that_is_killed_begins_again(fresh_vedette: Start) -> None:
    vedette = fresh_vedette()
    fill(vedette, 20_000)
    vedette.wait_until(lambda: drained(vedette))
    before = everything(vedette)
    assert vedette.stop() == 0
    lose_index(vedette.data)
    draft = vedette.data / "index.db.rebuild"
    started = launch_vedette(vedette.data)
    try:
        engine = freeze_rebuild(vedette.data)
        assert draft.exists()
        assert not (vedette.data / "index.db").exists()
        health = started.wait_until(started.health)
        assert health["status"] in ("rebuilding", "degraded")  # frozen, the engine gets stale
        assert health["index"]["rebuilding"]["why"] == "it is missing"
        assert health["index"]["rebuilding"]["of_rows"] == 40_002
        assert any("read model is being rebuilt" in text for text in health["warnings"])
        status, headers, answer = search(started)
        assert (status, answer["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert headers["Retry-After"]
        assert "being rebuilt (it is missing)" in answer["message"]
        assert "% of 40,002 rows" in answer["message"]
        one = f"{started.url}/api/3.0/mlflow/traces/tr-{1:032x}"
        status, headers, _ = post(f"{one}/tags", {"key": "a", "value": "b"}, "PATCH")
        assert (status, bool(headers["Retry-After"])) == (503, True)
        assert send(started, range(20_001, 20_002)) == 200  # traces are taken
        server = started.health()["parts"]["server"]["pid"]
        os.kill(engine, signal.SIGKILL)
        started.wait_until(lambda: started.health()["status"] == "ok")
        assert started.health()["parts"]["server"]["pid"] == server  # it went on by itself
        ids = f"tr-{20_001:032x}"
        after = [trace for trace in everything(started) if trace.get("trace_id") != ids]
        assert len(everything(started)) == len(before) + 1
        assert after == before
        assert not draft.exists()
        log = started.log.read_text()
        assert log.count("rebuilding the read model") == 2
        assert log.count("the read model is rebuilt") == 1
    finally:
        started.stop()


def test_the_read_model_of_older_code_is_made_anew(fresh_vedette: Start) -> None:
    vedette = fresh_vedette()
    fill(vedette, 20)
    vedette.wait_until(lambda: drained(vedette))
    before = everything(vedette)
    assert vedette.stop() == 0
    with sqlite3.connect(vedette.data / "index.db") as connection:
        connection.execute("PRAGMA user_version = 0")
        connection.execute("ALTER TABLE traces DROP COLUMN finalized")
    again = fresh_vedette(vedette.data)
    assert everything(again) == before
    assert f"it is of version 0, not {VERSION}" in again.log.read_text()


def test_a_read_model_lost_while_it_is_used_is_made_anew(fresh_vedette: Start) -> None:
    vedette = fresh_vedette()
    fill(vedette, 50)
    vedette.wait_until(lambda: drained(vedette))
    before = everything(vedette)
    server = vedette.health()["parts"]["server"]["pid"]
    lose_index(vedette.data)
    assert search(vedette)[0] == 503
    assert send(vedette, range(51, 52)) == 200
    vedette.wait_until(lambda: vedette.health()["status"] == "ok" and search(vedette)[0] == 200)
    after = everything(vedette)
    assert len(after) == len(before) + 1
    assert [trace for trace in after if trace in before] == before
    parts = vedette.health()["parts"]
    assert parts["server"]["pid"] == server
    assert (parts["engine"]["restarts"], parts["server"]["restarts"]) == (1, 0)
