"""An OpenAI-compatible LLM on loopback that does what it is told: answer, dawdle, refuse, break."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What becomes of one request."""

    status: int = 200
    body: dict[str, Any] | str = field(default_factory=lambda: verdict("yes"))
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Before it answers."""
    breaks: str = ""
    """`reset`: the connection breaks before the answer. `cut`: in the middle of it. `drip`: the
    answer comes, byte by byte, and never ends."""


@dataclass
class Request:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    payload: dict[str, Any]

    @property
    def prompt(self) -> str:
        """All messages' text."""
        return "\n".join(str(message.get("content")) for message in self.payload["messages"])


def verdict(value: Any, rationale: str = "because", **usage: Any) -> dict[str, Any]:
    """A judge's answer, as OpenAI would send it."""
    return completion(json.dumps({"result": value, "rationale": rationale}), **usage)


def completion(content: str | None, finish: str = "stop", **usage: int) -> dict[str, Any]:
    """Any answer, as OpenAI would send it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **usage},
    }


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    """The wish to use one of the tools that were offered."""
    body = completion(None, "tool_calls")
    body["choices"][0]["message"]["tool_calls"] = [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
    ]
    return body


def error(message: str, code: str | None = None) -> dict[str, Any]:
    """An error's body, as OpenAI would send it."""
    return {"error": {"message": message, "type": "some_error", "param": None, "code": code}}


class FakeLLM:
    """The server, in a thread. ``answer`` is a `Reply`, or makes one of each request."""

    def __init__(self) -> None:
        self.answer: Reply | Callable[[Request], Reply] = Reply()
        self.requests: list[Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take it for OpenAI."""
        return {"OPENAI_API_KEY": "sk-fake", "OPENAI_API_BASE": self.url}

    @property
    def url(self) -> str:
        """For OPENAI_API_BASE."""
        return f"http://127.0.0.1:{self.port}/v1"

    def reset(self, answer: Reply | Callable[[Request], Reply] | None = None) -> None:
        """Forget what was asked, and answer so from now on."""
        self.answer = answer or Reply()
        self.requests = []
        self.most_in_flight = 0
        self.connections = 0

    def close(self) -> None:
        """Stop; what is under way breaks."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await self._answer(await _read(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self._reply(request)
            await asyncio.sleep(reply.seconds)
        finally:
            self.in_flight -= 1
        if reply.breaks == "reset":
            writer.transport.abort()
            raise ConnectionError
        while reply.breaks == "drip":
            writer.write(b"H" if not writer.transport.is_closing() else b"")
            await asyncio.sleep(0.05)
            if writer.transport.is_closing():
                raise ConnectionError
        body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        length = len(body.encode()) + (100 if reply.breaks == "cut" else 0)
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        lines = [f"{name}: {value}\r\n" for name, value in {**headers, **reply.headers}.items()]
        writer.write(f"HTTP/1.1 {reply.status} Whatever\r\n{''.join(lines)}\r\n{body}".encode())
        await writer.drain()
        if reply.breaks == "cut":
            writer.transport.abort()
            raise ConnectionError

    def _reply(self, request: Request) -> Reply:
        if not callable(self.answer):
            return self.answer
        try:
            return self.answer(request)
        except Exception as problem:  # the test's own: it should see it, not wait
            return Reply(400, error(f"the test's answer failed: {problem!r}"))


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {}
    for line in head[1:]:
        name, found, value = line.partition(":")
        if found:
            headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0].split(" ")[1], headers, json.loads(body or b"{}"))
