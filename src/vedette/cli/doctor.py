"""``vedette doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vedette.cli.settings_flags import takes_settings
from vedette.cli.terminal import FAILED, Json, fetch
from vedette.settings import LoadedSettings

app = typer.Typer()

_MARKS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}
_SECONDS = 300.0  # every recipe is run


@app.command()
@takes_settings
def doctor(
    loaded: LoadedSettings,
    url: Annotated[
        str | None,
        typer.Option(help="Have this server look at its machine. [default: look at this one]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a Vedette: the machine, its data directory, and how experiments are set up.

    Versions, disk, clock, the sandbox for scorers, control database, lake; scorers that were never
    started, can't run where they are run, bear another environment's name or select nothing; the
    scorer limit, cost and budgets, archives, and every recipe on the tables as they are. Each
    finding says what is wrong, where and what to do. Exits with 1 when a check fails; warnings
    alone are no failure.

    Example: `vedette doctor --data ./vedette-data --json`, or `vedette doctor --url http://host:5000`
    """
    found: list[dict[str, Any]] = []
    if url is not None:
        content, _ = fetch(url, "/api/doctor", seconds=_SECONDS)
        for finding in json.loads(content)["findings"]:
            found.append(finding)
            _tell(finding, quietly=as_json)
    else:
        from vedette.doctor import examine

        for one in examine(loaded.settings):
            found.append(asdict(one))
            _tell(found[-1], quietly=as_json)
    if as_json:
        print(json.dumps(found, indent=2))
    if any(finding["state"] == "failed" for finding in found):
        raise typer.Exit(FAILED)


def _tell(finding: dict[str, Any], *, quietly: bool) -> None:
    if quietly:
        return
    print(f"{_MARKS[finding['state']]}  {finding['check']}: {finding['message']}", flush=True)
    if finding["fix"]:
        print(f"         {finding['fix']}", flush=True)
