"""``vedette archive``: one row per trace of an experiment in a Delta table."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer

from vedette.cli.terminal import Json, Url, ask, print_rows

app = typer.Typer()
_commands = typer.Typer(no_args_is_help=True)
app.add_typer(
    _commands,
    name="archive",
    help="Keep one row per trace of an experiment in a Delta table.\n\n"
    "Example: `vedette archive enable main.quality.traces --experiment 1`",
)

Experiment = Annotated[str, typer.Option("--experiment", help="The experiment's id.")]


@_commands.command()
def enable(
    table: Annotated[
        str,
        typer.Argument(
            metavar="CATALOG.SCHEMA.TABLE",
            help="In the lake, at <lake>/CATALOG/SCHEMA/TABLE; made if it is missing.",
        ),
    ],
    experiment: Experiment,
    retention_days: Annotated[
        float | None,
        typer.Option(help="Delete rows of traces that arrived longer ago. [default: never]"),
    ] = None,
    vacuum_hours: Annotated[
        int | None,
        typer.Option(
            help="How long replaced files stay for queries that still read them. "
            "[default: as it is; 6 for a new table]"
        ),
    ] = None,
    optimize: Annotated[
        bool, typer.Option(help="Merge small files, or leave that to somebody else.")
    ] = True,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Archive an experiment: its traces are copied, changes follow within a minute.

    Do it again with the same table to change how that is kept.

    Example: `vedette archive enable main.quality.traces --experiment 1 --retention-days 400`
    """
    body = {
        "delta_table_fullname": table,
        "retention_days": retention_days,
        "vacuum_hours": vacuum_hours,
        "optimize": optimize,
    }
    ask(url, _path(experiment), "PUT", body)
    (found,) = ask(url, f"/api/archival?experiment_id={quote(experiment, safe='')}")["archives"]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(f"Experiment {experiment} is archived in {table}, {found['uri']}")


@_commands.command()
def disable(experiment: Experiment, url: Url = None, as_json: Json = False) -> None:
    """Stop archiving an experiment. The table stays as it is.

    Example: `vedette archive disable --experiment 1`
    """
    ask(url, _path(experiment), "DELETE")
    if as_json:
        print("{}")
    else:
        print(f"Experiment {experiment} is no longer archived. The table stays.")


@_commands.command()
def status(
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Of this experiment (its id) only.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the archives: their tables, how far they are, what is wrong with them.

    Example: `vedette archive status --json`
    """
    query = "" if experiment is None else f"?experiment_id={quote(experiment, safe='')}"
    found = ask(url, f"/api/archival{query}")["archives"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("No experiment is archived. Archive one: see `vedette archive enable --help`")
        return
    lines: list[tuple[str, ...]] = [("experiment", "table", "state", "filled", "lag", "rows")]
    for one in found:
        filled, lag, rows = one.get("filled"), one.get("lag_seconds"), one.get("rows")
        lines.append(
            (
                one["experiment_id"],
                one.get("delta_table_fullname", ""),
                one["state"],
                "" if filled is None else f"{filled:.0%}",
                "" if lag is None else f"{lag:.0f} s",
                "" if rows is None else f"{rows:,}",
            )
        )
    print_rows(lines)
    for one in found:
        if one["error"]:
            print(f"experiment {one['experiment_id']}: {one['error']}")


def _path(experiment: str) -> str:
    return f"/api/archival/{quote(experiment, safe='')}"
