"""The commands that run Vedette, or a part of it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from vedette.cli.settings_flags import takes_settings
from vedette.cli.terminal import FAILED, OK, fail
from vedette.processes import die_with_parent, exclusive_lock
from vedette.settings import LoadedSettings, Settings

app = typer.Typer()
_Parent = Annotated[int | None, typer.Option("--supervisor", hidden=True)]


@app.command()
@takes_settings
def up(loaded: LoadedSettings) -> None:
    """Run everything on this machine: server, engine and workers, restarted when they die.

    Example: `vedette up --data ./vedette-data --port 5000`
    """
    from vedette.logs import configure_logging
    from vedette.supervisor import StartFailed, Supervisor

    configure_logging("up")
    settings = loaded.settings
    if settings.sandbox is not None:
        from vedette.scoring.sandbox import choose_sandbox

        choose_sandbox(settings.sandbox)  # here, not in an engine that is started again and again
    _require_lake(settings)
    try:
        Supervisor(settings).run(lambda health: _print_ready(settings, health))
    except StartFailed as failure:
        fail(str(failure), FAILED)


def _require_lake(settings: Settings) -> None:
    """Refuse an object store that can't hold the lake, unless it did before: what is wrong with
    that may pass, and until then traces are taken.
    """
    if "://" not in settings.lake_uri:
        return
    from vedette.lake.storage import LakeRefused, LakeUnavailable
    from vedette.lake.table import Lake

    lake = Lake(settings.lake_uri, settings.lake_state)
    try:
        lake.require_safe_commits()
    except LakeUnavailable as error:
        if isinstance(error, LakeRefused) and not lake.is_known:
            fail(str(error), FAILED)
        print(f"warning: {error}", file=sys.stderr, flush=True)


def _print_ready(settings: Settings, health: dict[str, Any]) -> None:
    print(
        f"""Vedette {health["vedette"]} is ready: {settings.url}

  Send it traces:    mlflow.set_tracking_uri("{settings.url}")
                     or OTLP/HTTP to {settings.url}/v1/traces
  Look at them:      {settings.url}
  Follow scoring:    {settings.url}/monitor
  How it is doing:   vedette status --url {settings.url}
  Its data:          {settings.data}
  Stop it:           Ctrl-C
""",
        flush=True,
    )
    for warning in health["warnings"]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


@app.command()
@takes_settings
def server(loaded: LoadedSettings, supervisor: _Parent = None) -> None:
    """Run the server alone: takes traces, answers reads, shows the pages.

    Example: `vedette server --host 0.0.0.0 --backend-store-uri postgresql://db/vedette`
    """
    settings = loaded.settings
    _become("server", supervisor)
    with exclusive_lock(settings.run_dir / "server.lock", "a vedette server"):
        from mlflow.exceptions import MlflowException

        from vedette.mlflow_app.launch import serve

        try:
            serve(settings)
        except MlflowException as refusal:  # of the control database; says what to do
            fail(refusal.message, FAILED)
        _end()


@app.command()
@takes_settings
def engine(loaded: LoadedSettings, supervisor: _Parent = None) -> None:
    """Run the engine alone: moves traces to the lake, scores them, keeps the tables in order.

    Example: `vedette engine --data ./vedette-data --workers 4`
    """
    settings = loaded.settings
    _become("engine", supervisor)
    with exclusive_lock(settings.run_dir / "engine.lock", "a vedette engine"):
        from vedette.engine import run

        run(settings)
        _end()


def _end() -> NoReturn:
    """End now: all is written, and taking MLflow's modules apart would take seconds."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(OK)


def _become(part: str, supervisor: int | None) -> None:
    from vedette.logs import configure_logging

    if supervisor is not None:
        die_with_parent(supervisor)
    configure_logging(part)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the data here. [default: nowhere]")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on, or a free one if taken.")] = 5000,
    questions: Annotated[int, typer.Option(min=2, help="How many traces to make.")] = 400,
) -> None:
    """Show Vedette at work: an example agent, two scorers, and a regression that they find.

    Takes under two minutes; on a terminal it keeps serving until Ctrl-C.

    Example: `vedette demo --port 5050`
    """
    from vedette.demo import run

    raise typer.Exit(run(data=data, port=port, questions=questions))
