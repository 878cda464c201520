"""``vedette doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from vedette.cli.settings_flags import takes_settings
from vedette.cli.terminal import FAILED, Json
from vedette.settings import LoadedSettings

app = typer.Typer()

_MARKS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


@app.command()
@takes_settings
def doctor(loaded: LoadedSettings, as_json: Json = False) -> None:
    """Look whether this machine and data directory are fit for Vedette, and say what to do.

    Versions, data directory, disk, clock, sandbox for scorers, control database, lake, and what a
    running server warns of. Exits with 1 when a check fails; warnings alone are no failure.

    Example: `vedette doctor --data ./vedette-data --json`
    """
    from vedette.doctor import examine

    findings = []
    for finding in examine(loaded.settings):
        findings.append(finding)
        if not as_json:
            print(f"{_MARKS[finding.state]}  {finding.check}: {finding.message}", flush=True)
            if finding.fix:
                print(f"         {finding.fix}", flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(FAILED)
