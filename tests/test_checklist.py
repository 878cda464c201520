"""`vedette doctor` on how experiments are set up: findings name what, where, and what to do."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.genai.scorers import scorer

from lake_support import JOURNAL, numbered_segment
from running import RunningVedette
from test_cli import run
from vedette import checklist
from vedette.archive.setting import ARCHIVAL_TAG
from vedette.checklist import check_setup
from vedette.findings import Finding
from vedette.lake.recipes import Recipe
from vedette.lake.row_tables import table_of
from vedette.lake.table import Lake
from vedette.processes import write_state
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

CODE = {
    "name": "x",
    "call_source": "return len(str(outputs)) > 3",
    "call_signature": "(outputs)",
    "original_func_name": "x",
}
JUDGE = {"name": "x", "builtin_scorer_class": "Safety", "builtin_scorer_pydantic_data": {}}
HOUR_MS = 3_600_000


class Place:
    """A data directory with MLflow's tables as far as the checklist reads them."""

    def __init__(self, data: Path, **settings: Any) -> None:
        data.mkdir()
        self.settings = Settings(data=data, port=1, **settings)
        self._execute(
            "CREATE TABLE experiments (experiment_id, name, lifecycle_stage)",
            "CREATE TABLE experiment_tags (experiment_id, key, value)",
            "CREATE TABLE scorers (scorer_id, experiment_id, scorer_name)",
            "CREATE TABLE scorer_versions (scorer_id, scorer_version, serialized_scorer)",
            "CREATE TABLE online_scoring_configs (scorer_id, sample_rate)",
        )

    def _execute(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        with closing(sqlite3.connect(self.settings.data / "control.db")) as control, control:
            for statement in statements:
                control.execute(statement, values)

    def experiment(self, experiment_id: str, name: str) -> None:
        values = (experiment_id, name)
        self._execute("INSERT INTO experiments VALUES (?, ?, 'active')", values=values)

    def tag(self, experiment_id: str, key: str, value: Any) -> None:
        values = (experiment_id, key, json.dumps(value))
        self._execute("INSERT INTO experiment_tags VALUES (?, ?, ?)", values=values)

    def scorer(
        self, experiment_id: str, name: str, rate: float | None, definition: Any = CODE
    ) -> None:
        key = f"{experiment_id}-{name}"
        self._execute("INSERT INTO scorers VALUES (?, ?, ?)", values=(key, experiment_id, name))
        for version, text in ((1, "{}"), (2, json.dumps(definition))):
            values = (key, version, text)
            self._execute("INSERT INTO scorer_versions VALUES (?, ?, ?)", values=values)
        if rate is not None:
            values = (key, rate)
            self._execute("INSERT INTO online_scoring_configs VALUES (?, ?)", values=values)

    def wrong(self, check: str) -> list[Finding]:
        """What is wrong, by one check; it has found something, or said that all is well."""
        found = [one for one in check_setup(self.settings) if one.check == check]
        assert found
        wrong = [one for one in found if one.state != "ok"]
        assert all(one.fix for one in wrong)
        return wrong


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "data")
    place.experiment("1", "support-prod")
    return place


def test_a_directory_that_was_never_used_has_nothing_wrong(tmp_path: Path) -> None:
    found = list(check_setup(Settings(data=tmp_path / "data")))
    assert {one.check for one in found} == {
        *("handles", "self-contained scorers", "names by environment", "scorer limit"),
        *("rates and cost", "unused scorers", "location", "archival", "recipes"),
    }
    assert {one.state for one in found} == {"ok"}
    assert not (tmp_path / "data").exists()


def test_a_scorer_that_was_never_started_and_one_that_was_stopped(place: Place) -> None:
    place.scorer("1", "dropped", None)
    place.scorer("1", "stopped", 0.0)
    place.scorer("1", "runs", 0.5)
    [never] = place.wrong("handles")
    assert "dropped of experiment 1 (support-prod)" in never.message
    assert "x = x.start(" in never.fix
    [unused] = place.wrong("unused scorers")
    assert "stopped of experiment 1" in unused.message


def test_a_scorer_that_selects_nothing_is_unused(place: Place) -> None:
    for name in ("never", "sometimes", "long_ago"):
        place.scorer("1", name, 0.5)
    now_ms = int(time.time() * 1000)
    rows = [
        ("1/never", 1, -1, now_ms - HOUR_MS, "filtered", 500),
        ("1/sometimes", 1, -1, now_ms - HOUR_MS, "not_selected", 500),
        ("1/sometimes", 1, -1, now_ms - HOUR_MS, "scored", 1),
        ("1/long_ago", 1, -1, now_ms - 30 * 24 * HOUR_MS, "filtered", 500),
    ]
    index = TraceIndex(place.settings.index_path).connection()
    index.executemany("INSERT INTO decision_counts VALUES (?, ?, ?, ?, ?, ?)", rows)
    [unused] = place.wrong("unused scorers")
    assert "never of experiment 1 (support-prod) selected none of 500" in unused.message


