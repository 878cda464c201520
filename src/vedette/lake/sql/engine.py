"""Queries over the lake: each in a process of its own, which is given a snapshot to read."""

from __future__ import annotations

from contextlib import suppress

from vedette.lake.location import DEFAULT
from vedette.lake.sql.dialect import DIALECTS
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.pool import Pool
from vedette.lake.sql.snapshot import Snapshots
from vedette.lake.sql.worker import Question, Result
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake

FORMS = ("arrow", "json")
DEFAULT_ROWS, MOST_ROWS = 10_000, 1_000_000
DEFAULT_SECONDS, MOST_SECONDS = 30.0, 300.0
_AT_ONCE = 2
_ATTEMPTS = 3


class SqlEngine:
    """Runs queries; for any number of threads, of which two get their turn at the same time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._snapshots = Snapshots(lake)
        self._pool = Pool(_AT_ONCE)

    def run(
        self,
        text: str,
        *,
        dialect: str = "databricks",
        form: str = "arrow",
        max_rows: int = DEFAULT_ROWS,
        seconds: float = DEFAULT_SECONDS,
    ) -> Result:
        """Run one query on the newest version of the tables.

        Args:
            dialect: ``databricks`` or ``duckdb``.
            form: of the result: ``arrow``, a stream of rows with instants in UTC, or ``json``, an
                object with ``columns``, ``rows``, ``truncated`` and ``milliseconds``.
            max_rows: of the result; at most 1,000,000.
            seconds: how long it may take; at most 300.

        Raises:
            QueryRefused: it is wrong, may not be run, or took too much time or memory.
            SqlBusy: too many queries are running.
            LakeUnavailable: the lake can't be read now.
        """
        _require_limit("max_rows", max_rows, MOST_ROWS)
        _require_limit("seconds", seconds, MOST_SECONDS)
        if dialect not in DIALECTS:
            raise QueryRefused(
                f"there is no dialect {dialect!r}; there are {' and '.join(DIALECTS)}"
            )
        if form not in FORMS:
            raise QueryRefused(f"there is no format {form!r}; there are {' and '.join(FORMS)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise QueryRefused(
                "the query has half a surrogate pair, which is no character"
            ) from None
        others = [str(place) for place in self._lake.locations.places() if place != DEFAULT]
        question = Question(text, dialect, form, int(max_rows), others)
        for _ in range(_ATTEMPTS):
            # A file may be compacted and removed between the look at the log and the read
            with suppress(FileNotFoundError):
                directories = self._snapshots.directories
                result = self._pool.run(question, directories, self._snapshots.take, seconds)
                if result is not None:
                    return result
        raise LakeUnavailable("files of the lake are not where its log says")

    def close(self) -> None:
        """End the processes that queries run in."""
        self._pool.close()


def _require_limit(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise QueryRefused(f"{name} is {value!r}, not a number from 1 to {most:,.0f}")
