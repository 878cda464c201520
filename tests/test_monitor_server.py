"""``/monitor`` in the server: behind MLflow's checks, open to its own pages only, gone in time."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from test_mlflow_app_server import START_TRACE, Server, serving
from vedette.monitor.data import SESSION_LIMIT

LIVE = "/monitor/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("monitor")) as running:
        yield running


def handshake(server: Server, path: str = LIVE, **headers: str) -> tuple[int, socket.socket]:
    """Ask for a websocket; the status of the answer, and the connection."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    fields = {
        "Host": f"127.0.0.1:{server.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = connection.recv(4096)
    return int(answer.split()[1]), connection


@pytest.mark.parametrize("path", ["/monitor", "/monitor/"])
def test_monitor_is_the_overview(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    if path == "/monitor":
        assert answer.status == 307
        assert answer.headers["location"] == "/monitor/"
        kept = server.ask("GET", f"{path}?experiment_id=0&range=7d")
        assert kept.headers["location"] == "/monitor/?experiment_id=0&range=7d"
    else:
        assert answer.status == 200
        assert b"No trace began in this time" in answer.body
        assert b"flush_trace_async_logging" in answer.body


def test_a_page_comes_with_its_figures_and_the_headers_of_mlflow(server: Server) -> None:
    answer = server.ask("GET", "/monitor/scorers")
    assert answer.status == 200
    assert b"No scorer is registered" in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_an_unknown_trace_or_page_is_404(server: Server) -> None:
    answer = server.ask("GET", "/monitor/trace/tr-%3Cimg%20src=x%3E")
    assert answer.status == 404
    assert b"There is no trace" in answer.body
    assert b"<img src=x>" not in answer.body
    assert server.ask("GET", "/monitor/nothing").status == 404


def test_a_page_and_the_api_tell_the_same_of_a_trace(server: Server) -> None:
    def start(number: int) -> str:
        info = {
            "trace_id": f"tr-of-a-session-{number}",
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "0"},
            },
            "request_time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z",
            "state": "OK",
            "trace_metadata": {"mlflow.trace.session": "long"},
        }
        assert server.ask("POST", START_TRACE, {"trace": {"trace_info": info}}).status == 200
        return str(info["trace_id"])

    names = [start(number) for number in range(SESSION_LIMIT + 2)]
    api = server.ask("GET", f"/api/explain/{names[1]}")
    assert json.loads(api.body) == {"trace_id": names[1], "scorers": []}
    page = server.ask("GET", f"/monitor/trace/{names[1]}").body.decode()
    for text in ("No scorer has been started", "Session long", "and 2 more", names[0], names[-3]):
        assert text in page
    assert names[-2] not in page


def test_the_api_knows_no_scorers_and_no_trace(server: Server) -> None:
    assert json.loads(server.ask("GET", "/api/scorers").body)["scorers"] == []
    assert server.ask("GET", "/api/explain/tr-nobody").status == 404


def test_the_api_has_the_figures_of_an_experiment(server: Server) -> None:
    now = int(time.time() * 1000)
    info = {
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": "0"},
        },
        "request_time": datetime.fromtimestamp(now / 1000 - 1, UTC).isoformat(),
        "execution_duration": "1.5s",
    }
    for number, state in enumerate(("OK", "OK", "ERROR")):
        trace = {"trace_info": {**info, "trace_id": f"tr-figures-{number}", "state": state}}
        assert server.ask("POST", START_TRACE, {"trace": trace}).status == 200
    answer = server.ask("GET", "/api/vedette/overview?experiment_id=0&range=1h")
    assert answer.status == 200
    found = json.loads(answer.body)
    assert (found["traffic"]["traces"], found["traffic"]["errors"]) == (3, 1)
    assert found["traffic"]["latency_ms"]["p50"]["value"] == 1500
    assert found["traffic_change"]["error_rate"]["text"] == "too few traces yet: 3"
    assert (found["scorers"], found["firing"]) == ([], None)
    assert found["period"]["range"] == "1h"
    table = server.ask("GET", "/api/vedette/traffic.csv?experiment_id=0&range=1h")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(table.body.decode().splitlines()))
    assert sum(int(row["traces"]) for row in rows) == 3
    # The same address is the same time, whenever it is opened
    until = f"/api/vedette/overview?experiment_id=0&range=1h&until={now - 60_000}"
    assert json.loads(server.ask("GET", until).body)["traffic"]["traces"] == 0


