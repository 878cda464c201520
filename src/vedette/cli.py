"""The command line. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import typer
from pydantic import ByteSize

from vedette import __version__
from vedette.processes import AlreadyRunning, DataUnusable, die_with_parent, exclusive_lock
from vedette.settings import (
    LoadedSettings,
    Settings,
    SettingsError,
    env_name,
    flag_name,
    load_settings,
)

OK, FAILED, USAGE, UNREACHABLE, UNHEALTHY, RUNNING = range(6)
_EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 3 server not reachable, "
    "4 server not healthy, 5 already running on this data directory."
)

app = typer.Typer(
    name="vedette",
    help="Vedette: a self-hosted quality monitor for GenAI agents in production.\n\n"
    "Start it with `vedette up`, send traces to http://127.0.0.1:5000, look at them there.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Url = Annotated[
    str | None,
    typer.Option(envvar="VEDETTE_URL", help="The server to ask. [default: the host and port set]"),
]
_Parent = Annotated[int | None, typer.Option("--supervisor", hidden=True)]


def _takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag per field of `Settings`, and ``--config``.

    The command's first parameter receives the `LoadedSettings`. Values stay text here, so that a
    wrong one is reported alike whether it came from a flag, the environment or the file.
    """

    @wraps(command)
    def with_settings(*, config: Path | None, **given: Any) -> None:
        flags = {name: given.pop(name) for name in Settings.model_fields}
        command(load_settings(flags, config), **given)

    resolved = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=resolved[parameter.name])
        for parameter in list(inspect.signature(command).parameters.values())[1:]
    ]
    options = [_settings_option(name) for name in Settings.model_fields]
    file = typer.Option(
        "--config",
        metavar="FILE",
        rich_help_panel="Settings",
        help="TOML file of settings. [default: vedette.toml, if there is one]",
    )
    options.append(_option("config", Annotated[Path | None, file]))
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *options)]
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


_METAVARS: dict[Any, str] = {Path: "DIR", ByteSize: "BYTES", float: "SECONDS", int: "N"}


def _settings_option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    default = "" if field.default is None else f" [default: {_shown(field.default)}]"
    option = typer.Option(
        flag_name(name),
        help=f"{field.description}{default}",
        metavar=_METAVARS.get(field.annotation, "TEXT"),
        rich_help_panel="Settings",
    )
    return _option(name, Annotated[str | None, option])


