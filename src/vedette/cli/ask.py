"""The commands that ask a running server."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vedette.cli.terminal import UNHEALTHY, UNREACHABLE, USAGE, Json, Url, ask, fail, print_rows
from vedette.settings import load_settings

app = typer.Typer()


@app.command()
def status(
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell how a running Vedette is: its parts, the journal's backlog, the lake's lag.

    Exits with 3 when the server can't be reached, with 4 when it is not healthy.

    Example: `vedette status --url http://127.0.0.1:5000 --json`
    """
    from vedette.supervisor import read_health

    url = url or load_settings({}).settings.url
    health = read_health(url.rstrip("/"), timeout=10.0)
    if health is None:
        fail(f"no Vedette answers on {url}; start one with `vedette up`, or set --url", UNREACHABLE)
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
    print_rows(rows)
    for warning in health["warnings"]:
        print(f"warning: {warning}")


@app.command()
def scorers(
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Of this experiment (its id) only.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the scorers: rate, what they selected and scored, what waits, lag and cost today.

    Example: `vedette scorers --json`
    """
    query = "" if experiment is None else f"?experiment_id={quote(experiment, safe='')}"
    found = ask(url, f"/api/scorers{query}")["scorers"]
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
    print_rows(rows)
    for one in found:
        if one["problem"]:
            print(f"{one['scorer']} waits: {one['problem']}")
        if one["note"]:
            print(f"{one['scorer']}: {one['note']}")


@app.command()
def explain(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", help="As MLflow shows it: tr-...")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell for each scorer whether a trace was scored, and why or why not.

    A line per scorer: the decision and its reason (u is the trace's draw, selected when below the
    rate), then attempts, cost, worker and times (UTC).

    Example: `vedette explain tr-3f0c66c1d5f8a0e2d1b7c9a4e5f60718`
    """
    if not trace_id:
        fail("the trace's id is empty; MLflow's trace list shows it: tr-...", USAGE)
    found = ask(url, f"/api/explain/{quote(trace_id, safe='')}")
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found["scorers"]:
        print(f"No scorer has been started in the experiment of {trace_id}.")
    else:
        print_rows([(one["scorer"], one["unit_type"], _line(one)) for one in found["scorers"]])


def _line(explanation: dict[str, Any]) -> str:
    """The decision and its reason, then what else is known of it."""
    from vedette.monitor import words

    details = explanation["details"]
    facts = [explanation["text"]]
    if details:
        facts += [
            f"attempts: {details['attempts']}",
            words.dollars(details["cost_usd"]),
            details["worker"] or "",
            f"complete {words.moment(details['completed_ms'])}",
            f"decided {words.moment(details['decided_ms'])}",
        ]
    return " | ".join(" ".join(fact.split()) for fact in facts if fact)
