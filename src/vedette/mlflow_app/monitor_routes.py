"""``/api/vedette/...``: the figures under the monitor's pages."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.monitor.data import MonitorData, ScorerView
from vedette.monitor.figures.period import DEFAULT_RANGE, Period, PeriodError, period


def monitor_data_routes(data: MonitorData) -> list[Route]:
    """The routes, to be put ahead of MLflow's own. Each takes ``experiment_id``, ``range`` and
    ``until``."""

    async def overview(request: Request) -> Response:
        def tell() -> Response:
            found = data.overview(*_asked(request))
            figures = found.figures.document()
            return JSONResponse({**figures, "firing": found.firing, "at": found.at})

        return await _answer(tell)

    async def traffic(request: Request) -> Response:
        def tell() -> Response:
            return _csv("traffic", data.overview(*_asked(request)).figures.series)

        return await _answer(tell)

    async def scorer(request: Request) -> Response:
        def tell() -> Response:
            return JSONResponse(_scorer(data, request).detail.document())

        return await _answer(tell)

    async def scores(request: Request) -> Response:
        def tell() -> Response:
            series = _scorer(data, request).detail.series
            rows = [{"name": name, **one} for name, points in series.items() for one in points]
            return _csv("scores", rows)

        return await _answer(tell)

    return [
        Route("/api/vedette/overview", overview),
        Route("/api/vedette/scorer", scorer),
        Route("/api/vedette/scores.csv", scores),
        Route("/api/vedette/traffic.csv", traffic),
    ]


def _scorer(data: MonitorData, request: Request) -> ScorerView:
    experiment_id, asked = _asked(request)
    name = request.query_params.get("name", "")
    if not name:
        raise MlflowException.invalid_parameter_value("name= must say which scorer")
    return data.scorer(experiment_id, name, asked)


def _asked(request: Request) -> tuple[str, Period]:
    """The experiment and the period that a request names."""
    experiment_id = request.query_params.get("experiment_id", "")
    if not (experiment_id.isascii() and experiment_id.isdigit()):
        raise MlflowException.invalid_parameter_value(
            f"experiment_id={experiment_id[:40]!r} is no experiment's id, such as 1"
        )
    try:
        named = request.query_params.get("range", DEFAULT_RANGE)
        return experiment_id, period(named, request.query_params.get("until"))
    except PeriodError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error


async def _answer(tell: Callable[[], Response]) -> Response:
    try:
        return await run_in_threadpool(tell)
    except MlflowException as error:
        body = {"error_code": error.error_code, "message": error.message}
        return JSONResponse(body, status_code=error.get_http_status_code())


def _csv(name: str, rows: Sequence[Mapping[str, Any]]) -> Response:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)
