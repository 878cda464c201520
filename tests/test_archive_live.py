"""Archives of a whole Vedette: through its API and command line, while parts of it fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import duckdb
import mlflow
import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

import vedette as api
from archive_support import as_told, stored, told
from running import RunningVedette
from vedette.cli import app

EXAMPLES = Path(__file__).parent.parent / "examples"
CURRENT_SECONDS = 60.0  # what is promised


def make_trace(question: str) -> str:
    with mlflow.start_span("agent") as span:
        span.set_inputs({"question": question})
        with mlflow.start_span("tool"):
            pass
        span.set_outputs({"answer": question.upper()})
    mlflow.flush_trace_async_logging()
    return str(span.trace_id)


def new_name() -> str:
    return f"main.live.t{uuid.uuid4().hex[:12]}"


def uri_of(vedette: RunningVedette, name: str) -> str:
    return str(vedette.data / "lake" / Path(*name.split(".")))


def rows_of(vedette: RunningVedette, name: str) -> dict[str, dict[str, Any]]:
    """The rows by MLflow's trace id."""
    rows = stored(uri_of(vedette, name))
    assert len({row["trace_id"] for row in rows}) == len(rows)
    return {f"tr-{row['trace_id']}": row for row in rows}


def call(vedette: RunningVedette, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(vedette.url + path, content, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def cli(vedette: RunningVedette, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "VEDETTE_URL": vedette.url})
    return done.exit_code, done.stdout, done.stderr


def test_an_archive_is_current_within_a_minute(vedette: RunningVedette, experiment: str) -> None:
    client = MlflowClient()
    first, gone = make_trace("before"), make_trace("soon deleted")
    name = new_name()
    api.enable_trace_archival(delta_table_fullname=name)
    vedette.wait_until(lambda: rows_of(vedette, name).keys() == {first, gone}, CURRENT_SECONDS)

    second = make_trace("after")
    mlflow.log_feedback(trace_id=second, name="user_feedback", value=True, rationale="nice")
    client.set_trace_tag(first, "env", "prod")
    client.delete_traces(experiment_id=experiment, trace_ids=[gone])
    began = time.monotonic()
    vedette.wait_until(
        lambda: (
            (rows := rows_of(vedette, name)).keys() == {first, second}
            and rows[first]["tags"].get("env") == "prod"
            and [one["assessment_name"] for one in rows[second]["assessments"]] == ["user_feedback"]
        ),
        CURRENT_SECONDS,
    )
    assert time.monotonic() - began < CURRENT_SECONDS
    rows = rows_of(vedette, name)
    assert rows.keys() == {first, second}
    for trace_id, row in rows.items():
        trace = mlflow.get_trace(trace_id)
        assert as_told(row) == told(trace.info, trace.data.spans)

    status = api.trace_archival_status()
    assert status is not None
    assert (status["state"], status["rows"], status["error"]) == ("current", 2, None)
    assert status["uri"] == uri_of(vedette, name)
    code, out, err = cli(vedette, "archive", "status", "--json", "--experiment", experiment)
    assert code == 0, err
    assert json.loads(out)[0]["delta_table_fullname"] == name
    assert name in cli(vedette, "archive", "status")[1]
    api.disable_trace_archival()
    assert rows_of(vedette, name) == rows


def test_enabling_and_disabling(vedette: RunningVedette, experiment: str) -> None:
    name = new_name()
    assert api.trace_archival_status() is None
    with pytest.raises(MlflowException, match="is not archived"):
        api.disable_trace_archival()
    api.enable_trace_archival(delta_table_fullname=name, experiment_id=experiment)
    api.enable_trace_archival(delta_table_fullname=name, retention_days=30, optimize=False)
    status = api.trace_archival_status()
    assert status is not None
    assert (status["retention_days"], status["optimize"]) == (30.0, False)
    with pytest.raises(MlflowException, match=f"is archived in {name}") as caught:
        api.enable_trace_archival(delta_table_fullname=new_name())
    assert caught.value.error_code == "RESOURCE_CONFLICT"
    path = f"/api/archival/{experiment}"
    status_code, _ = call(vedette, "PUT", path, {"delta_table_fullname": new_name()})
    assert status_code == 409
    api.disable_trace_archival(experiment_id=experiment)
    other = new_name()
    api.enable_trace_archival(delta_table_fullname=other)
    code, out, _ = cli(vedette, "archive", "disable", "--experiment", experiment)
    assert (code, "The table stays" in out) == (0, True)
    code, out, err = cli(vedette, "archive", "enable", name, "--experiment", experiment, "--json")
    assert code == 0, err
    assert json.loads(out)["delta_table_fullname"] == name
    code, _, err = cli(vedette, "archive", "enable", other, "--experiment", experiment)
    assert (code, f"is archived in {name}" in err) == (1, True)
    api.disable_trace_archival()


@pytest.mark.parametrize(
    ("body", "status", "told_part"),
    [
        ({"delta_table_fullname": "traces"}, 400, "catalog.schema.table"),
        ({"delta_table_fullname": "main.x.mlflow_otel_spans"}, 400, "Vedette's own"),
        ({"delta_table_fullname": "main.x.y", "vacuum_hours": 0}, 400, "vacuum_hours"),
        ({"delta_table_fullname": "main.x.y", "retention_days": "1"}, 400, "retention_days"),
        ({"table": "main.x.y"}, 400, "delta_table_fullname"),
        ([], 400, "object"),
    ],
)
def test_what_makes_no_sense_is_refused(
    vedette: RunningVedette, experiment: str, body: Any, status: int, told_part: str
) -> None:
    code, answer = call(vedette, "PUT", f"/api/archival/{experiment}", body)
    assert (code, told_part in answer["message"]) == (status, True), answer
    assert api.trace_archival_status() is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(
    vedette: RunningVedette, experiment: str, content: bytes
) -> None:
    url = f"{vedette.url}/api/archival/{experiment}"
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, content, method="PUT"), timeout=30)
    assert caught.value.code == 400
    assert json.load(caught.value)["error_code"] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("experiment_id", ["123456789", "9" * 30, "x"])
