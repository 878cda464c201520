"""Backfills as users ask for them: Python, the command line, HTTP."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import datetime, timedelta
from typing import Any
from urllib.error import HTTPError

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import scorer

import vedette as public
from running import RunningVedette
from test_cli import run
from vedette.scoring.sample import draw


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


@scorer
def picky(outputs) -> bool:
    raise ValueError("I like nothing")


def answer(number: int) -> int:
    return number


def send(vedette: RunningVedette, count: int) -> list[str]:
    """Traces that are complete."""
    traced = mlflow.trace(answer)
    sent = []
    for number in range(count):
        traced(number)
        sent.append(mlflow.get_last_active_trace_id())
    mlflow.flush_trace_async_logging()
    vedette.wait_until(lambda: len(mlflow.search_traces(return_type="list")) == count)
    time.sleep(2.5)  # trace_completion_buffer is 1 s here
    return sent


def ended(vedette: RunningVedette, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = public.get_backfill(job)
        return found if found["state"] in ("done", "cancelled", "stopped") else None

    return vedette.wait_until(look)


def post(vedette: RunningVedette, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{vedette.url}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def test_history_is_scored_by_one_call(vedette: RunningVedette, experiment: str) -> None:
    brief.register(name="brief")
    picky.register(name="picky")
    sent = send(vedette, 30)
    config = public.BackfillScorerConfig
    wanted = [config("brief", 0.5), config("picky", 0.2)]
    chosen = {trace for trace in sent if draw(trace) < 0.5}
    (told, _) = public.backfill_scorers(scorers=wanted, dry_run=True)
    assert (told["units"], told["selected"], told["calls"]) == (30, len(chosen), 0)
    assert public.list_backfills(experiment) == []

    job = public.backfill_scorers(scorers=wanted)
    found = ended(vedette, job)
    assert found["state"] == "done"
    first, second = found["scorers"]
    assert (first["units"], first["decided"], first["scored"]) == (30, 30, len(chosen))
    assert second["failed"] == sum(draw(trace) < 0.2 for trace in sent) == len(found["failures"])
    assert all("I like nothing" in one["error"] for one in found["failures"])
    traces = mlflow.search_traces(return_type="list")
    scored = {
        one.info.trace_id
        for one in traces
        if any(score.name == "brief" for score in one.info.assessments)
    }
    assert scored == chosen
    assert [one["job"] for one in public.list_backfills(experiment)] == [job]

    code, out, err = run("explain", next(iter(chosen)), "--url", vedette.url)
    assert code == 0, err
    assert f"in backfill {job}" in out


def test_the_command_line_follows_lists_and_shows(vedette: RunningVedette, experiment: str) -> None:
    brief.register(name="brief")
    send(vedette, 5)
    flags = ("--experiment", experiment, "--url", vedette.url)
    begin = ("backfill", "brief", "--rate", "1", "--start", "1h", *flags)
    code, out, err = run(*begin, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["selected"] == 5
    code, out, err = run(*begin, "--follow", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["state"], told["scorers"][0]["scored"]) == ("done", 5)
    code, out, err = run("backfills", *flags)
    assert code == 0, err
    assert told["job"] in out
    code, out, err = run("backfills", told["job"], "--cancel", "--url", vedette.url)
    assert code == 0, err
    assert "done" in out  # what is done can't be cancelled any more
    code, _, err = run("backfill", "brief", "--start", "yesterday", *flags)
    assert (code, "is no time" in err) == (2, True)
    code, _, err = run("backfill", "breif", *flags)
    assert (code, "Did you mean 'brief'?" in err) == (1, True)


def test_what_is_wrong_is_a_value_error_that_says_what_there_is(
    vedette: RunningVedette, experiment: str
) -> None:
    brief.register(name="brief")
    config = public.BackfillScorerConfig
    now = datetime.now()
    for wrong, options in (
        ("list of names, or one of", {"scorers": ["brief", config("brief")]}),
        ("list of names, or one of", {"scorers": "brief"}),
        ("list of names, or one of", {"scorers": [brief]}),
        ("list of names, or one of", {"scorers": [config("brief"), brief]}),
        ("Name at least one scorer", {"scorers": []}),
        ("must be a scorer or its name, not 3", {"scorers": [config(3)]}),
        ("above 0 and at most 1", {"scorers": [config("brief", "1")]}),
        ("Registered: brief", {"scorers": [config("other", 1.0)]}),
        ("above 0 and at most 1", {"scorers": [config("brief", float("nan"))]}),
        ("not started", {"scorers": ["brief"]}),
        (
            "window is empty",
            {
                "scorers": [config("brief", 1.0)],
                "start_time": now,
                "end_time": now - timedelta(hours=1),
            },
        ),
    ):
        with pytest.raises(ValueError, match=wrong):
            public.backfill_scorers(experiment_id=experiment, **options)
    with pytest.raises(MlflowException, match="There is no backfill"):
        public.get_backfill("bf-none")
    assert public.list_backfills(experiment) == []


@pytest.mark.parametrize(
    "change",
    [
        {"experiment_id": 1},
        {"experiment_id": "no"},
        {"experiment_id": "987654321"},
        {"scorers": "brief"},
        {"scorers": [{"name": 1}]},
        {"scorers": [{"name": "brief", "rate": 1}]},
        {"scorers": [{"name": "brief", "sample_rate": "1"}]},
        {"start_time_ms": "yesterday"},
        {"start_time_ms": 10**30},
        {"end_time_ms": True},
        {"rescore": "yes"},
        {"colour": "red"},
    ],
)
def test_bad_requests_change_nothing(
    vedette: RunningVedette, experiment: str, change: dict[str, Any]
) -> None:
    brief.register(name="brief")
    body = {"experiment_id": experiment, "scorers": [{"name": "brief", "sample_rate": 1.0}]}
    status, told = post(vedette, "/api/backfills", {**body, **change})
    assert status in (400, 404)
    assert "Traceback" not in told["message"]
    assert public.list_backfills(experiment) == []
