"""The OTLP routes over a real journal, without the rest of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.types import Message

from vedette.intake.http import Destination, otlp_routes
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.otlp import PROTOBUF, RequestRefused
from vedette.intake.records import Position, Record


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class OtlpServer:
    """Serves OTLP; experiments 0 and 7 exist.

    Args:
        directory: of the journal.
        max_body_bytes: limit of bodies.
        journal_bytes: limit of the journal.
    """

    def __init__(self, directory: Path, *, max_body_bytes: int, journal_bytes: int = 2**30) -> None:
        self.journal = JournalWriter(directory / "journal", max_bytes=journal_bytes)
        self._reader = JournalReader(directory / "journal")
        self._read = Position(0, 0)
        self._app = Starlette(routes=otlp_routes(self.journal, _resolve, max_body_bytes))
        self._runner = asyncio.Runner()

    def __enter__(self) -> OtlpServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.close()
        self.journal.close()

    def post(
        self,
        body: bytes | Iterable[bytes],
        headers: dict[str, str] | None = None,
        path: str = "/v1/traces",
    ) -> Answer:
        """Send a request; protobuf unless ``headers`` say otherwise, in chunks if given some."""
        sent = {"content-type": PROTOBUF, **(headers or {})}
        if isinstance(body, bytes):
            sent.setdefault("content-length", str(len(body)))
        chunks = [body] if isinstance(body, bytes) else body
        return self._runner.run(self._post(chunks, sent, path))

    def post_together(self, bodies: Iterable[bytes]) -> list[Answer]:
        """Send requests that all have their bodies under way at the same time."""

        async def send_all() -> list[Answer]:
            go_on = asyncio.Event()
            headers = {"content-type": PROTOBUF}
            posts = [
                asyncio.ensure_future(self._post([body], headers, "/v1/traces", go_on))
                for body in bodies
            ]
            await asyncio.wait(posts, timeout=1.0)
            go_on.set()
            return await asyncio.gather(*posts)

        return self._runner.run(send_all())

    async def _post(
        self,
        chunks: Iterable[bytes],
        headers: dict[str, str],
        path: str,
        go_on: asyncio.Event | None = None,
    ) -> Answer:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()
            ],
        }
        messages = iter([{"type": "http.request", "body": c, "more_body": True} for c in chunks])
        answers: list[Message] = []

        async def receive() -> Message:
            if message := next(messages, None):
                return message
            if go_on is not None:
                await go_on.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            answers.append(message)

        await self._app(scope, receive, send)
        start, *bodies = answers
        return Answer(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in bodies),
        )

    def records(self) -> list[Record]:
        """What has gone into the journal since the last call."""
        found = self._reader.read(self._read, 2**30)
        if found:
            self._read = found[-1][1]
        return [record for record, _ in found]


async def _resolve(experiment_id: str | None, location: str | None) -> Destination:
    if experiment_id not in (None, "0", "7"):
        raise RequestRefused(404, f"there is no experiment {experiment_id!r}")
    return Destination(experiment_id or "0")
