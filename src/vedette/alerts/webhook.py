"""A signed webhook, as the Standard Webhooks specification has it (standardwebhooks.com, 1.0)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
import requests

_TIMEOUT_SECONDS = 10.0
_PREFIX = "whsec_"


class DeliveryFailed(Exception):
    """A channel did not take a notification; it is tried again."""


class Secret:
    """The key that webhooks are signed with, in a file that is made when it is first needed.

    Args:
        path: ``<data>/webhook-secret``, readable to its owner alone: ``whsec_`` and base64.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def key(self) -> bytes:
        """Raises:
        OSError: the file can't be read or made.
        ValueError: it holds something else.
        """
        if not self._path.exists():
            self._make()
        text = self._path.read_text().strip()
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)

    def _make(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, self._path)  # another process may have been faster: its key is the key
        except FileExistsError:
            pass
        finally:
            draft.unlink()


def signature(key: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """What the header ``webhook-signature`` says."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def post(url: str, delivery_id: str, message: Mapping[str, Any], secret: Secret) -> None:
    """POST a message once; any 2xx answer means that it was taken.

    A user and password in the URL are sent as basic authentication. Redirects are not followed.

    Raises:
        DeliveryFailed: it was not taken; says why.
    """
    content = orjson.dumps(message)
    now = int(time.time())
    parts = urlsplit(url)
    login = (parts.username, parts.password or "") if parts.username else None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(secret.key(), delivery_id, now, content),
        }
        with requests.post(
            bare,
            data=content,
            headers=headers,
            auth=login,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
            stream=True,  # what it answers besides the status is of no interest
        ) as answer:
            status = answer.status_code
    except requests.RequestException as error:  # its text has the URL's path, maybe a token
        raise DeliveryFailed(f"{parts.hostname} can't be reached: {type(error).__name__}") from None
    except (OSError, ValueError) as error:
        raise DeliveryFailed(f"the webhook can't be signed: {error}") from error
    if not 200 <= status < 300:
        raise DeliveryFailed(f"{parts.hostname} answered {status}")
