"""The server process by itself: what it refuses, how it stops, what it keeps."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from running import free_port
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Position

START_TRACE = "/api/3.0/mlflow/traces"
AS_JSON = {"serialization_format": "JSON_FORMAT"}
PERCENTILE_NAN = {"aggregation_type": "PERCENTILE", "percentile_value": "NaN"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A ``vedette server`` without an engine."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if body is not None and not isinstance(body, bytes):
            if chunked:
                body = iter(body)
            else:
                body, headers = (
                    json.dumps(body),
                    {"Content-Type": "application/json"} | (headers or {}),
                )
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def start_trace(self, trace_id: str, preview: str = "") -> Answer:
        info = {
            "trace_id": trace_id,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "0"},
            },
            "request_time": "2026-01-01T00:00:00Z",
            "state": "OK",
            "request_preview": preview,
        }
        return self.ask("POST", START_TRACE, {"trace": {"trace_info": info}})

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=15)


@contextlib.contextmanager
def serving(data: Path, **settings: Any) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "vedette", "server", "--data", str(data), "--port", str(port)]
    for name, value in settings.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    data.mkdir(parents=True, exist_ok=True)
    log = data / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
        yield Server(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), max_body_bytes=100_000) as running:
        yield running


def journaled(data: Path) -> set[str]:
    """Ids of the traces whose start is in the journal, as the next server will read it."""
    directory = data / "journal" / "server"
    JournalWriter(directory).close()  # what a start does with the segment that was left open
    records = JournalReader(directory).read(Position(0, 0), 1 << 30)
    return {record.fields["trace"]["trace_id"] for record, _ in records}


def trace_id() -> str:
    return f"tr-{uuid.uuid4().hex}"


def test_start_trace_says_that_spans_are_kept_here(server: Server) -> None:
    answer = server.start_trace(trace_id())
    assert answer.status == 200
    info = json.loads(answer.body)["trace"]["trace_info"]
    assert info["tags"]["mlflow.trace.spansLocation"] == "TRACKING_STORE"


def test_foreign_hosts_are_refused_on_our_routes_too(server: Server) -> None:
    evil = {"Host": "evil.example.com"}
    assert server.ask("GET", "/metrics", headers=evil).status == 403
    assert server.ask("POST", "/v1/traces", b"", evil).status == 403
    assert server.ask("GET", "/ajax-api/2.0/mlflow/experiments/get", headers=evil).status == 403
    assert server.ask("GET", "/health", headers=evil).status == 200  # as MLflow's: for probes


def test_foreign_origins_are_refused(server: Server) -> None:
    headers = {"Origin": "https://evil.example.com", "Content-Type": "application/json"}
    assert server.ask("POST", START_TRACE, b"{}", headers).status == 403


def test_bodies_over_the_limit_are_refused(server: Server) -> None:
    answer = server.start_trace(trace_id(), "x" * 200_000)
    assert answer.status == 413
    assert b"--max-body-bytes" in answer.body
    pieces = [b"x" * 10_000] * 50
    assert server.ask("POST", START_TRACE, pieces, chunked=True).status == 413
    assert server.start_trace(trace_id(), "x" * 50_000).status == 200


OTLP = "/v1/traces"


def send_slowly(
    server: Server, path: str, headers: str, pieces: list[bytes], *, patience: float = 10.0
) -> bytes:
    """Send a request piece by piece, and only then read the answer (its first bytes)."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=patience) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}{headers}\r\n\r\n".encode())
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.01)
        return client.recv(65536)


@pytest.mark.parametrize("path", [START_TRACE, OTLP])
def test_who_sends_too_much_slowly_still_reads_why_it_was_refused(
    server: Server, path: str
) -> None:
    pieces = [b"x" * 10_000] * 30
    answer = send_slowly(server, path, "Content-Length: 300000", pieces)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" not in answer.lower()
    chunks = [b"2710\r\n" + piece + b"\r\n" for piece in pieces] + [b"0\r\n\r\n"]
    answer = send_slowly(server, path, "Transfer-Encoding: chunked", chunks)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [START_TRACE, OTLP])
def test_who_asks_before_sending_too_much_is_refused_at_once(server: Server, path: str) -> None:
    headers = "Content-Length: 300000\r\nExpect: 100-continue"
    answer = send_slowly(server, path, headers, [], patience=3.0)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [START_TRACE, OTLP])