def test_the_api_knows_nothing_of_a_scorer_without_scores(server: Server) -> None:
    found = server.ask("GET", "/api/vedette/scorer?experiment_id=0&name=nobody")
    assert json.loads(found.body)["scores"] == []
    unnamed = server.ask("GET", "/api/vedette/scorer?experiment_id=0")
    assert unnamed.status == 400
    assert "which scorer" in json.loads(unnamed.body)["message"]
    assert server.ask("GET", "/api/vedette/scores.csv?experiment_id=0&name=nobody").body == b""


def test_the_overview_tells_of_alerts(server: Server) -> None:
    def state() -> tuple[Any, str]:
        found = server.ask("GET", "/api/vedette/overview?experiment_id=0")
        return json.loads(found.body)["firing"], server.ask("GET", "/monitor/").body.decode()

    firing, page = state()
    assert firing is None
    assert "No alert rules are set up" in page
    rule = server.ask("PUT", "/api/alerts/0/error_rate_above_0_10_1h", {})
    assert rule.status == 200, rule.body
    firing, page = state()
    assert firing == []  # no engine looks at it
    deadline = time.monotonic() + 20
    while "No alert fires" not in page and time.monotonic() < deadline:
        time.sleep(0.5)  # the page's answer is shared for a few seconds
        _, page = state()
    assert "No alert fires" in page
    assert server.ask("DELETE", "/api/alerts/0/error_rate_above_0_10_1h").status == 200


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "no experiment's id"),
        ("?experiment_id=x", 400, "no experiment's id"),
        ("?experiment_id=0&range=2h", 400, "one of 1h, 24h, 7d, 30d"),
        ("?experiment_id=0&until=now", 400, "milliseconds since the epoch"),
        ("?experiment_id=77", 404, "77"),
        ("?experiment_id=" + "9" * 30, 404, "No Experiment"),
    ],
)
@pytest.mark.parametrize("name", ["overview", "traffic.csv", "scorer", "scores.csv"])
def test_the_api_says_what_it_was_asked_wrong(
    server: Server, name: str, query: str, status: int, said: str
) -> None:
    if name.startswith("score"):
        query += "&name=good" if query else "?name=good"
    answer = server.ask("GET", f"/api/vedette/{name}{query}")
    assert answer.status == status
    assert said in json.loads(answer.body)["message"]


@pytest.mark.parametrize("path", ["/monitor", "/monitor/scorers", "/monitor/trace/tr-1"])
def test_requests_with_a_foreign_host_are_refused(server: Server, path: str) -> None:
    assert server.ask("GET", path, headers={"Host": "evil.example.com"}).status == 403


def test_its_assets_come_from_the_server(server: Server) -> None:
    page = server.ask("GET", "/monitor/scorers").body.decode()
    assert re.findall(r"(?:src|href|url\()=?\"(?:https?:)?//[^\"]+", page) == []
    (script,) = re.findall(r'src="([^"]+/nicegui.js)"', page)
    assert server.ask("GET", script).status == 200


def test_live_connections_are_for_pages_of_the_same_site(server: Server) -> None:
    here = f"127.0.0.1:{server.port}"
    for status, headers in (
        (101, {}),
        (101, {"Origin": f"http://{here}"}),
        (101, {"Origin": f"https://{here}"}),  # a proxy speaks TLS for us
        (403, {"Origin": "http://evil.example.com"}),
        (403, {"Origin": "null"}),
        (403, {"Host": "evil.example.com", "Origin": "http://evil.example.com"}),
    ):
        answered, connection = handshake(server, **headers)
        connection.close()
        assert answered == status, headers
    polling = LIVE.replace("websocket", "polling")
    assert server.ask("GET", polling).status == 200
    assert server.ask("GET", polling, headers={"Origin": "http://evil.example.com"}).status == 400


def test_other_websockets_are_closed_as_mlflow_closes_them(server: Server) -> None:
    status, connection = handshake(server, "/nowhere")
    connection.close()
    assert status == 403


def test_sigterm_ends_the_server_with_live_connections_open(server: Server) -> None:
    connections = []
    for _ in range(3):
        status, connection = handshake(server)
        assert status == 101
        connections.append(connection)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 8
    for connection in connections:
        connection.close()
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "Task was destroyed" not in log
    assert not Path(".nicegui").exists()
