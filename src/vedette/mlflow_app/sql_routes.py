"""``POST /api/sql``: queries over the lake's tables, which can only read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vedette.lake.sql.engine import DEFAULT_ROWS, DEFAULT_SECONDS, SqlEngine
from vedette.lake.sql.errors import QueryRefused, SqlBusy
from vedette.lake.sql.formats import TRUNCATED
from vedette.lake.storage import LakeUnavailable

_MEDIA_TYPES = {"arrow": "application/vnd.apache.arrow.stream", "json": "application/json"}
_MOST_BODY_BYTES = 1 << 20
_MOST_REQUESTS = 8  # that may wait for their turn, or for their result to be fetched
_CHUNK_BYTES = 256 << 10
_SEND_SECONDS = 60.0
_FIELDS = ("sql", "dialect", "format", "max_rows", "seconds")


def sql_routes(engine: SqlEngine) -> list[Route]:
    """The route. Its queries have threads of their own: no other request waits for them."""
    threads = ThreadPoolExecutor(_MOST_REQUESTS, thread_name_prefix="sql")
    turns = _MOST_REQUESTS

    def give_back() -> None:
        nonlocal turns
        turns += 1

    async def answer(request: Request) -> ASGIApp:
        nonlocal turns
        # What another site can make a browser send without asking has another type
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return _refusal(400, "BAD_REQUEST", "the body must be JSON (Content-Type)")
        body = await _body(request)
        if body is None:
            message = f"the body is larger than {_MOST_BODY_BYTES >> 20} MiB"
            return _refusal(413, "INVALID_PARAMETER_VALUE", message)
        if not turns:
            return _refusal(429, "REQUEST_LIMIT_EXCEEDED", "too many queries are waiting")
        turns -= 1
        try:
            loop = asyncio.get_running_loop()
            response = await loop.run_in_executor(threads, _respond, engine, body)
        except BaseException:
            give_back()
            raise
        return _UntilSent(response, give_back)

    return [Route("/api/sql", answer, methods=["POST"])]


class _UntilSent:
    """A response whose turn ends when it has been sent: results that wait for it take memory."""

    def __init__(self, response: Response, done: Callable[[], None]) -> None:
        self._response = response
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(TimeoutError):  # a client that doesn't read gets no more
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._response(scope, receive, send)
        finally:
            self._done()


async def _body(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY_BYTES:
            return None
    return body


def _respond(engine: SqlEngine, body: bytes) -> Response:
    try:
        fields = _fields(body)
        form = fields.get("format", "json")
        result = engine.run(
            fields["sql"],
            dialect=fields.get("dialect", "databricks"),
            form=form,
            max_rows=fields.get("max_rows", DEFAULT_ROWS),
            seconds=fields.get("seconds", DEFAULT_SECONDS),
        )
    except QueryRefused as error:
        return _refusal(400, "INVALID_PARAMETER_VALUE", str(error))
    except SqlBusy as error:
        return _refusal(429, "REQUEST_LIMIT_EXCEEDED", str(error))
    except LakeUnavailable as error:
        return _refusal(503, "TEMPORARILY_UNAVAILABLE", str(error))
    headers = {TRUNCATED: str(int(result.truncated)), "Content-Length": str(len(result.content))}
    return StreamingResponse(
        _chunks(result.content), headers=headers, media_type=_MEDIA_TYPES[form]
    )


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES]


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise QueryRefused(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("sql"), str):
        raise QueryRefused('the body must be an object with the query as text: {"sql": "SELECT 1"}')
    if unknown := fields.keys() - set(_FIELDS):
        raise QueryRefused(f"{min(unknown)} is not one of {', '.join(_FIELDS)}")
    return fields


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error_code": code, "message": message}, status_code=status)
