"""``/api/alerts``: rules, their states and history; silence, acknowledge, test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.alerts import Alerts

_HISTORY = 100
_RULE = "/api/alerts/{experiment}/{name:path}"


def alert_routes(alerts: Alerts) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""

    async def answer_list(request: Request) -> Response:
        experiment = request.query_params.get("experiment")
        return await _answer(lambda: {"alerts": alerts.rules(experiment)})

    async def answer_history(request: Request) -> Response:
        experiment = request.path_params["experiment"]
        name = request.query_params.get("name")
        return await _answer(lambda: {"history": alerts.history(experiment, name, _limit(request))})

    async def answer_silences(request: Request) -> Response:
        experiment = request.path_params["experiment"]
        return await _answer(lambda: {"silences": alerts.silences(experiment)})

    async def answer_rule(request: Request) -> Response:
        where = (request.path_params["experiment"], request.path_params["name"])
        if request.method == "DELETE":
            return await _answer(lambda: alerts.remove(*where))
        if request.method == "PUT":
            body = await _body(request)
            keep = "keep_channels" in request.query_params
            if "dry_run" in request.query_params:
                return await _answer(
                    lambda: {"changes": alerts.changes(*where, body(), keep_channels=keep)}
                )
            return await _answer(lambda: alerts.put(*where, body(), keep_channels=keep))
        return await _answer(lambda: alerts.show(*where))

    async def answer_act(request: Request) -> Response:
        where = (request.path_params["experiment"], request.path_params["name"])
        body = await _body(request)

        def act() -> Any:
            match request.path_params["act"]:
                case "acknowledge":
                    return alerts.acknowledge(*where, body())
                case "silence":
                    return alerts.silence(*where, body())
                case _:
                    return {"deliveries": alerts.test(*where)}

        return await _answer(act)

    acts = "/api/alert-{act}/{experiment}/{name:path}"
    return [
        Route("/api/alerts", answer_list),
        Route("/api/alert-history/{experiment}", answer_history),
        Route("/api/alert-silences/{experiment}", answer_silences),
        *(
            Route(acts.replace("{act}", act), _with(answer_act, act), methods=["POST"])
            for act in ("acknowledge", "silence", "test")
        ),
        Route(_RULE, answer_rule, methods=["GET", "PUT", "DELETE"]),
    ]


def _with(answer: Callable[[Request], Any], act: str) -> Callable[[Request], Any]:
    async def answer_act(request: Request) -> Response:
        request.path_params["act"] = act
        found: Response = await answer(request)
        return found

    return answer_act


async def _body(request: Request) -> Callable[[], Any]:
    """What gives the JSON of a request, or says that it is none."""
    try:
        value = await request.json()
    except (ValueError, RecursionError) as error:
        refusal = MlflowException.invalid_parameter_value(f"not JSON: {error}")

        def refuse() -> Any:
            raise refusal

        return refuse
    return lambda: value


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_HISTORY))
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
        raise MlflowException.invalid_parameter_value(f"limit must be a number, not {text!r:.50}")
    return int(text)


async def _answer(act: Callable[[], Any]) -> Response:
    try:
        found = await run_in_threadpool(act)
    except MlflowException as error:
        body = {"error_code": error.error_code, "message": error.message}
        return JSONResponse(body, status_code=error.get_http_status_code())
    return JSONResponse({} if found is None else found)
