"""A whole Vedette whose lake is on S3: through kills, an outage, and the loss of its read model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner, Result

from running import RunningVedette, start_vedette
from s3_server import BUCKET, CUT_AFTER, THROTTLED, Fault, Request, S3Server, run_s3_server, times
from test_rebuild_live import everything, post, search, send
from vedette.cli import app

ROOT = f"s3://{BUCKET}/live"
TABLE = f"{ROOT}/main/default/mlflow_otel_spans"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with run_s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def vedette(s3: S3Server, data: Path) -> Iterator[RunningVedette]:
    """For all tests of this file, which go on where the one before ended."""
    running = start_vedette(data, lake=ROOT, segment_seconds=0.3)
    yield running
    assert running.stop() == 0, running.log.read_text()


def run(*command: str) -> Result:
    """A command in this process: starting another one takes longer than what it does."""
    return CliRunner().invoke(app, list(command))


def spans(s3: S3Server) -> list[tuple[str, str]]:
    """Every span in the lake, read without our code."""
    options = {**s3.environment, "AWS_ENDPOINT_URL": s3.upstream}
    rows = DeltaTable(TABLE, storage_options=options).to_pyarrow_table().to_pylist()
    return sorted((row["trace_id"], row["span_id"]) for row in rows)


def committed(s3: S3Server) -> int:
    """How many commits have been tried."""
    return sum(request.is_commit for request in s3.requests)


def expected(traces: int) -> list[tuple[str, str]]:
    return [(f"{n:032x}", f"{k:016x}") for n in range(1, traces + 1) for k in (1, 2)]


def get(vedette: RunningVedette, trace: int) -> tuple[int, str]:
    """Status and text of the answer to a request for a whole trace."""
    url = f"{vedette.url}/api/3.0/mlflow/traces/get?trace_id=tr-{trace:032x}"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settle(vedette: RunningVedette) -> None:
    vedette.wait_until(lambda: vedette.health()["journal"]["backlog_bytes"] == 0)


def test_traces_get_into_the_lake_and_back(vedette: RunningVedette, s3: S3Server) -> None:
    assert send(vedette, range(1, 11)) == 200
    assert len(everything(vedette)) == 13  # at once, from the journal
    settle(vedette)
    assert spans(s3) == expected(10)
    assert not (vedette.data / "lake").exists()
    assert len(everything(vedette)) == 13


def test_kills_of_the_engine_while_answers_are_lost_double_nothing(
    vedette: RunningVedette, s3: S3Server
) -> None:
    commits = count()

    def every_third_commit(request: Request) -> Fault | None:
        return CUT_AFTER if request.is_commit and next(commits) % 3 == 2 else None

    with s3.failing(every_third_commit):
        first = 11
        for _ in range(2):
            before = committed(s3)
            for number in range(first, first + 10, 2):
                assert send(vedette, range(number, number + 2)) == 200
                time.sleep(0.1)
            first += 10
            vedette.wait_until(lambda before=before: committed(s3) > before)
            os.kill(vedette.health()["parts"]["engine"]["pid"], signal.SIGKILL)
            vedette.wait_until(lambda: vedette.health()["parts"]["engine"]["state"] == "running")
    settle(vedette)
    assert spans(s3) == expected(30)


def test_a_store_that_is_away_is_told_and_traces_wait_in_the_journal(
    vedette: RunningVedette, s3: S3Server
) -> None:
    with s3.failing(lambda _: THROTTLED):
        assert send(vedette, range(31, 36)) == 200
        health = vedette.wait_until(
            lambda: (found := vedette.health())["lake"]["error"] and found  # type: ignore[func-returns-value]
        )
        assert health["status"] == "degraded"
        assert any("the lake can't be written" in warning for warning in health["warnings"])
        assert "503" in health["lake"]["error"]
        assert health["journal"]["backlog_bytes"] > 0
        assert health["parts"]["engine"]["state"] == "running"
        assert len(search(vedette)[2]["traces"]) == 35
        assert get(vedette, 33)[0] == 200  # it's in the journal
        for copy in (vedette.data / "lake.state").rglob("*.parquet"):
            copy.unlink()
        status, message = get(vedette, 1)
        assert status == 503
        assert "lake" in message
    restarts = vedette.health()["parts"]["engine"]["restarts"]
    settle(vedette)
    assert vedette.wait_until(lambda: vedette.health()["lake"]["error"] is None)
    assert vedette.health()["parts"]["engine"]["restarts"] == restarts
    assert spans(s3) == expected(35)


def test_the_commands_work_on_it(vedette: RunningVedette) -> None:
    query = "SELECT count(DISTINCT trace_id) AS n FROM main.default.mlflow_otel_spans"
    status, _, answer = post(f"{vedette.url}/api/sql", {"sql": query})
    assert (status, answer["rows"]) == (200, [[35]])
    place = ["--data", str(vedette.data), "--lake", ROOT]
    for command in (
        ["sql", query, "--url", vedette.url, "--format", "json"],
        ["recipes", "traces_per_hour", "--url", vedette.url, "--format", "json"],
    ):
        done = run(*command)
        assert done.exit_code == 0, done.output
    done = run("doctor", *place, "--json")
    findings = {one["check"]: one for one in json.loads(done.stdout)}
    assert findings["lake"]["state"] == "ok", findings
    done = run("maintain", *place, "--json")
    assert done.exit_code == 0, done.output
    assert [one["error"] for one in json.loads(done.stdout)] == [None] * 5


def test_the_read_model_is_made_anew_from_it(vedette: RunningVedette, s3: S3Server) -> None:
    before = everything(vedette)
    assert vedette.stop() == 0
    for path in vedette.data.glob("index.db*"):
        path.unlink()
    with s3.failing(times(3, lambda request: request.method == "GET", CUT_AFTER)):
        again = start_vedette(vedette.data, lake=ROOT, segment_seconds=0.3)
    try:
        assert everything(again) == before
    finally:
        assert again.stop() == 0


def test_up_refuses_what_cannot_hold_a_lake(s3: S3Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vedette", "up", "--data", str(tmp_path), "--port", "1"]
    done = subprocess.run(
        [*command, "--lake", "s3://no-such-bucket/x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no bucket for s3://no-such-bucket/x" in done.stderr
    assert "Traceback" not in done.stderr
