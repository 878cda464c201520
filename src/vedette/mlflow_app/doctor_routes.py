"""``GET /api/doctor``: what `vedette doctor` finds, told by the server of its own machine."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.doctor import examine
from vedette.settings import Settings


def doctor_routes(settings: Settings) -> list[Route]:
    """The route, to be put ahead of MLflow's own."""
    examining = threading.Lock()  # it takes seconds, and answers the same to all

    def findings() -> list[dict[str, Any]]:
        with examining:
            return [asdict(finding) for finding in examine(settings)]

    async def answer(_: Request) -> Response:
        return JSONResponse({"findings": await run_in_threadpool(findings)})

    return [Route("/api/doctor", answer)]