def test_stored_code_that_cannot_run_is_named_with_its_line(place: Place) -> None:
    body = "import no_such_library\nreturn helper(outputs)"
    place.scorer("1", "lost", 0.5, {**CODE, "call_source": body})
    place.scorer("1", "sound", 0.5)
    place.scorer("1", "lost_but_stopped", 0.0, {**CODE, "call_source": "return helper(outputs)"})
    found = place.wrong("self-contained scorers")
    told = {(one.state, one.message) for one in found}
    assert len(told) == 3
    assert ("failed", "lost of experiment 1 (support-prod), line 1 of its body: ") in {
        (state, message[: message.index("body: ") + 6]) for state, message in told
    }
    assert any("helper" in message and state == "failed" for state, message in told)
    assert any("lost_but_stopped" in message for state, message in told if state == "warning")
    assert any("no_such_library" in message for _, message in told)


def test_names_that_mean_two_environments(place: Place) -> None:
    place.experiment("2", "support (dev)")
    place.experiment("3", "developers' corner")  # no environment
    place.scorer("1", "dev_exact", 0.5)
    place.scorer("1", "prod_exact", 0.5)
    for experiment in ("1", "2", "3"):
        place.scorer(experiment, "tone", 0.5)
    wrong, doubled = place.wrong("names by environment")
    assert "dev_exact of experiment 1" in wrong.message
    assert "tone is registered in dev and prod" in doubled.message


def test_the_scorer_limit(tmp_path: Path) -> None:
    place = Place(tmp_path / "data", max_active_scorers=2)
    for experiment, started in (("1", 2), ("2", 1)):
        place.experiment(experiment, f"e{experiment}")
        for number in range(started):
            place.scorer(experiment, f"s{number}", 0.5)
        place.scorer(experiment, "stopped", 0.0)
    [full] = place.wrong("scorer limit")
    assert "experiment 1 (e1) has 2 started scorers, of at most 2" in full.message


def test_judges_without_a_budget_or_near_it(tmp_path: Path) -> None:
    yesterday = int(time.time() // 86_400) - 1
    for budget, own, wrong in (
        (None, False, 1),
        (None, True, 0),
        (100.0, False, 0),
        (9.0, False, 1),
    ):
        data = tmp_path / f"{budget}-{own}"
        place = Place(data, budget_dollars_per_day=budget)
        place.experiment("1", "e")
        place.scorer("1", "code", 1.0)
        assert place.wrong("rates and cost") == []
        place.scorer("1", "safety", 0.8, JUDGE)
        if own:
            place.tag("1", "vedette.scoring_budget.safety", {"dollars_per_day": 5})
        index = TraceIndex(place.settings.index_path).connection()
        values = ("1/safety", yesterday, 40, 1, 1, 8.5)
        index.execute("INSERT INTO scorer_costs VALUES (?, ?, ?, ?, ?, ?)", values)
        found = place.wrong("rates and cost")
        assert len(found) == wrong, (budget, own)
        assert all("$8.50 (safety at 0.8)" in one.message for one in found)


def test_what_is_scored_and_not_archived_or_badly(place: Place) -> None:
    place.scorer("1", "runs", 0.5)
    [missing] = place.wrong("archival")
    assert "vedette archive enable" in missing.fix
    assert "--experiment 1" in missing.fix
    place.tag("1", ARCHIVAL_TAG, {"delta_table_fullname": "main.quality.traces"})
    assert place.wrong("archival") == []
    told = {"archival": {"archives": {"1": {"error": "the disk is full"}}}}
    place.settings.run_dir.mkdir()
    write_state(place.settings.run_dir / "engine.json", told)
    [failing] = place.wrong("archival")
    assert (failing.state, "the disk is full" in failing.message) == ("failed", True)


def test_every_recipe_is_run_on_the_tables_as_they_are(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(place.settings.lake_uri, place.settings.lake_state)
    lake.spans.append_segment(JOURNAL, 1, numbered_segment(1))
    for table in lake.folded[1:]:
        table.append_segment(JOURNAL, 1, table_of([], table.spec.schema), {"x": 1})
    assert place.wrong("recipes") == []
    broken = Recipe("broken", "?", "SELECT no_such_column FROM main.default.mlflow_otel_spans")
    monkeypatch.setattr(checklist, "recipes", lambda: {"broken": broken})
    [failing] = place.wrong("recipes")
    assert failing.state == "failed"
    assert failing.message.startswith("broken: ")
    assert "no_such_column" in failing.message


def test_traces_without_a_table_are_told(place: Place) -> None:
    index = TraceIndex(place.settings.index_path).connection()
    index.execute(
        "INSERT INTO traces (trace_id, experiment_id, timestamp_ms, status, finalized, has_root, "
        "span_count, first_received_ms, last_received_ms) "
        "VALUES ('tr-1', 1, 0, 'OK', 1, 1, 1, 0, 0)"
    )
    [finding] = place.wrong("location")
    assert "there is no table" in finding.message


def test_a_server_looks_at_its_own_machine(vedette: RunningVedette, experiment: str) -> None:
    @scorer
    def never_started(outputs: Any) -> bool:
        return bool(outputs)

    never_started.register(name="never_started", experiment_id=experiment)
    with mlflow.start_span("agent"):
        pass
    code, out, err = run("doctor", "--url", vedette.url, "--json")
    assert code == 0, out + err
    found = json.loads(out)
    [server] = [one for one in found if one["check"] == "server" and one["state"] == "ok"]
    assert vedette.url in server["message"]
    assert any(
        one["check"] == "handles" and f"never_started of experiment {experiment}" in one["message"]
        for one in found
    )
    assert "warning  handles: never_started" in run("doctor", "--url", vedette.url)[1]
    assert run("doctor", "--url", "http://127.0.0.1:1")[0] == 3
