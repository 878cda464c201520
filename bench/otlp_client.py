"""Sends requests made beforehand over a few kept connections, as fast as they are acknowledged."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

_GIVE_UP_SECONDS = 120.0


@dataclass
class Sent:
    """What became of the requests of one run."""

    seconds: float = 0.0
    acknowledged: list[int] = field(default_factory=list)  # indices of the requests
    latencies: list[float] = field(default_factory=list)  # seconds, acknowledged requests only
    refused: dict[str, int] = field(default_factory=dict)  # by status; refused ones are not retried

    @property
    def median_ms(self) -> float:
        """Median time to the acknowledgement."""
        return 1e3 * statistics.median(self.latencies) if self.latencies else float("nan")

    @property
    def p99_ms(self) -> float:
        """99th percentile of the time to the acknowledgement."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[int(0.99 * len(ordered))] if ordered else float("nan")


def send(
    url: str, experiment_id: str, bodies: Sequence[bytes], *, concurrency: int, seconds: float
) -> Sent:
    """Post OTLP bodies from a process of their own until all are sent or the time is over.

    Args:
        url: of the server.
        experiment_id: for the header ``x-mlflow-experiment-id``.
        bodies: protobuf requests; each is sent at most once.
        concurrency: connections, each with one request under way.
        seconds: no request begins later than this.
    """
    context = multiprocessing.get_context("fork")  # the bodies need not be copied
    here, there = context.Pipe(duplex=False)

    def send_and_report() -> None:
        there.send(uvloop.run(_send(url, experiment_id, bodies, concurrency, seconds)))

    worker = context.Process(target=send_and_report)
    worker.start()
    there.close()
    try:
        sent: Sent = here.recv()
    finally:
        worker.join()
    return sent


async def _send(
    url: str, experiment_id: str, bodies: Sequence[bytes], concurrency: int, seconds: float
) -> Sent:
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    head = (
        f"POST /v1/traces HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"x-mlflow-experiment-id: {experiment_id}\r\n"
        "Content-Type: application/x-protobuf\r\nContent-Length: "
    ).encode()
    sent, pending = Sent(), iter(range(len(bodies)))
    began = time.perf_counter()

    async def keep_sending() -> None:
        connection: _Connection | None = None
        for i in pending:
            start = time.perf_counter()
            if start - began > seconds:
                return
            message = b"%b%d\r\n\r\n%b" % (head, len(bodies[i]), bodies[i])
            try:
                if connection is None or connection.closed:
                    connection = await _connect(host, port)
                status = await asyncio.wait_for(connection.post(message), _GIVE_UP_SECONDS)
            except (OSError, TimeoutError) as error:
                connection = None
                sent.refused[type(error).__name__] = sent.refused.get(type(error).__name__, 0) + 1
                continue
            if status == 200:
                sent.acknowledged.append(i)
                sent.latencies.append(time.perf_counter() - start)
            else:
                sent.refused[str(status)] = sent.refused.get(str(status), 0) + 1

    await asyncio.gather(*(keep_sending() for _ in range(concurrency)))
    sent.seconds = time.perf_counter() - began
    return sent


async def _connect(host: str, port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, host, port)
    return connection


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time; the answer's body is read and dropped."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    async def post(self, message: bytes) -> int:
        if self._transport is None or self.closed:
            raise ConnectionResetError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(message)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))
