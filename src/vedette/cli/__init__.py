"""The command line. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vedette import __version__
from vedette.cli import (
    alerts,
    archive,
    ask,
    backfill,
    delete,
    doctor,
    look,
    maintain,
    manifest,
    query,
    run,
)
from vedette.cli.terminal import EXIT_CODES, FAILED, RUNNING, USAGE
from vedette.processes import AlreadyRunning, DataUnusable
from vedette.settings import SettingsError

app = typer.Typer(
    name="vedette",
    help="Vedette: a self-hosted quality monitor for GenAI agents in production.\n\n"
    "Start it with `vedette up`, send traces to http://127.0.0.1:5000, look at them there.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

for _commands in (run, ask, backfill, query, manifest, archive, delete, look, maintain, doctor):
    app.add_typer(_commands.app)
app.add_typer(alerts.app, name="alerts")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vedette {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process exits with one of the documented codes."""
    try:
        app()
    except SettingsError as error:
        print(f"vedette: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except AlreadyRunning as error:
        print(f"vedette: {error}", file=sys.stderr)
        sys.exit(RUNNING)
    except DataUnusable as error:
        print(f"vedette: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except BrokenPipeError:  # `vedette config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
