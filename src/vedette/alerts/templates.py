"""What people read, for each kind of channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from vedette.alerts.messages import moment, told_estimate

Format = Literal["markdown", "text"]

_WORDS = {
    "firing": "FIRING",
    "again": "STILL FIRING",
    "resolved": "RESOLVED",
    "test": "TEST",
    "rollback": "ROLLBACK",
}
_MAIL = ("mailto", "mailtos", "mailgun", "sendgrid", "ses", "office365", "postmark", "resend")
_PAGERS = ("pagerduty", "opsgenie", "ilert", "pushover", "squadcast", "incidentio", "firehydrant")
_LINKS = 3  # to traces, in a chat


@dataclass(frozen=True, slots=True)
class Text:
    """A notification for people. apprise makes of Markdown what a channel shows: HTML for mail."""

    title: str
    body: str
    format: Format


def text_for(scheme: str, message: Mapping[str, Any]) -> Text:
    """What a channel of that scheme is sent; `message` as in `vedette.alerts.outbox`."""
    if scheme in _PAGERS:
        return _pager(message)
    return _mail(message) if scheme in _MAIL else _chat(message)


def _pager(message: Mapping[str, Any]) -> Text:
    """For a telephone at night: what, why, and the first trace."""
    lines = [message["why"], *_links(message, 1)]
    return Text(_title(message), "\n".join(lines), "text")


def _chat(message: Mapping[str, Any]) -> Text:
    """A few lines: the evidence, and traces that open with a click."""
    lines = [f"- {line}" for line in _evidence(message)]
    lines += [f"- [read a trace]({link})" for link in _links(message, _LINKS)]
    return Text(_title(message), "\n".join([message["why"], "", *lines]), "markdown")


def _mail(message: Mapping[str, Any]) -> Text:
    """All there is, and how to go on: who reads it may be away from everything else."""
    lines = [message["why"], "", *(f"- {line}" for line in _evidence(message))]
    if links := _links(message, len(message["evidence"].get("examples") or ())):
        lines += ["", "Traces to read:", "", *(f"- {link}" for link in links)]
    where = f"{message['rule']} --experiment {message['experiment_id']}"
    lines += ["", "See more, say that you take care, or have it silent for two hours:", ""]
    lines += [
        f"    vedette alerts show {where}",
        f"    vedette alerts ack {where}",
        f"    vedette alerts silence {where} --for 2h",
    ]
    return Text(_title(message), "\n".join(lines), "markdown")


def _title(message: Mapping[str, Any]) -> str:
    return f"[{_WORDS[message['event']]}] {message['severity']}: {message['rule']}"


def _evidence(message: Mapping[str, Any]) -> list[str]:
    evidence, lines = message["evidence"], []
    if (estimate := told_estimate(evidence)) is not None:
        lines.append(f"estimate: {estimate}")
    if evidence.get("e_value") is not None:
        lines.append(f"evidence: {evidence['e_value']:.3g} (20 is enough)")
    if message.get("slice"):
        lines.append(f"slice: `{message['slice']}`")
    lines.append(f"experiment {message['experiment_id']}, at {moment(message['at_ms'])}")
    return lines


def _links(message: Mapping[str, Any], most: int) -> list[str]:
    examples = message["evidence"].get("examples") or []
    return [f"{message['url']}/monitor/trace/{quote(one, safe='')}" for one in examples[:most]]
