"""Messages between the engine and a worker: a JSON header and, after it, blobs of bytes."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import orjson

_LENGTHS = struct.Struct("<II")  # of the JSON header, of all blobs together


class FrameError(Exception):
    """What came is not a message, or is too long."""


class PeerGone(FrameError):
    """The other side has gone."""


def send_frame(
    connection: socket.socket, header: dict[str, Any], blobs: Sequence[bytes] = ()
) -> None:
    """Send one message; the blobs' lengths go into the header.

    Raises:
        OSError: the other side has gone (or, if the socket has a timeout, doesn't read).
    """
    encoded = orjson.dumps({**header, "blobs": [len(blob) for blob in blobs]})
    lengths = _LENGTHS.pack(len(encoded), sum(map(len, blobs)))
    connection.sendall(b"".join((lengths, encoded, *blobs)))


def receive_frame(
    connection: socket.socket, *, limit: int, deadline: float | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Wait for one message.

    Args:
        limit: bytes it may have at most.
        deadline: `time.monotonic()` at which to give up; None waits for ever.

    Raises:
        TimeoutError: the deadline has passed.
        PeerGone: there will be no message.
        FrameError: what came is something else.
    """
    header_length, blobs_length = _LENGTHS.unpack(_receive(connection, _LENGTHS.size, deadline))
    if header_length + blobs_length > limit:
        raise FrameError(f"a message of {header_length + blobs_length:,} bytes")
    try:
        header = orjson.loads(_receive(connection, header_length, deadline))
        blobs = _receive(connection, blobs_length, deadline)
        result, at = [], 0
        for length in header["blobs"]:
            result.append(bytes(blobs[at : at + length]))
            at += length
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise FrameError(f"not a message: {error}") from error
    return header, result


def _receive(connection: socket.socket, size: int, deadline: float | None) -> memoryview:
    buffer = memoryview(bytearray(size))
    at = 0
    while at < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        try:
            count = connection.recv_into(buffer[at:])
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerGone(str(error)) from error
        if count == 0:
            raise PeerGone
        at += count
    return buffer
