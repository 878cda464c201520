"""Which sandbox workers get: the strongest that can be had, and plain words where it can't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vedette.health import Health
from vedette.processes import write_state
from vedette.scoring.sandbox import choose_sandbox, missing_for_isolation
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
    assert choose_sandbox(None).state() == {"name": "process", "missing": None}
    assert choose_sandbox("process").name == "process"


@needs_namespaces
def test_an_ordinary_user_has_it_too() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\nprint(choose_sandbox(None))"
    )
    assert told == "Sandbox(name='process', hidden=(), missing=None)"


@needs_namespaces
def test_where_namespaces_are_refused_it_says_so_and_limits_remain() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\nprint(choose_sandbox(None))",
        NO_NAMESPACES="1",
    )
    assert told.startswith("Sandbox(name='none', hidden=()")
    assert "the kernel allows this user no user namespaces" in told


@needs_namespaces
def test_what_is_asked_for_and_cannot_be_had_is_refused() -> None:
    told = as_ordinary_user(
        "from vedette.scoring.sandbox import choose_sandbox\n"
        "try: choose_sandbox('process')\nexcept ValueError as error: print(error)",
        NO_NAMESPACES="1",
    )
    assert told.startswith("sandbox process can't be had here: the kernel allows this user no")
    assert "set sandbox to none" in told


def test_elsewhere_than_on_linux_there_are_limits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_sandbox(None).missing == "namespaces are Linux's, this is darwin"


def test_containers_are_not_offered() -> None:
    with pytest.raises(SettingsError, match=r"flag --sandbox: 'container': .*not available"):
        load_settings({"sandbox": "container"})
    with pytest.raises(SettingsError, match="'process'"):
        load_settings({"sandbox": "jail"})


@pytest.mark.parametrize(("missing", "warned"), [("no namespaces", True), (None, False)])
def test_health_warns_of_less_than_the_strongest_but_all_is_well(
    tmp_path: Path, missing: str | None, warned: bool
) -> None:
    settings = Settings(data=tmp_path)
    sandbox = {"name": "none", "missing": missing}
    write_state(settings.run_dir / "engine.json", {"workers": {"sandbox": sandbox}})

    report = Health(settings).report()

    assert report["parts"]["workers"]["sandbox"] == sandbox
    assert report["status"] == "ok"
    assert any("no namespaces" in warning for warning in report["warnings"]) == warned
