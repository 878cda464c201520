"""What judges ask of LLM providers, seen where MLflow sends it. Used in the judge host alone.

MLflow keeps tokens of good answers only, drops Retry-After, and repeats what failed, up to ten
times, sleeping meanwhile. So its requests are watched on their way: what each call cost and how it
failed is noted, a call ends with the time limit of its judge, and a failure that will pass is
raised as an exception MLflow doesn't know to repeat: when to try again is for the engine to say.
"""

from __future__ import annotations

import email.utils
import functools
import importlib
import importlib.util
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import requests

from vedette.scoring.connections import Connections
from vedette.scoring.token_usage import token_usage, told_cost, why_finished

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_CONNECT_SECONDS = 10.0
_BODY_LIMIT = 4_000  # characters kept of what a provider says of a failure
_LONGEST_WAIT = 24 * 3600.0
_SECRET = re.compile(r"([?&](?:key|api[-_]?key|access_token)=)[^&\s)'\"]+", re.IGNORECASE)


@dataclass(slots=True)
class ProviderCall:
    """One request to an LLM provider."""

    model: str | None
    """As the request names it, without the provider."""
    status: int | None = None
    """HTTP's; None if no answer came."""
    problem: str | None = None
    """What the provider, or the network, says of a failure."""
    timed_out: bool = False
    after_seconds: float | None = None
    """Retry-After."""
    tokens: dict[str, int] = field(default_factory=dict)
    """By MLflow's names: input_tokens, output_tokens, cache_read_input_tokens, ..."""
    cost_usd: float | None = None
    """Where the provider tells."""
    finish: str | None = None
    """Why the model stopped, where that is not because it was done."""


class ProviderFailed(Exception):
    """A call failed in a way that will pass; `Watch.calls` has more."""


@dataclass(slots=True)
class Watch:
    """The calls of one judge on one unit."""

    deadline: float
    """`time.monotonic()` by which every call ends."""
    calls: list[ProviderCall] = field(default_factory=list)


_watch: ContextVar[Watch | None] = ContextVar("provider_calls", default=None)


@contextmanager
def watching(seconds: float) -> Iterator[Watch]:
    """Note the calls made within the block, which may take `seconds` in all."""
    watch = Watch(time.monotonic() + seconds)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


def install(tracking_uri: str | None) -> None:
    """Watch this process's requests from now on.

    Args:
        tracking_uri: MLflow's server. What goes there is no call of a provider, but for its
            gateway.
    """
    _watch_requests(tracking_uri)
    if importlib.util.find_spec("litellm") is not None:
        _watch_litellm()


def retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait as an HTTP header says it: a number, or a date.

    Args:
        text: the header's value.
        now: Unix seconds.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), _LONGEST_WAIT)


def _watch_requests(tracking_uri: str | None) -> None:
    original = requests.Session.request
    connections = Connections()
    server = (tracking_uri or "").rstrip("/")

    @functools.wraps(original)
    def request(self: requests.Session, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        watch = _watch.get()
        payload = kwargs.get("json")
        own = server and str(url).startswith(f"{server}/") and "/gateway/" not in str(url)
        if watch is None or own or not isinstance(payload, dict):  # no LLM is asked without JSON
            return original(self, method, url, *args, **kwargs)
        model = payload.get("model")
        call = ProviderCall(model if isinstance(model, str) else None)
        watch.calls.append(call)
        left = watch.deadline - time.monotonic()
        if left <= 0:
            call.timed_out, call.problem = True, "no time was left for another call"
            raise ProviderFailed(call.problem)
        kwargs["timeout"] = (min(_CONNECT_SECONDS, left), left)
        try:
            with connections.lent() as session:
                response = original(session, method, url, *args, **kwargs)
        except OSError as error:  # all that requests raises is one
            if isinstance(error, ValueError):  # the URL is none: it won't pass
                call.problem = _without_secrets(str(error))
                raise
            call.timed_out = isinstance(error, (requests.Timeout, TimeoutError))
            call.problem = _without_secrets(str(error))
            raise ProviderFailed(call.problem) from error
        _note_response(call, response)
        if response.status_code in _TRANSIENT:
            raise ProviderFailed(f"HTTP {response.status_code}: {call.problem}")
        return response

    requests.Session.request = request  # type: ignore[method-assign, assignment]


def _note_response(call: ProviderCall, response: requests.Response) -> None:
    call.status = response.status_code
    if response.status_code >= 400:
        call.problem = response.text[:_BODY_LIMIT] or response.reason
        call.after_seconds = retry_after(response.headers.get("Retry-After"), time.time())
        return
    try:
        body = response.json()
    except ValueError:
        return
    if isinstance(body, dict):
        call.tokens = token_usage(body)
        call.cost_usd = told_cost(body)
        call.finish = why_finished(body)


def _watch_litellm() -> None:
    """litellm sends through libraries of its own, so its one function is watched instead."""
    litellm = importlib.import_module("litellm")
    original = litellm.completion

    @functools.wraps(original)
    def completion(*args: Any, **kwargs: Any) -> Any:
        watch = _watch.get()
        if watch is None:
            return original(*args, **kwargs)
        name = str(kwargs.get("model") or (args[0] if args else ""))
        call = ProviderCall(name.split("/", 1)[-1])
        watch.calls.append(call)
        kwargs.pop("retry_policy", None)
        kwargs |= {"num_retries": 0, "max_retries": 0}
        kwargs["timeout"] = max(0.1, watch.deadline - time.monotonic())
        try:
            response = original(*args, **kwargs)
        except Exception as error:
            _note_exception(call, error)
            raise
        call.status = 200
        body = response.model_dump()
        call.tokens = token_usage(body)
        call.finish = why_finished(body)
        cost = (getattr(response, "_hidden_params", None) or {}).get("response_cost")
        call.cost_usd = cost if isinstance(cost, (int, float)) else None
        return response

    litellm.completion = completion  # type: ignore[attr-defined]


def _note_exception(call: ProviderCall, error: Exception) -> None:
    """litellm's exceptions are OpenAI's: a status, and the response they came of."""
    status = getattr(error, "status_code", None)
    call.problem = str(error)[:_BODY_LIMIT]
    call.timed_out = "timeout" in type(error).__name__.lower()
    if isinstance(status, int) and not call.timed_out:
        # What it says of a broken connection is 500, with no answer behind it
        call.status = None if "connection" in type(error).__name__.lower() else status
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    call.after_seconds = retry_after(headers.get("retry-after"), time.time())


def _without_secrets(text: str) -> str:
    """Errors of the network quote addresses, and some providers want the key in them."""
    return _SECRET.sub(r"\1***", text)
