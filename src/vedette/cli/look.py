"""The commands that need no server: they look at settings and at source files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vedette.cli.settings_flags import shown, takes_settings
from vedette.cli.terminal import FAILED, USAGE, Json, fail, print_rows
from vedette.settings import LoadedSettings, Settings, env_name, flag_name

app = typer.Typer()


@app.command()
@takes_settings
def config(loaded: LoadedSettings, as_json: Json = False) -> None:
    """Print every setting, its value and where the value came from.

    A flag wins over an environment variable (`VEDETTE_PORT`), that over the file, that over the
    default.

    Example: `VEDETTE_PORT=5001 vedette config`
    """
    values = dict(loaded.settings)
    if as_json:
        print(json.dumps({name: _described(name, values, loaded) for name in values}, indent=2))
        return
    rows = [("setting", "value", "from")]
    for name, value in values.items():
        rows.append((name, "" if value is None else shown(value), loaded.origins[name]))
    print_rows(rows)


def _described(name: str, values: dict[str, Any], loaded: LoadedSettings) -> dict[str, Any]:
    value = values[name]
    return {
        "value": value if value is None or isinstance(value, int | float) else shown(value),
        "origin": loaded.origins[name],
        "flag": flag_name(name),
        "environment": env_name(name),
        "description": Settings.model_fields[name].description,
    }


@app.command()
def lint(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Python source files."),
    ],
    as_json: Json = False,
) -> None:
    """Find what goes wrong with scorers before they are registered, without running anything.

    Scorers that use a name from outside their function (they are stored as text and run
    elsewhere); handles that `start()` returned and nobody kept; registration inside request
    handlers; dates written into filters. Exits with 1 when something is found.

    Example: `vedette lint scorers.py agent.py`
    """
    from vedette.client.lint import lint as findings_in

    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{file}: cannot be read: {error}", USAGE)
        found += [(file, one) for one in findings_in(text, file)]
    if as_json:
        print(json.dumps([{"file": str(file), **asdict(one)} for file, one in found], indent=2))
    else:
        for file, one in found:
            print(f"{file}:{one.line}:{one.column}: {one.code}: {one.message}; {one.fix}")
        print(f"{len(found)} found in {len(files)} file{'s' if len(files) > 1 else ''}")
    if found:
        raise typer.Exit(FAILED)