def _option(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _shown(value: Any) -> str:
    """A setting as people read it: sizes with their unit, passwords hidden."""
    if isinstance(value, ByteSize):
        return value.human_readable()
    return re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", str(value))


@app.command()
@_takes_settings
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
    try:
        Supervisor(settings).run(lambda health: _print_ready(settings, health))
    except StartFailed as failure:
        _fail(str(failure), FAILED)


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
@_takes_settings
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
            _fail(refusal.message, FAILED)
        _end()


@app.command()
@_takes_settings
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
def status(
    url: _Url = None,
    as_json: _Json = False,
) -> None:
    """Tell how a running Vedette is: its parts, the journal's backlog, the lake's lag.

    Exits with 3 when the server can't be reached, with 4 when it is not healthy.

    Example: `vedette status --url http://127.0.0.1:5000 --json`
    """
    from vedette.supervisor import read_health

    url = url or load_settings({}).settings.url
    health = read_health(url.rstrip("/"), timeout=10.0)
    if health is None:
        _fail(
            f"no Vedette answers on {url}; start one with `vedette up`, or set --url", UNREACHABLE
        )
    if as_json:
        print(json.dumps(health, indent=2))
    else:
        _print_status(url, health)
    if health["status"] != "ok":
        raise typer.Exit(UNHEALTHY)


def _print_status(url: str, health: dict[str, Any]) -> None:
    journal, lake, index = health["journal"], health["lake"], health["index"]
    rows = [("vedette", f"{health['vedette']} on {url}: {health['status']}")]
    for name in ("server", "engine"):
        part = health["parts"][name]
        rows.append((name, f"{part['state']}, pid {part['pid']}, {part['restarts']} restarts"))
    waiting = f"{journal['backlog_bytes']:,} bytes, {journal['backlog_seconds']:.1f} s"
    rows.append(("journal", f"{waiting} not yet in the lake"))
    if (lag := lake.get("lag_seconds")) is not None:
        rows.append(("lake", f"{lag:.1f} s behind, {lake['uri']}"))
    if (behind := index.get("lag_bytes")) is not None:
        rows.append(("read model", f"{behind:,} bytes behind"))
    _print_rows(rows)
    for warning in health["warnings"]:
        print(f"warning: {warning}")


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


@app.command()
def scorers(
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Of this experiment (its id) only.")
    ] = None,
    url: _Url = None,
    as_json: _Json = False,
) -> None:
    """List the scorers: rate, what they selected and scored, what waits, lag and cost today.

    Example: `vedette scorers --json`
    """
    query = "" if experiment is None else f"?experiment_id={quote(experiment, safe='')}"
    found = _ask(url, f"/api/scorers{query}")["scorers"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(
            "No scorer is started. Start one: my_scorer.register().start(...), see docs/scorers.md"
        )
        return
    columns = ("rate", "units", "selected", "scored", "waiting", "retrying", "failed")
    rows: list[tuple[str, ...]] = [("experiment", "scorer", *columns, "lag", "cost today")]
    for one in found:
        numbers = [f"{one[column]:g}" for column in columns]
        lag, cost = f"{one['lag_seconds']:.0f} s", f"${one['cost_today_usd']:.2f}"
        rows.append((one["experiment_id"], one["scorer"], *numbers, lag, cost))
    _print_rows(rows)
    for one in found:
        if one["problem"]:
            print(f"{one['scorer']} waits: {one['problem']}")


@app.command()
def explain(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", help="As MLflow shows it: tr-...")],
    url: _Url = None,
    as_json: _Json = False,
) -> None:
    """Tell for each scorer whether a trace was scored, and why or why not.

    Example: `vedette explain tr-3f0c66c1d5f8a0e2d1b7c9a4e5f60718`
    """
    found = _ask(url, f"/api/explain/{quote(trace_id, safe='')}")
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found["scorers"]:
        print(f"No scorer is started in the experiment of {trace_id}.")
    else:
        _print_rows([(one["scorer"], one["unit_type"], one["text"]) for one in found["scorers"]])


def _ask(url: str | None, path: str) -> Any:
    """A server's JSON answer; ends the command with what is wrong if there is none."""
    base = (url or load_settings({}).settings.url).rstrip("/")
    try:
        with urlopen(base + path, timeout=30) as answer:
            return json.load(answer)
    except HTTPError as error:
        try:
            message = json.load(error)["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{base}{path} answered {error.code}; is it a Vedette server?"
        _fail(message, FAILED)
    except (OSError, ValueError) as error:
        _fail(
            f"no Vedette answers on {base} ({error}); start one with `vedette up`, or set --url",
            UNREACHABLE,
        )


@app.command()
@_takes_settings
def config(loaded: LoadedSettings, as_json: _Json = False) -> None:
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
        rows.append((name, "" if value is None else _shown(value), loaded.origins[name]))
    _print_rows(rows)


def _described(name: str, values: dict[str, Any], loaded: LoadedSettings) -> dict[str, Any]:
    value = values[name]
    return {
        "value": value if value is None or isinstance(value, int | float) else _shown(value),
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
    as_json: _Json = False,
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
            _fail(f"{file}: cannot be read: {error}", USAGE)
        found += [(file, one) for one in findings_in(text, file)]
    if as_json:
        print(json.dumps([{"file": str(file), **asdict(one)} for file, one in found], indent=2))
    else:
        for file, one in found:
            print(f"{file}:{one.line}:{one.column}: {one.code}: {one.message}; {one.fix}")
        print(f"{len(found)} found in {len(files)} file{'s' if len(files) > 1 else ''}")
    if found:
        raise typer.Exit(FAILED)


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


def _fail(message: str, code: int) -> NoReturn:
    print(f"vedette: {message}", file=sys.stderr)
    raise typer.Exit(code)


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