def test_who_never_stops_sending_is_cut_off(server: Server, path: str) -> None:
    endless = [b"2710\r\n" + b"x" * 10_000 + b"\r\n"] * 2000
    with pytest.raises(OSError):  # noqa: PT011 -- broken pipe or reset, as it happens
        send_slowly(server, path, "Transfer-Encoding: chunked", endless)
    assert server.start_trace(trace_id()).status == 200


def test_who_stops_sending_too_much_is_answered(server: Server) -> None:
    pieces = [b"x" * 10_000] * 11
    answer = send_slowly(server, START_TRACE, "Content-Length: 300000", pieces, patience=20.0)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_artifacts_may_be_larger(server: Server) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/big.bin"
    assert server.ask("PUT", path, b"x" * 300_000).status == 200
    assert len(server.ask("GET", path).body) == 300_000


@pytest.mark.parametrize("trace", ["", "a/b", "../../etc", "x" * 51])
def test_ids_that_can_not_name_a_trace_are_refused(server: Server, trace: str) -> None:
    answer = server.start_trace(trace)
    assert answer.status == 400
    assert b"Invalid trace id" in answer.body


def test_traces_of_mlflow_2_are_refused_with_the_way_out(server: Server) -> None:
    body = {"experiment_id": "0", "timestamp_ms": 1}
    answer = server.ask("POST", "/api/2.0/mlflow/traces", body)
    assert answer.status == 501
    assert b"/v1/traces" in answer.body


def test_jobs_of_mlflows_own_are_off(server: Server) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    assert children.read_text() == ""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with serving(tmp_path) as first:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                name = trace_id()
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if first.start_trace(name).status == 200:
                        acknowledged.append(name)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(1.5)
        first.process.kill()
        first.process.wait()
        stop.set()
        for writer in writers:
            writer.join()
    assert len(acknowledged) > 10
    assert set(acknowledged) <= journaled(tmp_path)


