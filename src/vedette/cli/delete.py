"""``vedette delete``: a user's traces, for good."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from vedette.cli.terminal import FAILED, USAGE, Json, Url, ask, fail

app = typer.Typer()


@app.command()
def delete(
    user: Annotated[
        str | None,
        typer.Option(help="The user, as traces name it in their metadata `mlflow.trace.user`."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="In this experiment (its id) only.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be deleted; delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Tell how far earlier deletions are.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a user's traces, with all that was said and decided of them, for good.

    They are gone from every page, search and query at once, and what is sent of them later is left
    out. The engine then takes them out of the tables' files, the archives and the read model, and
    deletes the files that this replaces: some minutes in all, see `vedette delete --status`.
    New traces of the user are taken as ever.

    Example: `vedette delete --user u-4711 --dry-run`
    """
    if status:
        _print_status(ask(url, "/api/deletions"), as_json=as_json)
        return
    if user is None:
        fail("name the user with --user, or ask with --status", USAGE)
    body: dict[str, Any] = {"user": user, "experiment_id": experiment}
    if not (dry_run or yes):
        if as_json or not sys.stdin.isatty():
            fail("say --yes to delete, or --dry-run to see what would be", USAGE)
        found = ask(url, "/api/deletions", "POST", {**body, "dry_run": True})
        print(_told(found))
        if not found["traces"] or not typer.confirm("Delete them for good?"):
            raise typer.Exit(FAILED if found["traces"] else 0)
    done = ask(url, "/api/deletions", "POST", {**body, "dry_run": dry_run})
    if as_json:
        print(json.dumps(done, indent=2))
    elif dry_run or not done["traces"]:
        print(_told(done))
    else:
        print(f"Deleted: {_told(done)}")
        print("When they are out of all files too, `vedette delete --status` says so.")


def _told(found: dict[str, Any]) -> str:
    if not found["traces"]:
        return "no traces of this user"
    days = [
        time.strftime("%Y-%m-%d", time.gmtime(found[key] / 1000)) for key in ("first_ms", "last_ms")
    ]
    places = ", ".join(
        f"{count:,} in experiment {one}" for one, count in found["experiments"].items()
    )
    when = days[0] if days[0] == days[1] else f"{days[0]} to {days[1]}"
    return f"{found['traces']:,} traces with {found['spans']:,} spans, {when} ({places})"


def _print_status(state: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(state, indent=2))
        return
    if not state["waiting"]:
        print("Nothing that was deleted for good is left in any file.")
        return
    now = state["under_way"]
    doing = f": {now['doing']}" if now else "; the engine begins in a moment"
    print(f"{state['waiting']:,} deleted traces are not out of all files yet{doing}")
    if state["error"]:
        print(f"the engine's upkeep fails at present: {state['error']}")
