"""``vedette maintain``."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from vedette.cli.settings_flags import takes_settings
from vedette.cli.terminal import FAILED, Json, fail, print_rows
from vedette.processes import exclusive_lock
from vedette.settings import LoadedSettings

app = typer.Typer()


@app.command()
@takes_settings
def maintain(loaded: LoadedSettings, as_json: Json = False) -> None:
    """Put the tables in order now: merge small files, delete what is old, shorten the logs.

    A running engine does all this by itself; do it by hand before you copy a lake, or where no
    engine runs. It needs no server and is safe beside one. Vedette's own tables come first, then
    the archives, each by its own policy (see `vedette archive enable --help`). Exits with 1 when a
    table could not be maintained; the others are.

    Example: `vedette maintain --data ./vedette-data`
    """
    from vedette.maintain import maintain as maintained
    from vedette.scoring.active import ControlUnavailable

    settings = loaded.settings
    if not settings.data.is_dir():
        fail(f"there is no data directory {settings.data}; name one with --data", FAILED)
    with exclusive_lock(settings.run_dir / "maintain.lock", "vedette maintain"):
        try:
            done = list(maintained(settings))
        except ControlUnavailable as error:
            fail(str(error), FAILED)
    if as_json:
        print(json.dumps([asdict(one) for one in done], indent=2))
    else:
        rows: list[tuple[str, ...]] = [("table", "files", "size", "deleted", "")]
        for one in done:
            rows.append(
                (
                    one.table,
                    f"{one.files_before} -> {one.files_after}",
                    f"{one.bytes_before / 1e6:.1f} -> {one.bytes_after / 1e6:.1f} MB",
                    str(one.deleted),
                    one.error or "",
                )
            )
        print_rows(rows)
    if any(one.error for one in done):
        raise typer.Exit(FAILED)