def test_experiments_that_are_none(vedette: RunningVedette, experiment_id: str) -> None:
    body = {"delta_table_fullname": "main.x.y"}
    for method, content in (("PUT", body), ("DELETE", None)):
        code, answer = call(vedette, method, f"/api/archival/{experiment_id}", content)
        assert (code, answer["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    code, _ = call(vedette, "GET", f"/api/archival?experiment_id={experiment_id}")
    assert code == 404


def test_the_help_of_each_command_shows_an_example(vedette: RunningVedette) -> None:
    for command in ("enable", "disable", "status"):
        code, out, _ = cli(vedette, "archive", command, "--help")
        assert code == 0
        assert f"vedette archive {command}" in out.split("Example", 1)[1]


def test_one_archive_that_fails_stops_no_other_and_a_kill_doubles_nothing(
    fresh_vedette: Callable[..., RunningVedette],
) -> None:
    vedette = fresh_vedette()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    try:
        names, made = {}, {}
        for experiment in ("good", "bad"):
            mlflow.set_experiment(experiment)
            names[experiment] = new_name()
            made[experiment] = {make_trace(f"{experiment} {n}") for n in range(3)}
            api.enable_trace_archival(delta_table_fullname=names[experiment])
        for experiment, name in names.items():
            vedette.wait_until(
                lambda name=name, ids=made[experiment]: rows_of(vedette, name).keys() == ids,
                CURRENT_SECONDS,
            )
        place = Path(uri_of(vedette, names["bad"]))
        place.rename(place.with_name("unmounted"))
        engine = vedette.health()["parts"]["engine"]["pid"]
        for experiment in ("bad", "good"):
            mlflow.set_experiment(experiment)
            made[experiment].add(make_trace("one more"))
        os.kill(engine, signal.SIGKILL)
        vedette.wait_until(
            lambda: rows_of(vedette, names["good"]).keys() == made["good"], CURRENT_SECONDS
        )
        warning = vedette.wait_until(
            lambda: [one for one in vedette.health()["warnings"] if "was there before" in one],
            CURRENT_SECONDS,
        )
        assert "the archive of experiment" in warning[0]
        mlflow.set_experiment("bad")
        status = api.trace_archival_status()
        assert status is not None
        assert status["state"] == "failing"
        place.with_name("unmounted").rename(place)
        vedette.wait_until(
            lambda: rows_of(vedette, names["bad"]).keys() == made["bad"], 2 * CURRENT_SECONDS
        )
    finally:
        mlflow.set_tracking_uri(before)


def test_the_examples_read_an_archive(vedette: RunningVedette, experiment: str) -> None:
    made = {make_trace("one"), make_trace("two")}
    mlflow.log_feedback(trace_id=min(made), name="polite", value=True)
    MlflowClient().set_trace_tag(max(made), "agent_version", "v2")
    name = new_name()
    api.enable_trace_archival(delta_table_fullname=name)
    vedette.wait_until(lambda: rows_of(vedette, name).keys() == made, CURRENT_SECONDS)
    api.disable_trace_archival()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "read_archive.py"), uri_of(vedette, name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '{"question": "one"}' in done.stdout
    assert "polite" in done.stdout
    assert "tool" in done.stdout


def test_the_example_for_spark_is_sql_that_spark_knows(
    vedette: RunningVedette, experiment: str
) -> None:
    """No Spark here: it is parsed as Spark's SQL, and run by DuckDB in DuckDB's words."""
    sqlglot = pytest.importorskip("sqlglot")
    made = make_trace("one")
    MlflowClient().set_trace_tag(made, "agent_version", "v2")
    mlflow.log_feedback(trace_id=made, name="polite", value=True)
    name = new_name()
    api.enable_trace_archival(delta_table_fullname=name)
    vedette.wait_until(lambda: made in rows_of(vedette, name), CURRENT_SECONDS)
    api.disable_trace_archival()
    archive = DeltaTable(uri_of(vedette, name)).to_pyarrow_dataset()
    text = (EXAMPLES / "read_archive.sql").read_text()
    found = [
        duckdb.sql(statement).to_arrow_table().to_pylist()
        for statement in sqlglot.transpile(text, read="spark", write="duckdb")
        if statement.strip() and archive
    ]
    assert [len(rows) for rows in found] == [1, 1, 2, 1]
    assert list(found[1][0].values()) == ["polite", "CODE", 1, 1.0]
    assert list(found[3][0].values()) == ["v2", 1, 0]
