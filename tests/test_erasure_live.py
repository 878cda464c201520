"""`vedette delete` on a whole Vedette whose engine is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from running import RunningVedette
from test_archive_live import call, cli
from test_erasure import MARK, marked_files


@pytest.fixture
def connected(fresh_vedette: Callable[..., RunningVedette]) -> Iterator[RunningVedette]:
    before = mlflow.get_tracking_uri()
    vedette = fresh_vedette(erasure_grace=2)
    mlflow.set_tracking_uri(vedette.url)
    mlflow.set_experiment(uuid.uuid4().hex)
    yield vedette
    mlflow.set_tracking_uri(before)


def make_trace(user: str, text: str) -> str:
    with mlflow.start_span("agent") as span:
        span.set_inputs({"question": text})
        mlflow.update_current_trace(
            tags={"note": text}, metadata={"mlflow.trace.user": user, "mlflow.trace.session": user}
        )
        with mlflow.start_span("tool") as tool:
            tool.set_outputs(text)
    mlflow.flush_trace_async_logging()
    mlflow.log_feedback(trace_id=span.trace_id, name="user_feedback", value=text, rationale=text)
    return str(span.trace_id)


def known(trace_id: str) -> Any:
    trace = mlflow.get_trace(trace_id)
    return trace.info.to_dict(), [span.to_dict() for span in trace.data.spans]


def deletions(vedette: RunningVedette) -> dict[str, Any]:
    code, out, err = cli(vedette, "delete", "--status", "--json")
    assert code == 0, err
    state: dict[str, Any] = json.loads(out)
    return state


def test_a_user_is_gone_from_every_byte_on_disk(connected: RunningVedette) -> None:
    vedette = connected
    mine = [make_trace("u-1", f"{MARK} {number}") for number in range(5)]
    theirs = [make_trace("u-2", f"theirs {number}") for number in range(5)]
    vedette.wait_until(lambda: vedette.health()["journal"]["backlog_bytes"] == 0)
    mlflow.search_traces(max_results=1)
    assert marked_files(vedette.data)
    before = [known(one) for one in theirs]

    code, out, err = cli(vedette, "delete", "--user", "u-1", "--dry-run", "--json")
    assert (code, json.loads(out)["traces"], json.loads(out)["spans"]) == (0, 5, 10), err
    assert known(mine[0])
    code, _, err = cli(vedette, "delete", "--user", "u-1")
    assert (code, "--yes" in err) == (2, True)
    code, out, err = cli(vedette, "delete", "--user", "u-1", "--yes")
    assert (code, "5 traces with 10 spans" in out) == (0, True), err
    os.kill(vedette.health()["parts"]["engine"]["pid"], signal.SIGKILL)
    assert deletions(vedette)["waiting"] == 5  # the request is durable
    with pytest.raises(MlflowException, match="not found"):
        MlflowClient().get_trace(mine[0])
    with pytest.raises(MlflowException, match="not found"):
        mlflow.log_feedback(trace_id=mine[0], name="late", value=MARK)

    vedette.wait_until(lambda: deletions(vedette)["waiting"] == 0, 90)
    # The server's mirror for charts follows within seconds
    vedette.wait_until(lambda: not _marked(vedette), 30)
    assert [known(one) for one in theirs] == before
    assert "Nothing" in cli(vedette, "delete", "--status")[1]
    assert "no traces" in cli(vedette, "delete", "--user", "u-1", "--yes")[1]


def _marked(vedette: RunningVedette) -> set[str]:
    try:
        return marked_files(vedette.data)
    except OSError:  # a file went meanwhile
        return {"?"}


def test_what_makes_no_sense_is_refused(vedette: RunningVedette, experiment: str) -> None:
    trace = make_trace("u-3", "stays")
    for body in ({}, {"user": ""}, {"user": 7}, {"user": "u-3", "dry_run": 1}, {"who": "u-3"}, []):
        status, answer = call_json(vedette, body)
        assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), body
    status, answer = call_json(vedette, {"user": "u-3", "experiment_id": "987654"})
    assert (status, answer["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    status, answer = call(vedette, "POST", "/api/deletions", {"user": "u-3"})  # not said to be JSON
    assert status == 400
    other = mlflow.create_experiment(uuid.uuid4().hex)
    status, answer = call_json(vedette, {"user": "u-3", "experiment_id": other})
    assert (status, answer["traces"]) == (200, 0)
    assert known(trace)
    assert cli(vedette, "delete")[0] == 2


def call_json(vedette: RunningVedette, body: Any) -> tuple[int, Any]:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        f"{vedette.url}/api/deletions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
