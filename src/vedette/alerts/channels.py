"""Where notifications go: a URL is a channel."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from vedette.alerts.templates import text_for
from vedette.alerts.webhook import DeliveryFailed, Secret, post

_WEBHOOKS = ("http", "https")
# Of apprise's schemes: those that run programs or show windows on the server's machine
_REFUSED = ("dbus", "glib", "gnome", "kde", "macosx", "qt", "syslog", "windows")


class ChannelError(ValueError):
    """A URL is no channel; the message says what to write."""


def require_channel(url: Any) -> None:
    """Refuse what nothing can be sent to.

    Raises:
        ChannelError: it says what to write; the URL, which may hold a token, is not in it.
    """
    if not isinstance(url, str):
        raise ChannelError(f"a channel is a URL, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise ChannelError(f"{shown(url)} is no URL: {error}") from error
    if parts.scheme in _WEBHOOKS:
        if not host:
            raise ChannelError("a webhook is a URL like https://example.org/hook: the host misses")
        return
    if any(key.lower() == "template" for key in parse_qs(parts.query, keep_blank_values=True)):
        raise ChannelError(f"{shown(url)}: a template would be a file of the server; leave it out")
    if not parts.scheme or parts.scheme in _REFUSED or not _known(url):
        raise ChannelError(
            f"{shown(url)} is no channel: write https://... for a webhook, or an apprise URL such"
            " as slack://TOKEN_A/TOKEN_B/TOKEN_C, workflows://... (Teams), mailto://... or"
            " pagerduty://..."
        )


def shown(url: str) -> str:
    """The URL as people may see it: without user, path and query, where tokens are."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "what was given"
    if scheme not in _WEBHOOKS:
        return f"{scheme[:20]}://..."
    host = rest.split("/")[0].split("?")[0].rpartition("@")[2]
    return f"{scheme}://{host[:100]}/..."


def send(url: str, delivery_id: str, message: Mapping[str, Any], secret: Secret) -> None:
    """Send once.

    Args:
        delivery_id: the same for every attempt, so that a receiver can tell a repetition.

    Raises:
        DeliveryFailed: it was not taken; the message has no tokens.
    """
    if urlsplit(url).scheme in _WEBHOOKS:
        post(url, delivery_id, message, secret)
    else:
        _apprise(url, message)


def _known(url: str) -> bool:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs the URL, token and all
    return apprise.Apprise.instantiate(url, suppress_exceptions=True) is not None


def _apprise(url: str, message: Mapping[str, Any]) -> None:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    channel = apprise.Apprise()
    if not channel.add(_one_incident(url, message)):
        _fail("apprise knows no such channel")
    failure, success = apprise.NotifyType.FAILURE, apprise.NotifyType.SUCCESS
    kinds = {"firing": failure, "again": failure, "resolved": success}
    text = text_for(urlsplit(url).scheme, message)
    sent = channel.notify(
        title=text.title,
        body=text.body,
        notify_type=kinds.get(message["event"], apprise.NotifyType.INFO),
        body_format=text.format,
    )
    if not sent:
        _fail(f"{shown(url)} did not take it")


def _one_incident(url: str, message: Mapping[str, Any]) -> str:
    """For PagerDuty: one incident of a rule, however often it is told, that ends when it does."""
    parts = urlsplit(url)
    if parts.scheme != "pagerduty" or message["event"] == "test":
        return url
    rule = f"{message['url']} {message['experiment_id']} {message['rule']}"
    own = f"action=map&dedup={hashlib.sha256(rule.encode()).hexdigest()}"
    return parts._replace(query=f"{parts.query}&{own}" if parts.query else own).geturl()


def _fail(reason: str) -> NoReturn:
    raise DeliveryFailed(reason)
