"""The files of a prefix in an object store: whole or in part, and put only if there is none.

Not through delta-rs's own file system: that holds Python's lock while it waits for an answer, so
that a slow store would bring the server and the engine to a stand.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from vedette.lake.storage import LakeRefused

# As those that `vedette.lake.storage` gives delta-rs: together, what a failure takes to be told
_RETRIES: dict[str, Any] = {"max_retries": 5, "retry_timeout": timedelta(seconds=15)}
_S3 = ("s3", "s3a")
_KEYS_OF_S3 = {
    *("access_key_id", "secret_access_key", "session_token", "region", "default_region"),
    *("endpoint", "endpoint_url", "virtual_hosted_style_request"),
    *("role_arn", "role_session_name", "web_identity_token_file"),
    *("endpoint_url_sts", "skip_signature", "unsigned_payload", "request_payer"),
    *("container_credentials_relative_uri", "container_credentials_full_uri"),
    *("container_authorization_token_file", "metadata_endpoint", "imdsv1_fallback"),
    *("checksum_algorithm", "server_side_encryption", "sse_kms_key_id"),
    *("sse_bucket_key_enabled", "disable_tagging"),
}
_COPY_BYTES = 8 << 20
_PROBES = "_vedette_probe"


class ObjectFiles:
    """The files below ``uri``; for any number of threads.

    Args:
        uri: ``s3://``, ``gs://``, ``az://``.
        options: as environment variables name them.

    Raises:
        LakeRefused: the options are wrong.
    """

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._uri = uri
        told: dict[str, Any] = {}
        scheme = urlparse(uri).scheme
        given = {k.lower().removeprefix("aws_"): v for k, v in options.items() if k[:4] == "AWS_"}
        if scheme in _S3:
            told["config"] = {k: v for k, v in given.items() if k in _KEYS_OF_S3}
        if scheme != "file":
            http = given.get("allow_http", "").lower() in ("true", "1")
            told.update(client_options={"allow_http": http}, retry_config=_RETRIES)
        try:
            self._store = from_url(uri, **told)
        except BaseError as error:
            raise LakeRefused(f"{uri} can't be a lake: {_first_line(error)}") from error

    def put(self, path: str, content: bytes) -> None:
        """Write a file, durably.

        Raises:
            OSError: the store is out of reach, or refuses; also for the others.
        """
        with _store_errors():
            obstore.put(self._store, path, content)

    def upload(self, path: str, source: Path) -> None:
        """Write a file from a local one, durably."""
        with _store_errors():
            obstore.put(self._store, path, source)

    def download(self, path: str, target: Path) -> None:
        """Copy a file to a local one.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with _store_errors(), target.open("wb") as file:
            for chunk in obstore.get(self._store, path).stream(_COPY_BYTES):
                file.write(chunk)

    def read(self, path: str, start: int, length: int) -> bytes:
        """A part of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with _store_errors():
            return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def delete(self, path: str) -> None:
        """Remove a file; one that isn't there is no error."""
        with _store_errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, path)

    def exist(self) -> bool:
        """Whether there is any file."""
        with _store_errors():
            return any(obstore.list(self._store, chunk_size=1))

    def require_conditional_put(self) -> None:
        """Make sure that a file is put only if there is none: what each commit relies on.

        Writes a small file and removes it.

        Raises:
            LakeRefused: the store doesn't do that, or can't be used with these settings.
            OSError: it can't be told now: try again later.
        """
        path = f"{_PROBES}/{uuid.uuid4()}"
        try:
            with suppress(AlreadyExistsError):  # of an attempt of ours whose answer was lost
                obstore.put(self._store, path, b"first", mode="create")
            try:
                obstore.put(self._store, path, b"second", mode="create")
            except AlreadyExistsError:
                return
            finally:
                with suppress(BaseError, OSError):
                    obstore.delete(self._store, path)
        except (BaseError, FileNotFoundError) as error:
            if why := self._why_refused(error):
                raise LakeRefused(f"{why} ({_first_line(error)})") from error
            raise OSError(_first_line(error)) from error
        raise LakeRefused(
            f"the object store of {self._uri} overwrites what it is asked to put only if it isn't "
            "there (If-None-Match: *): two writers of a table would lose rows. Use one that has "
            "conditional writes, or a directory, for --lake"
        )

    def _why_refused(self, error: Exception) -> str | None:
        """What is wrong with the store or the settings; None: nothing that lasts."""
        text = str(error)
        if isinstance(error, FileNotFoundError):
            return f"there is no bucket for {self._uri}: make it, or see to AWS_ENDPOINT_URL"
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return (
                f"the object store doesn't let us write to {self._uri}: see to AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, and to what they may do (get, put and delete objects, "
                "list the bucket)"
            )
        if isinstance(error, NotSupportedError) or "501 Not Implemented" in text:
            return (
                f"the object store of {self._uri} has no conditional writes (If-None-Match: *), "
                "without which two writers of a table would lose rows: use one that has them, or "
                "a directory, for --lake"
            )
        if "169.254.169.254" in text:  # where a cloud's machines get them
            return (
                f"there are no credentials for {self._uri}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        if "builder error" in text:
            return f"AWS_ENDPOINT_URL of {self._uri} is http://: set AWS_ALLOW_HTTP=true with it"
        return None


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise OSError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:400]
