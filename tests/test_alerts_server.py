"""Alerts over HTTP and from the command line, with a running Vedette."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import mlflow
import pytest
from mlflow.genai.scorers import scorer

from alerts_support import Receiver
from running import RunningVedette

LIVENESS = "liveness_zero_traces_15m"


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def call(vedette: RunningVedette, path: str, method: str = "GET", body: Any = None) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{vedette.url}/api/{path}",
        None if body is None else content,
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def refused(*arguments: Any) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as error:
        call(*arguments)
    return error.value.code, json.load(error.value)["message"]


def command(vedette: RunningVedette, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vedette", "alerts", *arguments, "--url", vedette.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_rule_from_the_command_line_and_its_test(
    vedette: RunningVedette, experiment: str, receiver: Receiver
) -> None:
    where = ("--experiment", experiment)
    added = command(vedette, "add", LIVENESS, *where, "--notify", receiver.url)
    assert added.returncode == 0, added.stderr
    tested = command(vedette, "test", LIVENESS, *where)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert [one["event"] for one in receiver.messages] == ["test"]
    rules = json.loads(command(vedette, "list", *where, "--json").stdout)
    assert [one["name"] for one in rules] == [LIVENESS]
    assert rules[0]["notify"] == [f"http://127.0.0.1:{receiver.port}/..."]
    shown = command(vedette, "show", LIVENESS, *where).stdout
    assert "test to http://127.0.0.1" in shown
    assert "taken" in shown
    silenced = command(vedette, "silence", "*", *where, "--for", "2h", "--comment", "deployment")
    assert silenced.returncode == 0, silenced.stderr
    assert "silent until" in command(vedette, "list", *where).stdout
    assert command(vedette, "silence", "*", *where, "--end").stdout.startswith("1 silences")
    acknowledged = command(vedette, "ack", LIVENESS, *where)
    assert acknowledged.returncode == 1
    assert "only what fires" in acknowledged.stderr
    assert command(vedette, "history", *where).returncode == 0
    assert command(vedette, "remove", LIVENESS, *where).returncode == 0
    assert command(vedette, "remove", LIVENESS, *where).returncode == 1
    assert call(vedette, f"alerts?experiment={experiment}") == {"alerts": []}


def test_a_rule_on_a_scorer_is_looked_at_by_the_engine(
    vedette: RunningVedette, experiment: str
) -> None:
    brief.register(name="brief")
    name = mlflow.get_experiment(experiment).name  # an experiment's name does as well
    path = f"alerts/{quote(name)}/brief_below_0_80_24h"
    put = call(vedette, path, "PUT", {"severity": "critical", "slice": "tags.team = 'a'"})
    assert (put["state"], put["severity"], put["renotify"]) == ("no_data", "critical", "24h")
    looked = vedette.wait_until(lambda: call(vedette, path)["evaluated_ms"], seconds=30)
    assert looked
    assert call(vedette, path)["why"] == "the scorer brief is not started"
    call(vedette, path, "DELETE")


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("doc_citation_below_0_80_24h", {}, "no scorer 'doc_citation' is registered"),
        ("liveness_zero_trace_15m", {}, "write it like liveness_zero_traces_15m"),
        (LIVENESS, {"severty": "critical"}, "did you mean severity?"),
        (LIVENESS, {"severity": "bad"}, "critical, warning, info"),
        (LIVENESS, {"notify": "https://example.org"}, "a list of URLs"),
        (LIVENESS, {"notify": ["nonsense"]}, "is no channel: write https://"),
        (LIVENESS, {"rollback": "slack://a/b/c"}, "http:// or https://"),
        (LIVENESS, {"renotify": "often"}, "write minutes, hours or days"),
        (LIVENESS, {"slice": "tags.a = 'b'"}, "can't look at a slice"),
        ("error_rate_above_0_05_1h", {"slice": "tags.a ="}, "can't be used"),
        ("error_rate_above_0_05_1h", {"slice": "span.content LIKE '%a%'"}, "too long"),
        ("error_rate_above_0_05_1h", {"minimum_effect": -1}, "0 or more"),
        ("error_rate_above_0_05_1h", {"bounds": [5, 1]}, r"[lowest, highest]"),
        (LIVENESS, [1], "a rule is an object"),
        (LIVENESS, b"{", "not JSON"),
        ("*", {"condition": LIVENESS}, "name"),
    ],
)
def test_a_bad_rule_is_refused_with_what_to_write(
    vedette: RunningVedette, experiment: str, name: str, body: Any, told: str
) -> None:
    status, message = refused(vedette, f"alerts/{experiment}/{quote(name)}", "PUT", body)
    assert (status, told in message) == (400, True), message
    assert call(vedette, f"alerts?experiment={experiment}") == {"alerts": []}


def test_an_id_is_not_taken_for_the_name_of_another_experiment(
    vedette: RunningVedette, experiment: str
) -> None:
    other = mlflow.create_experiment(experiment)  # its name is the id of the first
    call(vedette, f"alerts/{experiment}/{LIVENESS}", "PUT", {})
    listed = call(vedette, f"alerts?experiment={experiment}")["alerts"]
    assert [one["experiment_id"] for one in listed] == [experiment]
    assert call(vedette, f"alerts?experiment={other}") == {"alerts": []}
    call(vedette, f"alerts/{experiment}/{LIVENESS}", "DELETE")


def test_what_is_not_there_is_answered_so(vedette: RunningVedette, experiment: str) -> None:
    for path, method, body in (
        ("alerts/no-such/x", "GET", None),
        ("alerts/99999999999/x", "GET", None),
        (f"alerts/{experiment}/x", "GET", None),
        (f"alerts/{experiment}/x", "DELETE", None),
        (f"alert-test/{experiment}/x", "POST", {}),
        (f"alert-silence/{experiment}/x", "POST", {"for": "2h"}),
    ):
        status, message = refused(vedette, path, method, body)
        assert (status, "there is no" in message or "No Experiment" in message) == (404, True)
    status, message = refused(vedette, f"alert-silence/{experiment}/*", "POST", {"for": "2 h"})
    assert (status, "write minutes" in message) == (400, True)
    wrong = {"for": "2h", "from": "tomorrow"}
    status, message = refused(vedette, f"alert-silence/{experiment}/*", "POST", wrong)
    assert (status, "a time such as" in message) == (400, True)
    status, _ = refused(vedette, f"alert-history/{experiment}?limit=x")
    assert status == 400
