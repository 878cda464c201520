"""The server's ASGI app: MLflow's FastAPI app with our routes ahead of its own.

Our routes are not mounted beside MLflow's app but inside it, behind its security middleware: Host
and cross-origin checks cover them too.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import BaseRoute

from vedette.mlflow_app.bad_input import answer_bad_input
from vedette.mlflow_app.middleware import (
    BodyLimit,
    RestOfBody,
    RetryAfter,
    RoutesAhead,
    WebSocketHosts,
)


def build_app(
    routes: Sequence[BaseRoute],
    *,
    running: Callable[[], AbstractAsyncContextManager[None]],
    max_body_bytes: int,
) -> FastAPI:
    """MLflow's app, answering ``routes`` itself. One per process: MLflow's app is a global.

    The environment must have been prepared and the data directory opened: importing MLflow's app
    reads both.

    Args:
        routes: matched before MLflow's.
        running: entered before the first request is served, left after the last.
        max_body_bytes: larger bodies are answered 413, but for artifacts.
    """
    with warnings.catch_warnings():
        # MLflow's use of Starlette's WSGI adapter is not for our users to act upon
        warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
        from mlflow.server import app as flask_app
        from mlflow.server import fastapi_app
        from mlflow.server.security_utils import is_allowed_host_header

    answer_bad_input(flask_app)
    app: FastAPI = fastapi_app.app
    # MLflow's two function middlewares (workspaces, gateway timing) are for its own routes and cost
    # more than a request of ours takes; its security middlewares are classes and stay outermost.
    inner = [layer for layer in app.user_middleware if _is_function(layer)]
    security: list[Any] = [layer for layer in app.user_middleware if not _is_function(layer)]
    # None if its check of the Host header is switched off
    websockets = [
        Middleware(WebSocketHosts, partial(is_allowed_host_header, layer.kwargs["allowed_hosts"]))
        for layer in security
        if "allowed_hosts" in layer.kwargs
    ]
    app.user_middleware = [
        Middleware(RestOfBody, max_bytes=4 * max_body_bytes),
        Middleware(RetryAfter),
        *security,
        *websockets,
        Middleware(BodyLimit, max_bytes=max_body_bytes),
        Middleware(RoutesAhead, routes=list(routes)),
        *inner,
    ]
    mlflow_running = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with running(), mlflow_running(app) as state:
            yield state

    app.router.lifespan_context = lifespan
    return app


def _is_function(layer: Middleware) -> bool:
    kind: object = layer.cls
    return kind is BaseHTTPMiddleware
