"""``vedette alerts``: rules, what they found, and who is told."""

from __future__ import annotations

import json
import os
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vedette.cli.terminal import FAILED, USAGE, Json, Url, ask, fail, print_rows

app = typer.Typer(
    help="Alerts: be told when quality falls, costs rise or traces stay away.",
    no_args_is_help=True,
)

Experiment = Annotated[
    str, typer.Option("--experiment", "-e", help="The experiment, by its id or name.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the rule; its id if none was given.")]
_PATIENCE_SECONDS = 30.0


@app.command("list")
def list_rules(
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="Of this experiment only.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the rules with their states.

    Example: `vedette alerts list --json`
    """
    query = "" if experiment is None else f"?experiment={quote(experiment, safe='')}"
    found = ask(url, f"/api/alerts{query}")["alerts"]
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("No rules. Add one: vedette alerts add liveness_zero_traces_15m --notify https://...")
    else:
        rows = [("experiment", "alert", "state", "since", "why")]
        rows += [(one["experiment_id"], one["name"], *_line(one)) for one in found]
        print_rows(rows)


@app.command()
def show(name: Name, experiment: Experiment = "0", url: Url = None, as_json: Json = False) -> None:
    """Show a rule: state, evidence, traces to read, history, what was sent.

    Example: `vedette alerts show doc_citation_below_0_80_24h --experiment shop`
    """
    from vedette.alerts.messages import moment, told_estimate

    found = ask(url, _path(experiment, name))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    evidence = found["evidence"]
    state, since, why = _line(found)
    rows = [("state", f"{state} since {since}"), ("why", why), ("condition", found["condition"])]
    if (estimate := told_estimate(evidence)) is not None:
        rows.append(("estimate", estimate))
    if evidence.get("e_value") is not None:
        rows.append(("e-value", f"{evidence['e_value']:.3g} (20 is enough)"))
    if found["slice"]:
        rows.append(("slice", found["slice"]))
    rows.append(("severity", found["severity"]))
    rows.append(("tells", ", ".join(found["notify"]) or "nobody"))
    if found["rollback"]:
        rows.append(("rollback", found["rollback"]))
    rows += [("trace", one) for one in evidence.get("examples", ())]
    rows += [
        ("history", f"{moment(one['at_ms'])}  {one['event']}: {one['why']}")
        for one in found["history"]
    ]
    rows += [("sent", _delivery(one)) for one in found["deliveries"]]
    print_rows(rows)


@app.command()
def add(
    alert_id: Annotated[
        str, typer.Argument(metavar="ID", help="Such as doc_citation_below_0_80_24h.")
    ],
    experiment: Experiment = "0",
    name: Annotated[
        str | None, typer.Option(help="A name, for a second rule with this id.")
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(help="Whom to tell: https://... (signed webhook), or an apprise URL."),
    ] = None,
    severity: Annotated[str | None, typer.Option(help="critical, warning or info.")] = None,
    slice_: Annotated[
        str | None, typer.Option("--slice", help="Only traces that match this filter.")
    ] = None,
    minimum_effect: Annotated[
        float | None, typer.Option(help="By how much it must be beyond the limit.")
    ] = None,
    bounds: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOWEST HIGHEST", help="Of scores that aren't within 0 and 1."),
    ] = None,
    rollback: Annotated[
        str | None, typer.Option(help="URL of a webhook to call when it fires.")
    ] = None,
    renotify: Annotated[
        str | None, typer.Option(help="Tell again so often while it fires, or never.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add a rule, or put it in the place of the one of this name.

    Ids: SCORER_below_0_80_24h, SCORER_drift_neg_0_05_6h, liveness_zero_traces_15m,
    volume_anomaly_1h, error_rate_above_0_05_1h, latency_p95_above_8s_1h,
    human_negative_feedback_ge_3_24h, human_judge_divergence_0_10_7d, judge_cost_above_50usd_24h.

    Example: `vedette alerts add liveness_zero_traces_15m --notify https://example.org/hook`
    """
    body = {
        "condition": alert_id,
        "slice": slice_,
        "severity": severity,
        "minimum_effect": minimum_effect,
        "bounds": bounds,
        "notify": notify or [],
        "rollback": rollback,
        "renotify": renotify,
    }
    found = ask(url, _path(experiment, name or alert_id), "PUT", body)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{found['name']} is looked at once a minute.")


@app.command()
def remove(name: Name, experiment: Experiment = "0", url: Url = None) -> None:
    """Remove a rule; its history stays for 90 days."""
    ask(url, _path(experiment, name), "DELETE")
    print(f"{name} is removed.")


@app.command()
def silence(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the rule; '*' for all.")],
    for_: Annotated[str | None, typer.Option("--for", help="How long, such as 2h.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="When it begins, such as 2026-11-22T20:00.")
    ] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End the silences of this name.")] = False,
    experiment: Experiment = "0",
    url: Url = None,
) -> None:
    """Send nothing of a rule for a while: a maintenance window.

    Looks go on, and what still fires when the silence is over is told then.

    Example: `vedette alerts silence '*' --for 2h --comment deployment`
    """
    if end == (for_ is not None):
        fail("give either --for, such as --for 2h, or --end", USAGE)
    body = {"for": for_, "from": from_, "by": _me(), "comment": comment}
    found = ask(url, _path(experiment, name, "alert-silence"), "POST", body)
    if end:
        print(f"{found['ended']} silences of {name} are ended.")
    else:
        print(f"{name} is silent {_moment(found['from_ms'])} to {_moment(found['until_ms'])}.")


@app.command()
def ack(name: Name, experiment: Experiment = "0", url: Url = None) -> None:
    """Say that you take care of what fires: it isn't told again until it has been resolved."""
    ask(url, _path(experiment, name, "alert-acknowledge"), "POST", {"by": _me()})
    print(f"{name} is acknowledged.")


@app.command("test")
def send_test(
    name: Name, experiment: Experiment = "0", url: Url = None, as_json: Json = False
) -> None:
    """Send a test to the rule's channels, and wait up to 30 s until they take it.

    Exits with 1 if one doesn't.
    """
    ids = ask(url, _path(experiment, name, "alert-test"), "POST", {})["deliveries"]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        sent = [one for one in ask(url, _path(experiment, name))["deliveries"] if one["id"] in ids]
        if all(one["attempts"] for one in sent) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if as_json:
        print(json.dumps(sent, indent=2))
    else:
        print_rows([(_delivery(one),) for one in sent])
    if not sent or any(one["delivered_ms"] is None for one in sent):
        raise typer.Exit(FAILED)


@app.command()
def history(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this rule only.")] = None,
    experiment: Experiment = "0",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell what happened, newest first: each change of state with its evidence.

    Example: `vedette alerts history --experiment shop --json`
    """
    query = f"?limit={limit}" + ("" if name is None else f"&name={quote(name, safe='')}")
    found = ask(url, f"/api/alert-history/{quote(experiment, safe='')}{query}")["history"]
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("Nothing has happened yet.")
    else:
        print_rows(
            [(_moment(one["at_ms"]), one["name"], one["event"], one["why"]) for one in found]
        )


def _me() -> str:
    return os.environ.get("USER") or "somebody"


def _path(experiment: str, name: str, what: str = "alerts") -> str:
    return f"/api/{what}/{quote(experiment, safe='')}/{quote(name, safe='')}"


def _line(rule: dict[str, Any]) -> tuple[str, str, str]:
    state = rule["state"].replace("_", " ")
    if rule["acknowledged_by"]:
        state += f" (acknowledged by {rule['acknowledged_by']})"
    if rule["silenced_until_ms"]:
        state += f" (silent until {_moment(rule['silenced_until_ms'])})"
    return state, _moment(rule["since_ms"]), rule["why"]


def _delivery(sent: dict[str, Any]) -> str:
    if sent["delivered_ms"] is not None:
        became = f"taken {_moment(sent['delivered_ms'])}"
    elif sent["next_ms"] is not None:
        became = f"waits, {sent['attempts']} attempts; {sent['error'] or 'not yet tried'}"
    else:
        became = f"given up; {sent['error']}"
    return f"{sent['event']} to {sent['channel']}: {became}"


def _moment(milliseconds: int) -> str:
    from vedette.alerts.messages import moment

    return moment(milliseconds)
