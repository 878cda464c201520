"""Where a table's files are: a local directory or a prefix in an object store."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError, DeltaProtocolError, SchemaMismatchError

if TYPE_CHECKING:
    from vedette.lake.objects import ObjectFiles

logger = logging.getLogger(__name__)

_DECORATION = re.compile("\x1b\\[[0-9;]*m|\u21b3 ?")  # colours and arrows in delta-rs's errors
_OPTION_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
# The object store's client alone would try for three minutes before it told us that it can't.
_RETRIES = {"max_retries": "5", "retry_timeout": "15s"}
# Only where values repeat: a dictionary of prompts is built for nothing.
_DICTIONARY_COLUMNS = [
    "service_name",
    "trace_id",
    "name",
    "kind",
    "status.code",
    "experiment_id",
    "span_type",
    "model_name",
    "model_provider",
    "resource.attributes",
    "instrumentation_scope.name",
    "target_type",
    "target_id",
    "annotation_type",
    "created_by",
    "source_type",
]
_SAFE_STORES: set[tuple[str, ...]] = set()  # bucket and options that were tried
_IDS = ["record_id", "span_id", "annotation_id", "decision_id"]  # texts that are never NULL


class LakeUnavailable(Exception):
    """The lake can't be reached or written now; nothing is lost, try again later."""


class LakeRefused(LakeUnavailable):
    """The lake can't be where it is set to be; the message says why and what to do."""


def storage_options(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The object store's options (endpoint, region, credentials): its own environment variables."""
    given = {k: v for k, v in environment.items() if k.startswith(_OPTION_PREFIXES)}
    return {**_RETRIES, **given}


@contextmanager
def lake_errors(doing: str) -> Iterator[None]:
    """Tell a lake that is out of reach (`LakeUnavailable`) from defects (anything else).

    delta-rs has no error classes for this: what isn't known to be a defect is taken as the
    former. A panic in it is a BaseException, which would end the engine's loop.
    """
    try:
        yield
    except (SchemaMismatchError, DeltaProtocolError):
        raise
    except (OSError, DeltaError) as error:
        raise LakeUnavailable(f"{doing} failed: {_first_lines(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise LakeUnavailable(f"{doing} failed inside delta-rs: {_first_lines(error)}") from error


def _first_lines(error: BaseException) -> str:
    plain = _DECORATION.sub("", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return "; ".join(lines[:6]) or type(error).__name__


class Storage:
    """The files of the table at ``uri``; paths are relative to it, as in Delta's log."""

    def __init__(self, uri: str, options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.options = dict(options or {})
        parsed = urlparse(self.uri)
        self.local: Path | None = None
        if parsed.scheme in ("", "file"):
            self.local = Path(unquote(parsed.path) if parsed.scheme else self.uri)

    @cached_property
    def objects(self) -> ObjectFiles:
        """The files in the object store; there are none of these where ``local`` is set."""
        from vedette.lake.objects import ObjectFiles  # loads a client that few need

        return ObjectFiles(self.uri, self.options)

    def require_safe_commits(self) -> None:
        """Make sure, once in a process, that of two commits of one version one fails.

        Raises:
            LakeRefused: it is not so, or the object store can't be used with these settings.
            OSError: it can't be told now.
        """
        if self.local is not None:
            return
        bucket = urlparse(self.uri).netloc
        if (bucket, *self.options.values()) not in _SAFE_STORES:
            self.objects.require_conditional_put()
            _SAFE_STORES.add((bucket, *self.options.values()))

    def write(self, path: str, rows: pa.Table) -> int:
        """Write a new Parquet file, durably; returns its size in bytes."""
        target = self._place(path)
        options = parquet_options(rows.schema)
        if target is None:
            buffer = pa.BufferOutputStream()
            pq.write_table(rows, buffer, **options)
            content = buffer.getvalue().to_pybytes()
            self.objects.put(path, content)
            return len(content)
        try:
            pq.write_table(rows, target, **options)
            sync_file(target)
        except BaseException:
            target.unlink(missing_ok=True)  # a full disk must not fill up with attempts
            raise
        return target.stat().st_size

    def adopt(self, source: Path, path: str) -> int:
        """Make the finished local file ``source`` the table's file ``path``, durably."""
        target = self._place(path)
        if target is None:
            size = source.stat().st_size
            self.objects.upload(path, source)
            source.unlink()
            return size
        shutil.move(source, target)
        sync_file(target)
        return target.stat().st_size

    def remove(self, path: str) -> None:
        """Delete a file; one that isn't there is no error."""
        if self.local is None:
            self.objects.delete(path)
        else:
            (self.local / path).unlink(missing_ok=True)

    def sync_log(self, after: int, until: int) -> None:
        """Make the commits of versions ``after`` + 1 to ``until`` durable.

        delta-rs doesn't sync what it writes locally, and the journal's segment is removed once its
        commit is done: a commit that a power cut could still undo would lose acknowledged traces.
        """
        if self.local is None:
            return
        log = self.local / "_delta_log"
        newest_first = (log / f"{version:020}.json" for version in range(until, after, -1))
        # One that is gone was cleaned up, with all before it: they stand in a checkpoint.
        for commit in reversed(list(takewhile(Path.exists, newest_first))):
            with suppress(FileNotFoundError):
                sync_file(commit)

    def sync_checkpoint(self, version: int) -> None:
        """Make the checkpoint of ``version`` durable."""
        self._sync(f"_delta_log/{version:020}.checkpoint.parquet")
        self._sync("_delta_log/_last_checkpoint")

    def set_aside_torn(self) -> bool:
        """Rename the log's newest commit, or else checkpoint, if it isn't whole; returns whether.

        A power cut can leave one so, which was written but not yet synced: the rows of the commit
        are still in the journal, the commits of the checkpoint still in the log. They get their
        name when they are whole, so that this can't be one that is being written.
        """
        if self.local is None:
            return False
        log = self.local / "_delta_log"
        for pattern, is_whole in (
            ("[0-9]*.json", _is_whole_commit),
            ("[0-9]*.checkpoint.parquet", _is_whole_checkpoint),
        ):
            newest = max(log.glob(pattern), default=None)
            if newest is not None and not is_whole(newest):
                # Readers that know of no checkpoint look for one themselves
                (log / "_last_checkpoint").unlink(missing_ok=True)
                torn = newest.rename(newest.with_suffix(".torn"))
                logger.error("%s was incomplete and is put aside as %s", newest, torn.name)
                return True
        return False

    def _sync(self, path: str) -> None:
        if self.local is not None:
            sync_file(self.local / path)

    def _place(self, path: str) -> Path | None:
        if self.local is None:
            return None
        target = self.local / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def _is_whole_commit(path: Path) -> bool:
    lines = path.read_bytes().splitlines()
    try:
        return bool([orjson.loads(line) for line in lines])
    except ValueError:
        return False


def _is_whole_checkpoint(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How files with these columns are written, for pyarrow's Parquet writer."""
    known = set(schema.names)
    dictionaries = [c for c in _DICTIONARY_COLUMNS if c.split(".")[0] in known]
    numbers = [
        c.name for c in schema if not (pa.types.is_string(c.type) or pa.types.is_nested(c.type))
    ]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionaries,
        # DuckDB 2.0 answers IS NULL wrongly for texts that have statistics and no dictionary, where
        # all of a row group that aren't NULL are the same: such texts have none.
        "write_statistics": [*numbers, *dictionaries, *(c for c in _IDS if c in known)],
    }


def sync_file(path: Path) -> None:
    """fsync a file and the directory that names it."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
