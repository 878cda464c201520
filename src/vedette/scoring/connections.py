"""Connections to providers, kept open for the next call.

MLflow opens one for each call. Over TLS that takes some 20 ms of processor time, for reading the
certificates alone, during which no other judge of the host does anything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import requests

_IDLE_SECONDS = 4.0  # some servers close what is idle for five
_MOST_IDLE = 256


class Connections:
    """Sessions of `requests`, each lent to one call at a time. Safe to use from threads."""

    def __init__(self) -> None:
        self._idle: deque[tuple[requests.Session, float]] = deque(maxlen=_MOST_IDLE)

    @contextmanager
    def lent(self) -> Iterator[requests.Session]:
        """A session for one call. What fails is not used again."""
        session = self._take()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        session.cookies.clear()  # calls have nothing to do with each other
        self._idle.append((session, time.monotonic()))

    def _take(self) -> requests.Session:
        try:
            session, since = self._idle.pop()  # the one used last
        except IndexError:
            return requests.Session()
        if time.monotonic() - since < _IDLE_SECONDS:
            return session
        session.close()
        return requests.Session()