def test_sigterm_answers_what_is_under_way_and_exits_0(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    answers: list[int] = []
    with serving(tmp_path) as server:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                name = trace_id()
                try:
                    answers.append(server.start_trace(name).status)
                except ConnectionRefusedError:
                    return
                except (OSError, http.client.HTTPException):
                    answers.append(0)  # accepted, not answered
                else:
                    acknowledged.append(name)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(1.0)
        started = time.monotonic()
        assert server.stop() == 0, server.log.read_text()
        assert time.monotonic() - started < 10
        stop.set()
        for writer in writers:
            writer.join()
    assert set(answers) <= {200, 0}
    assert len(acknowledged) > 10
    assert set(acknowledged) <= journaled(tmp_path)


def test_a_full_journal_is_503_with_retry_after_and_takes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, journal_max_bytes=60_000) as server:
        taken: list[str] = []
        for _ in range(100):  # no engine here that would make room
            name = trace_id()
            answer = server.start_trace(name, "x" * 1000)
            if answer.status != 200:
                break
            taken.append(name)
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert b"retry later" in answer.body
        assert json.loads(answer.body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert len(taken) > 20
        assert server.ask("GET", f"{START_TRACE}/{taken[-1]}").status == 200  # reads go on
        assert server.ask("GET", f"{START_TRACE}/{name}").status == 404
        patch = {"key": "a", "value": "b" * 2000}
        assert server.ask("PATCH", f"{START_TRACE}/{taken[0]}/tags", patch).status == 503
        health = json.loads(server.ask("GET", "/health").body)
        assert health["status"] != "ok"
        assert "full" in health["journal"]["refusing"]
        (warning,) = (text for text in health["warnings"] if "refuses writes" in text)
        assert "--journal-max-bytes" in warning
        metrics = server.ask("GET", "/metrics").body
        assert b'vedette_journal_refusing{part="server"} 1.0' in metrics
        journal = JournalReader(tmp_path / "journal" / "server")
        deadline = time.monotonic() + 10
        while json.loads(server.ask("GET", "/health").body)["journal"]["refusing"] is not None:
            assert time.monotonic() < deadline
            for number in journal.sealed_segments():  # as the engine does once they are in the lake
                journal.remove(number)
        assert b'vedette_journal_refusing{part="server"} 0.0' in server.ask("GET", "/metrics").body


def test_a_second_server_on_the_same_data_is_refused(server: Server) -> None:
    data = server.log.parent
    command = [sys.executable, "-m", "vedette", "server", "--data", str(data), "--port"]
    run = subprocess.run(
        [*command, str(free_port())], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode != 0
    assert "already" in run.stderr
    assert server.start_trace(trace_id()).status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":' * 2000, b'"x"'])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", START_TRACE),
        ("PATCH", f"{START_TRACE}/tr-0/tags"),
        ("DELETE", f"{START_TRACE}/tr-0/tags"),
        ("POST", f"{START_TRACE}/tr-0/assessments"),
        ("PATCH", f"{START_TRACE}/tr-0/assessments/a-0"),
        ("POST", f"{START_TRACE}/search"),
        ("POST", f"{START_TRACE}/delete-traces"),
        ("POST", "/api/2.0/mlflow/traces/link-to-run"),
        ("POST", "/api/2.0/mlflow/traces/link-prompts"),
        ("POST", "/api/3.0/mlflow/scorers/register"),
        ("PUT", "/api/3.0/mlflow/scorers/online-config"),
    ],
)
def test_malformed_bodies_are_the_callers_mistake(
    server: Server, method: str, path: str, body: bytes
) -> None:
    answer = server.ask(method, path, body, {"Content-Type": "application/json"})
    assert 400 <= answer.status < 500
    assert json.loads(answer.body)["error_code"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/api/3.0/mlflow/scorers/online-config", {"sample_rate": "half"}),
        ("PUT", "/api/3.0/mlflow/scorers/online-config", {"sample_rate": [1]}),
        ("PUT", "/api/3.0/mlflow/scorers/online-config", {"name": "\ud800"}),
        ("POST", f"{START_TRACE}/tr-0/assessments", {"assessment": "\ud800"}),
        ("PUT", "/api/3.0/mlflow/scorers/online-config", {"experiment_id": str(2**70)}),
        ("POST", "/api/3.0/mlflow/scorers/register", {"serialized_scorer": "1.5"}),
        ("POST", "/api/3.0/mlflow/scorers/register", {"serialized_scorer": '{"name": "a"}'}),
        ("POST", f"{START_TRACE}/delete-traces", {"experiment_id": str(2**70)}),
        ("POST", f"{START_TRACE}/delete-traces", {"max_traces": {}}),
        ("POST", f"{START_TRACE}/search", {"max_results": []}),
        ("POST", f"{START_TRACE}/metrics", {"aggregations": [PERCENTILE_NAN]}),
        ("POST", f"{START_TRACE}/metrics", {"aggregations": [{"aggregation_type": "AVG"}] * 101}),
    ],
)
def test_values_of_the_wrong_kind_are_the_callers_mistake(
    server: Server, method: str, path: str, body: dict[str, Any]
) -> None:
    whole = {
        "experiment_id": "0",
        "name": "a",
        "sample_rate": 0.5,
        "serialized_scorer": "{}",
        "request_ids": ["tr-0"],
        "locations": [],
        "experiment_ids": ["0"],
        "view_type": "TRACES",
        "metric_name": "latency",
    }
    answer = server.ask(method, path, whole | body)
    assert 400 <= answer.status < 500
    assert json.loads(answer.body)["error_code"]


@pytest.mark.parametrize(
    "value",
    [
        {"feedback": {"value": 10**400}},
        {"expectation": {"value": 10**400}},
        {"expectation": {"serialized_value": {**AS_JSON, "value": "1" + "0" * 400}}},
        {"expectation": {"serialized_value": {**AS_JSON, "value": "NaN"}}},
        {"expectation": {"serialized_value": {**AS_JSON, "value": "1e999"}}},
    ],
)
def test_an_assessment_that_cannot_be_handed_out_changes_nothing(
    server: Server, value: dict[str, Any]
) -> None:
    trace_id = f"tr-{uuid.uuid4().hex}"
    server.start_trace(trace_id)
    source = {"source_type": "HUMAN", "source_id": "ann"}
    whole = {"assessment": {"assessment_name": "a", "source": source, **value}}

    answer = server.ask("POST", f"{START_TRACE}/{trace_id}/assessments", whole)

    assert answer.status == 400
    found = server.ask("GET", f"{START_TRACE}/{trace_id}")
    assert found.status == 200
    assert "assessments" not in json.loads(found.body)["trace"]["trace_info"]
