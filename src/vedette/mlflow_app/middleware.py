"""ASGI layers of ours around MLflow's app: routes ahead of its own, bodies, Retry-After."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vedette.intake.signals import SIGNALS

_RETRY_AFTER = b"1"  # seconds; the journal drains, or refuses, within about that
_DISCARD_SECONDS = 10.0
# MLflow's artifact proxy streams files to disk; how large they may be is not ours to say. OTLP's
# routes count for themselves, to answer in OTLP's way.
_UNLIMITED = (
    "/api/2.0/mlflow-artifacts/",
    "/ajax-api/2.0/mlflow-artifacts/",
    *(path for signal in SIGNALS for path in signal.paths),
)
_UNLIMITED_ENDS = ("/mlflow/upload-artifact",)


class RoutesAhead:
    """Answers what matches ``routes``; passes everything else on."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        # HTTPExceptions of our routes become answers here: MLflow's layer for that is further in
        self._router = ExceptionMiddleware(Router(routes, redirect_slashes=False, default=app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the app's own, not the router's
            await self._app(scope, receive, send)
        else:
            await self._router(scope, receive, send)


class WebSocketHosts:
    """Refuses websockets by the ``Host`` they name: MLflow's layer checks requests only.

    Args:
        app: gets the others.
        is_allowed: tells whether a host is one of ours.
    """

    def __init__(self, app: ASGIApp, is_allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._is_allowed = is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not self._is_allowed(host):
                await send({"type": "websocket.close", "code": 1008})  # answered 403
                return
        await self._app(scope, receive, send)


class RetryAfter:
    """Adds ``Retry-After`` to answers that say "not now": MLflow's handlers can't set headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                headers: list[Any] = list(message.get("headers", ()))
                if not any(name.lower() == b"retry-after" for name, _ in headers):
                    headers.append((b"retry-after", _RETRY_AFTER))
                message = {**message, "headers": headers}
            await send(message)

        if scope["type"] == "http":
            await self._app(scope, receive, send_with_header)
        else:
            await self._app(scope, receive, send)


class RestOfBody:
    """Receives what is left of a request's body before the answer to it begins.

    Most clients read the answer when they have sent everything. Closing the connection before that
    breaks it under their hands: they report a broken pipe, and never see why they were refused.

    Args:
        app: may answer without having received the whole body.
        max_bytes: of what is left; beyond it, or after 10 seconds, the connection is closed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if not {b"content-length", b"transfer-encoding"} & headers.keys():
            await self._app(scope, receive, send)
            return
        # A client that expects to be told to continue sends nothing until it is
        sending, whole = b"expect" not in headers, False

        async def receive_noted() -> Message:
            nonlocal sending, whole
            message = await receive()
            sending, whole = True, not message.get("more_body", False)
            return message

        async def discard() -> None:
            left = self._max_bytes
            while not whole and left > 0:
                left -= len((await receive_noted()).get("body", b""))

        async def send_after(message: Message) -> None:
            if message["type"] == "http.response.start" and not whole:
                if sending:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(discard(), _DISCARD_SECONDS)
                if not whole:
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive_noted, send_after)


class _BodyTooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to bodies over ``max_bytes``, before MLflow gathers them in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_unlimited(scope["path"]):
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received, answering = 0, False

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise _BodyTooLarge
            return message

        async def send_noted(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receive_counted, send_noted)
        except _BodyTooLarge:
            if not answering:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = JSONResponse(
            {
                "error_code": "INVALID_PARAMETER_VALUE",
                "message": f"the request body is larger than {self._max_bytes:,} bytes; send less "
                "at once, or raise --max-body-bytes",
            },
            status_code=413,
        )
        await answer(scope, receive, send)


def _is_unlimited(path: str) -> bool:
    return path.startswith(_UNLIMITED) or path.endswith(_UNLIMITED_ENDS)
