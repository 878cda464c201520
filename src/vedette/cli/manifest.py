"""``vedette init``, ``plan``, ``apply``, ``diff``, ``export``: a manifest and what a server has."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vedette.cli.terminal import FAILED, USAGE, Json, ask, fail
from vedette.settings import load_settings

if TYPE_CHECKING:
    from vedette.manifest.plan import Step
    from vedette.manifest.server import Server

app = typer.Typer()

File = Annotated[
    Path, typer.Option("--file", "-f", metavar="FILE", help="The manifest.", dir_okay=False)
]
TargetName = Annotated[
    str | None, typer.Option("--target", "-t", help="Where: one of the manifest's targets.")
]
# Without VEDETTE_URL, which would have its way over the target's
Address = Annotated[
    str | None,
    typer.Option("--url", help="The server. [default: the target's, VEDETTE_URL, the one set]"),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Also remove what the manifest doesn't declare.")
]
_MANIFEST = Path("vedette.yaml")


@app.command()
def init(
    experiment: Annotated[
        str, typer.Option("--experiment", "-e", help="The experiment's name.")
    ] = "Default",
    file: File = _MANIFEST,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the manifest's JSON Schema instead.")
    ] = False,
    url: Address = None,
) -> None:
    """Write a manifest of what is registered, to go on from.

    Example: `vedette init --experiment shop`
    """
    if schema:
        from vedette.manifest.schema import schema as published

        print(json.dumps(published(), indent=2))
        return
    if file.exists():
        fail(f"{file} is there already; see `vedette diff`, or name another with --file", USAGE)
    file.write_text(_exported(experiment, url), encoding="utf-8")
    print(f"{file} declares {experiment} as it is. Change it, then: vedette apply")


@app.command()
def export(
    experiment: Annotated[str, typer.Option("--experiment", "-e", help="The experiment's name.")],
    url: Address = None,
) -> None:
    """Print a manifest of what an experiment has. Alerts' channels aren't told: they stay.

    Example: `vedette export --experiment shop > vedette.yaml`
    """
    sys.stdout.write(_exported(experiment, url))


@app.command()
def plan(
    file: File = _MANIFEST,
    target: TargetName = None,
    prune: Prune = False,
    url: Address = None,
    as_json: Json = False,
) -> None:
    """Show what `vedette apply` would do. Nothing is changed.

    Example: `vedette plan -t prod --prune`
    """
    _show(_steps(file, target, prune, url), as_json)


@app.command()
def diff(
    file: File = _MANIFEST, target: TargetName = None, url: Address = None, as_json: Json = False
) -> None:
    """Show in what a server differs from the manifest, also what only the server has.

    Exits with 1 if it does.
    """
    steps = _steps(file, target, True, url)
    _show(steps, as_json)
    if steps:
        raise typer.Exit(FAILED)


@app.command()
def apply(
    file: File = _MANIFEST,
    target: TargetName = None,
    prune: Prune = False,
    url: Address = None,
    as_json: Json = False,
) -> None:
    """Make a server as the manifest says, and show what that is. Doing it again changes nothing.

    All is checked before anything is done. If a step fails all the same, those after it are not
    done; apply again when its cause is gone.

    Example: `vedette apply -t prod`
    """
    from mlflow.exceptions import MlflowException

    steps = _steps(file, target, prune, url)
    done: list[Step] = []
    for step in steps:
        try:
            step.run()
        except (MlflowException, OSError) as error:
            print(f"vedette: {step}\nfailed: {error}", file=sys.stderr)
            rest = len(steps) - len(done)
            fail(f"{len(done)} of {len(steps)} steps are done; apply again for the {rest}", FAILED)
        done.append(step)
        if not as_json:
            print(step)
    if as_json:
        _show(done, as_json)
    elif not done:
        print("All is as the manifest says.")


def _steps(file: Path, target: str | None, prune: bool, url: str | None) -> list[Step]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} can't be read ({error}); make one with `vedette init`", USAGE)
    from mlflow.exceptions import MlflowException

    from vedette.manifest.document import read_manifest
    from vedette.manifest.nodes import ManifestError
    from vedette.manifest.plan import plan as planned
    from vedette.manifest.targets import choose

    try:
        manifest = read_manifest(text, str(file))
        where = choose(manifest.targets, target)
        return planned(manifest, where, _server(url or where.url), prune=prune)
    except ManifestError as error:
        print(error, file=sys.stderr)
        fail("nothing was changed", FAILED)
    except ValueError as error:
        fail(str(error), USAGE)
    except MlflowException as error:
        fail(error.message, FAILED)


def _exported(experiment: str, url: str | None) -> str:
    from mlflow.exceptions import MlflowException

    from vedette.manifest.export import manifest_of

    server = _server(url)
    try:
        found = server.found(experiment)
    except MlflowException as error:
        fail(error.message, FAILED)
    if found is None:
        fail(f"there is no experiment {experiment}", FAILED)
    return manifest_of(experiment, found)


def _server(url: str | None) -> Server:
    """The server, which is known to answer: MLflow's client would try for minutes."""
    from vedette.manifest.server import Server

    url = url or os.environ.get("VEDETTE_URL") or load_settings({}).settings.url
    ask(url, "/api/alerts")
    return Server(url)


def _show(steps: list[Step], as_json: bool) -> None:
    if as_json:
        names = ("action", "experiment", "what", "details")
        print(json.dumps([{name: getattr(one, name) for name in names} for one in steps], indent=2))
    elif not steps:
        print("All is as the manifest says.")
    else:
        for step in steps:
            print(step)
