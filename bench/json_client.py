"""JSON over one kept connection; a failed request is never repeated behind the caller's back."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_IDLE_SECONDS = 2.0  # servers close idle connections after 5 s; a request must not race with that


class HttpError(Exception):
    """The server did not answer 2xx."""

    def __init__(self, method: str, path: str, status: int, body: bytes) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status} {body[:500].decode(errors='replace')}")


class JsonClient:
    """For one thread."""

    def __init__(self, url: str, *, timeout: float = 300.0) -> None:
        """
        Args:
            url: scheme, host and port.
            timeout: seconds per request.
        """
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port, timeout=timeout
        )
        self._last_used = 0.0

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON.

        Raises:
            HttpError: the server did not answer 2xx.
            OSError, http.client.HTTPException: there was no answer.
        """
        encoded = b"" if body is None else json.dumps(body).encode()
        answer = self.send(method, path, encoded, {"content-type": "application/json"})
        return json.loads(answer or b"null")

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The answer's body; raises as `call` does."""
        if time.monotonic() - self._last_used > _IDLE_SECONDS:
            self._connection.close()
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
            answer = response.read()
        except BaseException:
            self._connection.close()
            raise
        self._last_used = time.monotonic()
        if not 200 <= response.status < 300:
            raise HttpError(method, path, response.status, answer)
        return answer
