"""SQL as users meet it: over HTTP, from Python, on the command line."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.entities import AssessmentSource
from mlflow.exceptions import MlflowException

import vedette as public
from running import RunningVedette
from test_cli import run
from vedette.lake.recipes import recipes


@pytest.fixture(scope="module")
def named(vedette: RunningVedette) -> Iterator[str]:
    """The name of three spans that are in the lake, each with a score."""
    name = f"span-{uuid.uuid4().hex}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    mlflow.set_experiment(name)
    for number in range(3):
        with mlflow.start_span(name) as span:
            span.set_inputs({"number": number})
        mlflow.flush_trace_async_logging()
        code = AssessmentSource(source_type="CODE", source_id="test")
        mlflow.log_feedback(trace_id=span.trace_id, name=name, value=number > 0, source=code)
    vedette.wait_until(lambda: vedette.health()["journal"]["backlog_bytes"] == 0)
    yield name
    mlflow.set_tracking_uri(before)


def post(vedette: RunningVedette, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"{vedette.url}/api/sql", content, given)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {}


def test_a_query_over_http(vedette: RunningVedette, named: str) -> None:
    query = f"SELECT name, COUNT(*) AS n FROM mlflow_otel_spans WHERE name = '{named}' GROUP BY 1"
    status, answer = post(vedette, {"sql": query})
    assert status == 200
    assert answer["columns"] == [{"name": "name", "type": "string"}, {"name": "n", "type": "int64"}]
    assert answer["rows"] == [[named, 3]]
    assert answer["truncated"] is False
    assert answer["milliseconds"] > 0


def test_all_kinds_of_values_can_be_sent(vedette: RunningVedette) -> None:
    query = (
        "SELECT 1::HUGEINT, 1.5::DECIMAL(4, 2), 'NaN'::DOUBLE, 'a'::BLOB, INTERVAL 1 DAY,"
        " DATE '2026-01-02', TIMESTAMPTZ '2026-01-02 03:04:05Z', {'a': [1, NULL]}, MAP {'k': 'v'},"
        " NULL, uuid()::VARCHAR, true, '\u00e9\n'"
    )
    status, answer = post(vedette, {"sql": query, "dialect": "duckdb"})
    assert status == 200, answer
    (row,) = answer["rows"]
    assert row[:4] == [1, "1.50", None, "61"]
    assert row[5:9] == ["2026-01-02", "2026-01-02T03:04:05Z", {"a": [1, None]}, {"k": "v"}]
    assert row[11:] == [True, "\u00e9\n"]
    status, answer = post(vedette, {"sql": "SELECT DATE '20000-01-01'", "dialect": "duckdb"})
    assert status == 400
    assert "cast the column" in answer["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"SELECT 1", "not JSON"),
        ([], "must be an object"),
        ({}, "must be an object"),
        ({"sql": 1}, "must be an object"),
        ({"sql": "SELEC 1"}, "doesn't parse"),
        ({"sql": "SELECT 1", "rows": 1}, "rows is not one of"),
        ({"sql": "SELECT 1", "format": "xml"}, "there is no format"),
        ({"sql": "SELECT 1", "dialect": "mysql"}, "there is no dialect"),
        ({"sql": "SELECT 1", "dialect": []}, "there is no dialect"),
        ({"sql": "SELECT 1", "max_rows": "many"}, "max_rows"),
        ({"sql": "SELECT 1", "seconds": -1}, "seconds"),
        ({"sql": "SELECT * FROM read_text('/etc/passwd')", "dialect": "duckdb"}, "read_text"),
        ({"sql": "COPY (SELECT 1) TO 'x'"}, "only queries"),
    ],
)
def test_a_bad_request_is_a_400_that_says_why(
    vedette: RunningVedette, body: Any, said: str
) -> None:
    status, answer = post(vedette, body)
    assert status == 400
    assert said in answer["message"]
    assert "Traceback" not in str(answer)


def test_a_large_body_is_refused(vedette: RunningVedette) -> None:
    status, answer = post(vedette, {"sql": "SELECT 1", "dialect": "x" * (1 << 20)})
    assert status == 413
    assert "larger than 1 MiB" in answer["message"]
    status, answer = post(vedette, {"sql": f"SELECT '{'x' * 100_000}'"})
    assert status == 400
    assert "longer than 100,000 characters" in answer["message"]


def test_results_that_nobody_fetches_take_up_turns_not_more(vedette: RunningVedette) -> None:
    body = json.dumps({"sql": "SELECT repeat('x', 40000000) AS x", "dialect": "duckdb"}).encode()
    head = f"POST /api/sql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    place = urlsplit(vedette.url)
    with ExitStack() as stack:
        for _ in range(8):
            waiting = stack.enter_context(
                socket.create_connection((place.hostname or "", place.port or 0))
            )
            waiting.sendall(head.encode() + body)
        vedette.wait_until(lambda: post(vedette, {"sql": "SELECT 1"})[0] == 429)
        assert vedette.health()["status"] == "ok"
    vedette.wait_until(lambda: post(vedette, {"sql": "SELECT 1"})[0] == 200)


def test_another_site_s_form_is_refused(vedette: RunningVedette) -> None:
    headers = {"Content-Type": "text/plain"}
    assert post(vedette, {"sql": "SELECT 1"}, **headers)[0] == 400
    assert post(vedette, {"sql": "SELECT 1"}, Host="evil.example.com")[0] == 403


def test_a_query_that_takes_too_long_is_a_400_and_no_other_request_waits(
    vedette: RunningVedette,
) -> None:
    bomb = (
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 1"
    )
    body = {"sql": bomb, "dialect": "duckdb", "seconds": 2}
    status, answer = post(vedette, body)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "more than 2 s" in answer["message"]
    assert vedette.health()["status"] == "ok"


def test_vedette_sql_gives_an_arrow_table(named: str) -> None:
    table = public.sql(
        "SELECT attributes:`mlflow.spanInputs` AS inputs, time FROM main.default.mlflow_otel_spans"
        f" WHERE name = '{named}' ORDER BY 1"
    )
    assert isinstance(table, pa.Table)
    assert [json.loads(text)["number"] for text in table["inputs"].to_pylist()] == [0, 1, 2]
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")


def test_vedette_sql_warns_when_there_is_more(named: str) -> None:
    query = f"SELECT * FROM mlflow_otel_spans WHERE name = '{named}'"
    with pytest.warns(UserWarning, match="more than the 2 rows"):
        assert public.sql(query, max_rows=2).num_rows == 2


def test_vedette_sql_raises_what_is_wrong(named: str) -> None:
    with pytest.raises(MlflowException, match="there is no table") as error:
        public.sql("SELECT * FROM nowhere")
    assert error.value.error_code == "INVALID_PARAMETER_VALUE"


def test_sql_on_the_command_line(vedette: RunningVedette, named: str) -> None:
    query = (
        f"SELECT name, COUNT(*) AS n FROM mlflow_otel_spans WHERE name = '{named}' GROUP BY name"
    )
    code, out, err = run("sql", query, "--url", vedette.url)
    assert code == 0, err
    assert [line.split() for line in out.splitlines()] == [["name", "n"], [named, "3"]]
    code, out, _ = run("sql", query, "--json", "--url", vedette.url)
    assert json.loads(out)["rows"] == [[named, 3]]
    code, out, _ = run("sql", query, "--format", "csv", "--data", str(vedette.data))
    assert list(csv.reader(io.StringIO(out))) == [["name", "n"], [named, "3"]]


def test_sql_writes_parquet(vedette: RunningVedette, named: str) -> None:
    command = [sys.executable, "-m", "vedette", "sql", "-", "--format", "parquet"]
    query = f"SELECT * FROM mlflow_otel_spans WHERE name = '{named}'"
    done = subprocess.run(
        [*command, "--url", vedette.url], input=query.encode(), capture_output=True, check=True
    )
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 3


def test_sql_says_when_rows_are_left_out(vedette: RunningVedette, named: str) -> None:
    query = f"SELECT span_id FROM mlflow_otel_spans WHERE name = '{named}'"
    code, out, err = run("sql", query, "--max-rows", "1", "--url", vedette.url)
    assert (code, len(out.splitlines())) == (0, 2)
    assert "only the first 1 rows" in err


@pytest.mark.parametrize("place", ["server", "directory"])
def test_a_bad_query_is_one_line_and_exit_code_1(vedette: RunningVedette, place: str) -> None:
    where = ["--url", vedette.url] if place == "server" else ["--data", str(vedette.data)]
    code, _, err = run("sql", "SELECT * FROM nowhere", *where)
    assert code == 1
    assert err.startswith("vedette: there is no table nowhere")
    assert err.count("\n") == 1


def test_a_directory_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    code, _, err = run("sql", "SELECT 1", "--data", str(tmp_path / "nowhere"))
    assert code == 2
    assert "nowhere" in err


def test_recipes_are_listed_printed_and_run(vedette: RunningVedette, named: str) -> None:
    code, out, _ = run("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(recipes())
    assert "QUALIFY" not in run("recipes", "traces_per_hour", "--dialect", "spark")[1]
    assert "QUALIFY" in run("recipes", "traces_per_hour", "--dialect", "databricks")[1]
    code, out, err = run("recipes", "scores_by_day", "--json", "--url", vedette.url)
    assert code == 0, err
    (row,) = (row for row in json.loads(out)["rows"] if row[1] == named)
    assert row[2:] == [3, pytest.approx(2 / 3), pytest.approx(2 / 3), 0]


def test_an_unknown_recipe_is_exit_code_2() -> None:
    code, _, err = run("recipes", "trace_per_hour")
    assert code == 2
    assert "did you mean traces_per_hour?" in err


def test_views_are_printed_for_an_engine(tmp_path: Path) -> None:
    code, out, _ = run("views", "--dialect", "duckdb", "--data", str(tmp_path))
    assert code == 0
    assert f"delta_scan('{tmp_path}" in out


def test_every_recipe_runs_on_the_real_columns(vedette: RunningVedette, named: str) -> None:
    for one in recipes().values():
        status, answer = post(vedette, {"sql": one.sql})
        assert status == 200, f"{one.name}: {answer}"
