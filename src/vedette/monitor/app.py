"""NiceGUI inside a server that is not its own: the routes to insert, and its life."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import core, ui
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route

from vedette.monitor.data import MonitorData
from vedette.monitor.pages import overview, scorer, scorers, trace

_PREFIX = "/monitor"
_FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="13" '
    'fill="none" stroke="#0072B2" stroke-width="4"/><circle cx="16" cy="16" r="5" fill="#0072B2"/>'
    "</svg>"
)


def monitor_routes(data: MonitorData) -> list[BaseRoute]:
    """``/monitor`` and all beneath it. Once per process: NiceGUI's app is a global."""
    ui.add_head_html(f"<style>{_asset('style.css')}</style>", shared=True)
    ui.add_head_html(f"<script>{_asset('page.js')}</script>", shared=True)
    overview.add_page(data)
    scorer.add_page(data)
    scorers.add_page(data)
    trace.add_page(data)
    # NiceGUI wants to be mounted on an app of ours; MLflow's has a catch-all that comes first
    pages = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    ui.run_with(
        pages,
        title="Vedette",
        favicon=_FAVICON,
        dark=None,
        language="en-US",
        binding_refresh_interval=None,  # nothing here is bound to what has to be polled
        tailwind=False,
        show_welcome_message=False,
    )
    core.sio.eio.cors_allowed_origins = _is_same_site
    for name in ("socketio.server", "engineio.server"):
        logging.getLogger(name).handlers.clear()  # of their own: the process has one
    return [Route(_PREFIX, _to_overview), Mount(_PREFIX, pages)]


@asynccontextmanager
async def monitor_running() -> AsyncIterator[None]:
    """NiceGUI's tasks run while the block does."""
    async with nicegui_app.router.lifespan_context(nicegui_app):
        yield
    await core.sio.shutdown()


async def _to_overview(request: Request) -> RedirectResponse:
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{_PREFIX}/{query}")


def _is_same_site(origin: str, environ: dict[str, Any]) -> bool:
    """Whether a page of ours opens the live connection. NiceGUI lets those of any site do so."""
    hosts = (environ.get("HTTP_HOST"), environ.get("HTTP_X_FORWARDED_HOST"))
    return urlsplit(origin).netloc in hosts


def _asset(name: str) -> str:
    return files("vedette.monitor").joinpath(name).read_text(encoding="utf-8")
