"""``POST /api/sql``: queries over the lake's tables, which can only read them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.lake.sql.dialect import DIALECTS
from vedette.lake.sql.engine import DEFAULT_ROWS, DEFAULT_SECONDS, Answer, SqlEngine
from vedette.lake.sql.errors import QueryRefused, SqlBusy
from vedette.lake.sql.formats import TRUNCATED, json_document, to_arrow, to_json
from vedette.lake.storage import LakeUnavailable

ARROW = "application/vnd.apache.arrow.stream"
_MOST_JSON_BYTES = 32 << 20  # of the table: as Python's objects it is many times as large
_MOST_REQUESTS = 8  # that may wait for their turn
_FIELDS = ("sql", "dialect", "format", "max_rows", "seconds")


def sql_routes(engine: SqlEngine) -> list[Route]:
    """The route. Its queries have threads of their own: no other request waits for them."""
    threads = ThreadPoolExecutor(_MOST_REQUESTS, thread_name_prefix="sql")
    waiting = 0

    async def answer(request: Request) -> Response:
        nonlocal waiting
        # What another site can make a browser send without asking has another type
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return _refusal(400, "BAD_REQUEST", "the body must be JSON (Content-Type)")
        if waiting >= _MOST_REQUESTS:
            return _refusal(429, "REQUEST_LIMIT_EXCEEDED", "too many queries are waiting")
        waiting += 1
        try:
            body = await request.body()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, _respond, engine, body)
        finally:
            waiting -= 1

    return [Route("/api/sql", answer, methods=["POST"])]


def _respond(engine: SqlEngine, body: bytes) -> Response:
    try:
        fields = _fields(body)
        answer = engine.run(
            fields["sql"],
            dialect=fields.get("dialect", "databricks"),
            max_rows=fields.get("max_rows", DEFAULT_ROWS),
            seconds=fields.get("seconds", DEFAULT_SECONDS),
        )
        return _arrow(answer) if fields.get("format") == "arrow" else _json(answer)
    except QueryRefused as error:
        return _refusal(400, "INVALID_PARAMETER_VALUE", str(error))
    except SqlBusy as error:
        return _refusal(429, "REQUEST_LIMIT_EXCEEDED", str(error))
    except LakeUnavailable as error:
        return _refusal(503, "TEMPORARILY_UNAVAILABLE", str(error))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise QueryRefused(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("sql"), str):
        raise QueryRefused('the body must be an object with the query as text: {"sql": "SELECT 1"}')
    if unknown := fields.keys() - set(_FIELDS):
        raise QueryRefused(f"{min(unknown)} is not one of {', '.join(_FIELDS)}")
    if fields.get("dialect", "databricks") not in DIALECTS:
        raise QueryRefused(f"there is no dialect {fields['dialect']!r}; {' or '.join(DIALECTS)}?")
    if fields.get("format", "json") not in ("json", "arrow"):
        raise QueryRefused(f"format is {fields['format']!r}, neither json nor arrow")
    return fields


def _json(answer: Answer) -> Response:
    if answer.table.nbytes > _MOST_JSON_BYTES:
        raise QueryRefused(
            f"the result is larger than {_MOST_JSON_BYTES >> 20} MiB, too much for JSON; ask for "
            "the format arrow, or for fewer rows"
        )
    document = {
        **json_document(answer.table),
        "truncated": answer.truncated,
        "milliseconds": answer.milliseconds,
    }
    return Response(to_json(document), media_type="application/json")


def _arrow(answer: Answer) -> Response:
    headers = {TRUNCATED: str(int(answer.truncated))}
    return Response(to_arrow(answer.table), media_type=ARROW, headers=headers)


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error_code": code, "message": message}, status_code=status)
