"""``vedette backfill`` and ``vedette backfills``: score history, and see how far that is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vedette.cli.terminal import FAILED, USAGE, Json, Url, ask, fail, fetch, print_rows

app = typer.Typer()

_SPANS = {"d": "days", "h": "hours", "m": "minutes"}
_ENDED = ("done", "cancelled", "stopped")
_DRY_RUN_SECONDS = 600.0  # it looks at every unit
_Follow = Annotated[
    bool,
    typer.Option("--follow", help="Show progress until it ends. Ctrl-C leaves it running."),
]


@app.command()
def backfill(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Registered scorers.")],
    experiment: Annotated[
        str, typer.Option(envvar="MLFLOW_EXPERIMENT_ID", help="The experiment's id.")
    ],
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Traces that began then or later: 2026-11-01, 2026-11-01T12:30 (local time), or "
            "how long ago: 7d, 12h, 30m. [default: 7 days before the end]",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Traces that began before then. [default: now]"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Share of the traces, in 0..1, not 0. [default: the scorer's own]"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would come to, and begin nothing.")
    ] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score again what this version has scored.")
    ] = False,
    follow: _Follow = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Have scorers score what is complete already: history, in their latest versions.

    The window is over the time at which traces began, as search compares it; a session counts by
    its first trace. With `--follow`, exits with 1 when it doesn't come to its end.

    Example: `vedette backfill is_polite --experiment 1 --start 30d --rate 0.2 --dry-run`
    """
    now = datetime.now().astimezone()
    body = {
        "experiment_id": experiment,
        "scorers": [{"name": name, "sample_rate": rate} for name in names],
        "start_time_ms": _time("--start", start, now),
        "end_time_ms": _time("--end", end, now),
        "rescore": rescore,
        "dry_run": dry_run,
    }
    content, _ = fetch(url, "/api/backfills", "POST", body, _DRY_RUN_SECONDS)
    answer = json.loads(content)
    if dry_run:
        _print_dry_run(answer["dry_run"], as_json=as_json)
        return
    if follow:
        answer = _follow(url, answer)
    _print(answer, as_json=as_json)
    if follow and answer["state"] != "done":
        raise typer.Exit(FAILED)


@app.command()
def backfills(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="One of them, with its failures.")
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Of this experiment (its id) only.")
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel it; what it has scored stays.")
    ] = False,
    follow: _Follow = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List backfills; show how far one is and what failed; cancel it.

    Example: `vedette backfills bf-3f0c66c1d5f8 --follow`
    """
    if job is None:
        if cancel or follow:
            fail("name the backfill: vedette backfills JOB", USAGE)
        query = "" if experiment is None else f"?experiment_id={quote(experiment, safe='')}"
        _print_all(ask(url, f"/api/backfills{query}")["backfills"], as_json=as_json)
        return
    path = f"/api/backfills/{quote(job, safe='')}"
    answer = ask(url, f"{path}/cancel", "POST") if cancel else ask(url, path)
    if follow:
        answer = _follow(url, answer)
    _print(answer, as_json=as_json)
    if follow and answer["state"] != "done":
        raise typer.Exit(FAILED)


def _time(flag: str, text: str | None, now: datetime) -> int | None:
    """Milliseconds since the epoch."""
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d{1,6})([dhm])", text):
        at = now - timedelta(**{_SPANS[ago[2]]: int(ago[1])})
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            fail(
                f"{flag}: {text!r} is no time: write 2026-11-01, 2026-11-01T12:30, "
                "2026-11-01T12:30+01:00, or how long ago: 7d, 12h, 30m",
                USAGE,
            )
    return int(at.timestamp() * 1000)


def _follow(url: str | None, answer: dict[str, Any]) -> dict[str, Any]:
    """A bar for each scorer, on stderr, until the job ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
    )
    path = f"/api/backfills/{answer['job']}"
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = [
            bars.add_task(one["scorer"], total=max(1, one["units"]), told="")
            for one in answer["scorers"]
        ]
        while True:
            for task, one in zip(tasks, answer["scorers"], strict=True):
                done = one["decided"] if one["units"] else int(one["state"] in _ENDED)
                bars.update(task, completed=done, told=_told(one))
            if answer["state"] in _ENDED:
                return answer
            time.sleep(0.5)
            answer = ask(url, path)


def _told(one: dict[str, Any]) -> str:
    facts = [f"{one['selected']:,} selected", f"{one['scored']:,} scored"]
    facts += [f"{one[name]:,} {name}" for name in ("reused", "failed", "retrying") if one[name]]
    if one["units_per_second"] is not None:
        facts.append(f"{one['units_per_second']:,.1f}/s")
    if one["seconds_left"] is not None:
        facts.append(f"{timedelta(seconds=round(one['seconds_left']))} left")
    if one["cost_usd"]:
        facts.append(f"${one['cost_usd']:.2f}")
    reason = one["problem"] or one["note"]
    return ", ".join(facts) + (f"; waits: {reason}" if reason else "")


def _print_dry_run(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows: list[tuple[str, ...]] = [
        ("scorer", "version", "rate", "units", "selected", "reused", "calls", "cost", "time")
    ]
    for one in found:
        counts = (f"{one[name]:,}" for name in ("units", "selected", "reused"))
        calls, cost, seconds = (one[name] for name in ("calls", "dollars", "seconds"))
        rows.append(
            (
                one["scorer"],
                str(one["version"]),
                f"{one['rate']:g}",
                *counts,
                "?" if calls is None else f"{calls:,.0f}",
                "?" if cost is None else f"${cost:,.2f}",
                "?" if seconds is None else str(timedelta(seconds=round(seconds))),
            )
        )
    print_rows(rows)
    print("Nothing was begun. Time is of one worker; ?: the scorer hasn't scored anything yet.")


def _print_all(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("No backfill was asked for. Begin one: vedette backfill NAME --start 7d")
        return
    rows: list[tuple[str, ...]] = [("job", "experiment", "state", "scorers", "units", "decided")]
    for one in found:
        names = ", ".join(scorer["scorer"] for scorer in one["scorers"])
        sums = (sum(scorer[name] for scorer in one["scorers"]) for name in ("units", "decided"))
        rows.append(
            (one["job"], one["experiment_id"], one["state"], names, *(f"{n:,}" for n in sums))
        )
    print_rows(rows)


def _print(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    window = " to ".join(
        f"{datetime.fromtimestamp(answer[name] / 1000).astimezone():%Y-%m-%d %H:%M:%S %Z}"
        for name in ("start_time_ms", "end_time_ms")
    )
    print(f"{answer['job']}: {answer['state']}; traces that began from {window}")
    rows = []
    for one in answer["scorers"]:
        done = f"{one['decided']:,} of {one['units']:,} units"
        rows.append((one["scorer"], f"version {one['version']}", one["state"], done, _told(one)))
    print_rows(rows)
    for one in answer["failures"]:
        what = f"{one['error_code']}: {' '.join((one['error'] or '').split())}"
        print(f"{one['decision']}  {one['scorer']}  {one['unit_id']}  {what}")
