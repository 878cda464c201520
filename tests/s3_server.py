"""An S3 server for tests (moto's), and between it and Vedette a network that can fail.

moto checks whether a key exists and then writes it, without a lock between: the proxy lets one
write through at a time, as a real store decides between two conditional puts of one key.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from running import free_port

BUCKET = "lake"
_DROPPED = {"connection", "transfer-encoding", "date", "server", "content-length"}
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Request(NamedTuple):
    """What a client asked: ``path`` is below the bucket, with the query."""

    method: str
    path: str
    headers: dict[str, str]  # names in small letters

    @property
    def is_commit(self) -> bool:
        """Whether it puts a commit of a Delta log, on the condition that there is none."""
        return (
            self.method == "PUT" and "if-none-match" in self.headers and "_delta_log" in self.path
        )


class Fault(NamedTuple):
    """What happens to a request.

    Attributes:
        reaches: whether the server gets it.
        status: of the answer that the client gets; 0: the connection is cut instead; None: that of
            the server.
        share: of the answer's body that gets through before the connection is cut.
        delay: seconds before anything happens.
        without: a header that the server doesn't see.
    """

    reaches: bool = True
    status: int | None = None
    share: float | None = None
    delay: float = 0.0
    without: str = ""


THROTTLED = Fault(reaches=False, status=503)
CUT_BEFORE = Fault(reaches=False, status=0)
CUT_AFTER = Fault(status=0)
ERROR_AFTER = Fault(status=500)
CUT_SHORT = Fault(share=0.5)

Rule = Callable[[Request], Fault | None]


@dataclass
class S3Server:
    """The server and the proxy in front of it."""

    port: int
    environment: dict[str, str]
    requests: list[Request]
    rule: Rule | None = None

    @property
    def upstream(self) -> str:
        """Where the server itself is reached."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def failing(self, rule: Rule) -> Iterator[None]:
        """Have requests go wrong as ``rule`` says while the block runs."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = None

    def make_bucket(self, name: str) -> str:
        """Make a bucket; returns its URI."""
        request = urllib.request.Request(f"{self.upstream}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"


def times(count: int, matches: Callable[[Request], bool], fault: Fault) -> Rule:
    """The fault for the first ``count`` requests that match."""
    left = [count]

    def rule(request: Request) -> Fault | None:
        if left[0] and matches(request):
            left[0] -= 1
            return fault
        return None

    return rule


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """An empty server with its proxy."""
    port, proxy_port = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    server = S3Server(port, environment, [])
    proxy = _proxy(server, proxy_port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        _await(server, process)
        yield server
    finally:
        proxy.shutdown()
        proxy.server_close()
        process.kill()
        process.wait()


def _await(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError):
            server.make_bucket(BUCKET)
            return
        time.sleep(0.1)
    pytest.fail("moto's server doesn't start")


def _proxy(server: S3Server, port: int) -> ThreadingHTTPServer:
    writes = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            path = self.path.removeprefix("/").partition("/")[2]
            request = Request(self.command, path, headers)
            server.requests.append(request)
            fault = (server.rule and server.rule(request)) or Fault()
            time.sleep(fault.delay)
            status, answer, content = 503, [("Content-Type", "application/xml")], _SLOW_DOWN
            if fault.reaches:
                kept = {k: v for k, v in headers.items() if k != fault.without}
                if self.command in ("PUT", "POST"):
                    with writes:
                        status, answer, content = self._ask(kept, body)
                else:
                    status, answer, content = self._ask(kept, body)
            self._answer(fault, status, answer, content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

        def _ask(self, headers: dict[str, str], body: bytes) -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request(self.command, self.path, body, headers)
            found = connection.getresponse()
            content = found.read()
            connection.close()
            return found.status, found.getheaders(), content

        def _answer(self, fault: Fault, status: int, headers: Any, content: bytes) -> None:
            if fault.status == 0:
                self.close_connection = True
                return
            self.send_response_only(fault.status or status)
            length = len(content)
            for name, value in headers:
                if name.lower() not in _DROPPED:
                    self.send_header(name, value)
                elif name.lower() == "content-length" and self.command == "HEAD":
                    length = int(value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if fault.share is not None:
                content, self.close_connection = content[: int(length * fault.share)], True
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Proxy(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Clients that went away."""

    return Proxy(("127.0.0.1", port), Handler)
