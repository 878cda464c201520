"""Scorers on a Vedette server through stock MLflow functions, with nothing set in the client."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import (
    ScorerSamplingConfig,
    delete_scorer,
    get_scorer,
    list_scorers,
    scorer,
)
from mlflow.genai.scorers.base import ScorerStatus
from mlflow.genai.scorers.registry import MlflowTrackingStore, list_scorer_versions

from running import RunningVedette
from vedette.client.detection import is_vedette
from vedette.client.plugin import scorer_store
from vedette.client.scorer_store import VedetteScorerStore


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


@scorer
def polite_session(session) -> bool:
    return len(session) > 0


pytestmark = pytest.mark.usefixtures("experiment")


@pytest.fixture(autouse=True)
def _without_a_flag() -> None:
    assert "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS" not in os.environ


def sampling(rate: float | None = None, filter_string: str | None = None) -> ScorerSamplingConfig:
    return ScorerSamplingConfig(sample_rate=rate, filter_string=filter_string)


def test_a_code_scorer_is_registered_started_updated_stopped_and_deleted_by_name() -> None:
    registered = brief.register()
    assert registered is not brief
    assert registered.status is ScorerStatus.STOPPED

    started = registered.start(sampling_config=sampling(0.5, "trace.status = 'OK'"))
    assert (started.sample_rate, started.filter_string) == (0.5, "trace.status = 'OK'")
    assert started.status is ScorerStatus.STARTED
    assert registered.sample_rate == 0.0  # every call returns a new instance

    faster = started.update(sampling_config=sampling(0.7))
    assert (faster.sample_rate, faster.filter_string) == (0.7, "trace.status = 'OK'")
    narrower = started.update(sampling_config=sampling(filter_string="tags.team = 'a'"))
    assert (narrower.sample_rate, narrower.filter_string) == (0.7, "tags.team = 'a'")
    unfiltered = narrower.update(sampling_config=sampling(filter_string=""))
    assert (unfiltered.sample_rate, unfiltered.filter_string) == (0.7, None)

    stopped = narrower.stop()
    assert (stopped.sample_rate, stopped.status) == (0.0, ScorerStatus.STOPPED)
    assert get_scorer(name="brief").status is ScorerStatus.STOPPED

    brief.register()
    assert [number for _, number in list_scorer_versions(name="brief")] == [1, 2]
    delete_scorer(name="brief")
    assert list_scorers() == []


def test_one_version_can_be_deleted() -> None:
    brief.register()
    brief.register()
    delete_scorer(name="brief", version=1)
    assert [number for _, number in list_scorer_versions(name="brief")] == [2]
    delete_scorer(name="brief", version="all")
    assert list_scorers() == []


def test_with_its_only_version_goes_the_scorer_and_its_rate() -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    delete_scorer(name="brief", version=started.scorer_version)
    assert list_scorers() == []
    again = brief.register()
    assert (again.scorer_version, again.status) == (1, ScorerStatus.STOPPED)


def test_handles_show_the_source_and_never_run_it() -> None:
    brief.register(name="short")
    (handle,) = list_scorers()
    assert handle.name == "short"
    assert "len(str(outputs)) < 100" in handle.source
    with pytest.raises(MlflowException, match="does not run it here"):
        handle(outputs="x")
    with pytest.raises(MlflowException, match="does not run it here"):
        handle.run(outputs="x")


def test_code_from_the_server_is_not_executed_even_when_mlflow_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS", "true")
    brief.register()
    with pytest.raises(MlflowException, match="does not run it here"):
        get_scorer(name="brief")(outputs="x")


def test_a_handle_can_be_registered_under_another_name() -> None:
    brief.register()
    get_scorer(name="brief").register(name="copy")
    assert {found.name for found in list_scorers()} == {"brief", "copy"}
    assert get_scorer(name="copy").source == get_scorer(name="brief").source


def test_session_scorers_stay_session_scorers() -> None:
    polite_session.register()
    assert get_scorer(name="polite_session").is_session_level_scorer


def test_a_server_that_is_not_vedette_gets_mlflows_own_store() -> None:
    class Plain(http.server.BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        for _ in range(3):
            assert type(scorer_store(tracking_uri=uri)) is MlflowTrackingStore
        assert Plain.asked == 1  # once per URI
        server.shutdown()
    unreachable = f"http://127.0.0.1:{server.server_port}/gone"
    assert not is_vedette(unreachable)


def test_vedette_is_recognised(vedette: RunningVedette) -> None:
    assert isinstance(scorer_store(tracking_uri=vedette.url), VedetteScorerStore)


def test_importing_mlflow_loads_the_plugins_without_a_word_and_without_a_server() -> None:
    code = """
import sys, json
import vedette.mlflow_app.plugin, vedette.client.plugin
assert "mlflow" not in sys.modules
import mlflow, mlflow.genai.scorers
from mlflow.tracking._tracking_service.utils import _tracking_store_registry
from mlflow.genai.scorers.registry import _scorer_store_registry
found = [_tracking_store_registry._registry["lakehouse"], _scorer_store_registry._registry["http"]]
print(json.dumps([one.__module__ for one in found] + ["mlflow.server" in sys.modules]))
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == ["vedette.mlflow_app.plugin", "vedette.client.plugin", False]
