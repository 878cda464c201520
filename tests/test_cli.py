"""The command line as a user meets it: help, exit codes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from running import RunningVedette, free_port
from vedette.settings import Settings

COMMANDS = ("up", "server", "engine", "status", "config", "lint", "doctor", "demo")
COMMANDS += ("sql", "recipes", "views", "backfill", "backfills", "delete")


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vedette", *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_help_names_every_command_and_the_exit_codes() -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in out
    assert "Exit codes" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"vedette {command}" in out.split("Example", 1)[1]


def test_up_has_a_flag_for_every_setting() -> None:
    _, out, _ = run("up", "--help")
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in out


def test_config_tells_each_value_and_its_origin(tmp_path: Path) -> None:
    code, out, _ = run(
        "config", "--json", "--port", "7", cwd=tmp_path, VEDETTE_MAX_BODY_BYTES="1MiB"
    )
    told = json.loads(out)
    assert code == 0
    assert set(told) == set(Settings.model_fields)
    assert (told["port"]["value"], told["port"]["origin"]) == (7, "flag --port")
    assert told["max_body_bytes"]["value"] == 1024 * 1024
    assert told["max_body_bytes"]["origin"] == "environment VEDETTE_MAX_BODY_BYTES"


def test_config_hides_the_password_of_the_database() -> None:
    for arguments in (["config"], ["config", "--json"]):
        _, out, _ = run(*arguments, VEDETTE_BACKEND_STORE_URI="postgresql://me:secret@db/x")
        assert "postgresql://me:***@db/x" in out
        assert "secret" not in out


def test_a_wrong_setting_is_one_line_and_exit_code_2() -> None:
    code, _, err = run("up", "--port", "high")
    assert code == 2
    assert err.startswith("vedette: flag --port: 'high'")
    assert err.count("\n") == 1


def test_an_unknown_flag_is_exit_code_2() -> None:
    assert run("up", "--prot", "1")[0] == 2


def test_status_of_nothing_is_exit_code_3() -> None:
    code, _, err = run("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert code == 3
    assert "vedette up" in err


def test_status_of_a_running_vedette(vedette: RunningVedette) -> None:
    code, out, err = run("status", "--json", VEDETTE_URL=vedette.url)
    assert code == 0, err
    assert json.loads(out)["parts"]["engine"]["state"] == "running"
    assert "engine" in run("status", "--url", vedette.url)[1]


def test_importing_vedette_is_light() -> None:
    heavy = "{'mlflow', 'pandas', 'pyarrow', 'duckdb', 'fastapi', 'deltalake', 'nicegui'}"
    code = f"import sys, vedette, vedette.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_explain_tells_all_of_a_decision_in_one_line(tmp_path: Path) -> None:
    details = {"attempts": 3, "cost_usd": 0.0012, "worker": "pid 4711"}
    details |= {"completed_ms": 1_764_000_000_000, "decided_ms": 1_764_000_060_000}
    scored = {"scorer": "nice", "unit_type": "trace", "text": "scored\nby version 2"}
    waits = {"scorer": "turns", "unit_type": "session", "text": "waiting: why", "details": {}}
    answer = {"trace_id": "tr-1", "scorers": [{**scored, "details": details}, waits]}
    (tmp_path / "api" / "explain").mkdir(parents=True)
    (tmp_path / "api" / "explain" / "tr-1").write_text(json.dumps(answer))
    files = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, out, _ = run("explain", "tr-1", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()

    assert code == 0
    assert out.splitlines() == [
        "nice   trace    scored by version 2 | attempts: 3 | $0.0012 | pid 4711"
        " | complete 2025-11-24 16:00:00 UTC | decided 2025-11-24 16:01:00 UTC",
        "turns  session  waiting: why",
    ]
