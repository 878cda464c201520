"""Which sandbox workers get: the strongest that can be had, and plain words where it can't."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from running import RunningVedette
from scoring_support import code, unit
from vedette.health import Health
from vedette.intake.journal import JournalWriter
from vedette.processes import write_state
from vedette.scoring.pool import WorkerPool
from vedette.scoring.sandbox import Sandbox, choose_sandbox, missing_for_isolation
from vedette.settings import Settings, SettingsError, load_settings

needs_namespaces = pytest.mark.skipif(
    missing_for_isolation() is not None, reason=str(missing_for_isolation())
)


def as_ordinary_user(code: str, **environment: str) -> str:
    """What the code prints when a user without privileges runs it."""
    script = Path(__file__).parent / "as_ordinary_user.py"
    command = [sys.executable, str(script), sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_namespaces
def test_the_strongest_is_the_default() -> None:
    assert choose_sandbox(None).state() == {"name": "container", "missing": None}
    for name in ("none", "process", "container"):
        assert choose_sandbox(name).state() == {"name": name, "missing": None}


@needs_namespaces
def test_an_ordinary_user_has_it_too() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\nprint(choose_sandbox(None))"
    )
    assert told == "Sandbox(name='container', hidden=(), missing=None)"


@needs_namespaces
def test_where_namespaces_are_refused_it_says_so_and_limits_remain() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\nprint(choose_sandbox(None))",
        NO_NAMESPACES="1",
    )
    assert told.startswith("Sandbox(name='process', hidden=()")
    assert "the kernel allows this user no user namespaces" in told


@needs_namespaces
def test_what_is_asked_for_and_cannot_be_had_is_refused() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\n"
        "try: choose_sandbox('container')\nexcept ValueError as error: print(error)",
        NO_NAMESPACES="1",
    )
    assert told.startswith("sandbox container can't be had here: the kernel allows this user no")
    assert "set sandbox to process" in told


@needs_namespaces
def test_vedette_does_not_start_with_a_sandbox_that_cannot_be_had() -> None:
    told = as_ordinary_user(
        "import subprocess, sys, tempfile\nwith tempfile.TemporaryDirectory() as data:\n"
        "  done = subprocess.run([sys.executable, '-m', 'vedette', 'up', '--data', data,"
        " '--sandbox', 'container'], capture_output=True, text=True)\n"
        "  print(done.returncode, done.stderr)",
        NO_NAMESPACES="1",
    )
    assert told.startswith("2 vedette: sandbox container can't be had here")
    assert len(told.splitlines()) == 1


def test_elsewhere_than_on_linux_there_are_limits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_sandbox(None).missing == "namespaces are Linux's, this is darwin"


def test_there_are_three() -> None:
    with pytest.raises(SettingsError, match="'process'"):
        load_settings({"sandbox": "jail"})


@needs_namespaces
def test_hidden_is_also_what_lies_among_pythons_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "package"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "file").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    sandbox = Sandbox("container", (tmp_path / "packages" / "data",))
    names = f"sorted(str(path) for path in Path({str(tmp_path)!r}).rglob('file'))"
    looks = code(f"from pathlib import Path\nreturn str({names})")
    pool = WorkerPool(tmp_path / "workers", sandbox)
    try:
        [outcome] = pool.submit(looks, [unit(1)]).result(120)
    finally:
        pool.close()
    assert json.loads(outcome.rows[0]["value"]) == f"['{tmp_path}/packages/package/file']"


def test_without_a_sandbox_there_are_no_limits_but_that_on_time(tmp_path: Path) -> None:
    kinds = "resource.RLIMIT_AS, resource.RLIMIT_FSIZE"
    limits = code(f"import resource\nreturn str([resource.getrlimit(one)[0] for one in ({kinds})])")
    endless = code("import time\ntime.sleep(60)", name="endless", timeout=0.5)
    pool = WorkerPool(tmp_path / "workers", Sandbox("none"))
    try:
        [outcome] = pool.submit(limits, [unit(1)]).result(120)
        [stopped] = pool.submit(endless, [unit(1)]).result(60)
    finally:
        pool.close()
    own = [resource.getrlimit(one)[0] for one in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    assert json.loads(outcome.rows[0]["value"]) == str(own)
    assert json.loads(stopped.rows[0]["error"])["error_code"] == "SCORER_TIMEOUT"


def test_health_tells_of_the_sandbox(vedette: RunningVedette) -> None:
    sandbox = vedette.health()["parts"]["workers"]["sandbox"]
    assert sandbox == choose_sandbox(None).state()


@pytest.mark.parametrize(("missing", "warned"), [("no namespaces", True), (None, False)])
def test_health_warns_of_less_than_the_strongest_but_all_is_well(
    tmp_path: Path, missing: str | None, warned: bool
) -> None:
    settings = Settings(data=tmp_path)
    sandbox = {"name": "process", "missing": missing}
    write_state(settings.run_dir / "engine.json", {"workers": {"sandbox": sandbox}})

    report = Health(settings, JournalWriter(tmp_path / "a journal")).report()

    assert report["parts"]["workers"]["sandbox"] == sandbox
    assert report["status"] == "ok"
    assert any("no namespaces" in warning for warning in report["warnings"]) == warned
