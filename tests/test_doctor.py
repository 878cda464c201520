"""`vedette doctor`: each check finds what is wrong, and says what to do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lake_support import JOURNAL, numbered_segment
from running import RunningVedette
from test_cli import run
from vedette import doctor
from vedette.doctor import examine
from vedette.findings import Finding
from vedette.lake.table import Lake
from vedette.settings import Settings


def found(check: str, settings: Settings) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.check == check]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", port=1)


def test_a_sound_place_fails_nothing_and_is_left_as_it_was(settings: Settings) -> None:
    findings = list(examine(settings))
    assert {finding.check for finding in findings} >= {
        *("versions", "data directory", "disk", "clock", "sandbox", "control database"),
        *("lake", "server", "handles", "recipes"),
    }
    assert [finding for finding in findings if finding.state == "failed"] == []
    assert not settings.data.exists()


def test_a_library_of_another_version_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["mlflow<3", "no-such-library", "x; extra == 'dev'"]
    )
    [finding] = found("versions", settings)
    assert finding.state == "failed"
    assert "not <3" in finding.message
    assert "no-such-library none" in finding.message


def test_a_data_directory_that_is_a_file_fails(settings: Settings) -> None:
    settings.data.write_text("")
    [finding] = found("data directory", settings)
    assert finding.state == "failed"
    assert "--data" in finding.fix


def test_a_disk_too_small_for_the_journal_is_told(tmp_path: Path) -> None:
    [finding] = found("disk", Settings(data=tmp_path, journal_max_bytes="1000TiB"))
    assert (finding.state, "--journal-max-bytes" in finding.fix) == ("warning", True)


def test_a_clock_that_was_put_back_is_told(settings: Settings) -> None:
    settings.server_journal.mkdir(parents=True)
    (settings.server_journal / "clock").write_text(str(int((time.time() + 600) * 1e6)))
    [finding] = found("clock", settings)
    assert finding.state == "warning"
    assert "put back" in finding.message


def test_a_sandbox_that_is_off_or_impossible_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "missing_for_isolation", lambda: None)
    states = [found("sandbox", Settings(data=tmp_path))[0].state]
    states.append(found("sandbox", Settings(data=tmp_path, sandbox="none"))[0].state)
    monkeypatch.setattr(doctor, "missing_for_isolation", lambda: "no namespaces")
    states.append(found("sandbox", Settings(data=tmp_path))[0].state)
    [finding] = found("sandbox", Settings(data=tmp_path, sandbox="container"))
    assert [*states, finding.state] == ["ok", "warning", "warning", "failed"]
    assert "no namespaces" in finding.fix


def test_a_database_that_cannot_be_reached_hides_its_password(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"not a database" * 100)
    for uri in (None, "postgresql://me:hunter2@127.0.0.1:1/x"):
        [finding] = found("control database", Settings(data=tmp_path, backend_store_uri=uri))
        assert finding.state == "failed"
        assert "hunter2" not in finding.message


def test_a_lake_that_is_gone_fails(settings: Settings) -> None:
    settings.lake_state.mkdir(parents=True)
    (settings.lake_state / "mlflow_otel_spans.table").write_text(
        f"{settings.lake_uri}/main/default/mlflow_otel_spans\nan id\n"
    )
    [finding] = found("lake", settings)
    assert finding.state == "failed"
    assert "is gone" in finding.message


@pytest.mark.parametrize("noted", ["", "\0" * 80, "an id"])
def test_a_lake_of_which_a_power_cut_has_taken_the_note_is_a_new_one(
    settings: Settings, noted: str
) -> None:
    settings.lake_state.mkdir(parents=True)
    (settings.lake_state / "mlflow_otel_spans.table").write_text(noted)
    [finding] = found("lake", settings)
    assert finding.state == "ok"


def test_a_commit_that_is_not_whole_is_told_and_left_to_the_engine(settings: Settings) -> None:
    table = Lake(settings.lake_uri, settings.lake_state).spans
    for segment in (1, 2):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    log = Path(table.storage.uri) / "_delta_log"
    (log / f"{2:020}.json").write_text('{"commitInfo":')
    before = sorted(log.iterdir())
    [finding] = found("lake", settings)
    assert finding.state == "failed"
    assert "engine" in finding.fix
    assert sorted(log.iterdir()) == before


def test_a_running_server_is_asked(vedette: RunningVedette) -> None:
    code, out, err = run("doctor", "--json", "--port", vedette.url.rpartition(":")[2])
    assert code == 0, err
    [server, *_] = [one for one in json.loads(out) if one["check"] == "server"]
    assert server["state"] == "ok"
    assert vedette.url in server["message"]


def test_a_failed_check_is_exit_code_1_and_its_fix_is_printed(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    code, out, _ = run("doctor", "--port=1", f"--data={tmp_path / 'data'}")
    assert code == 1
    assert "FAILED   data directory" in out
    assert "--data" in out
