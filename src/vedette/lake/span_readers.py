"""Read spans' content back from the lake, in whatever location they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from vedette.lake.location import Location
from vedette.lake.read import SpanReader, Wanted
from vedette.lake.table import Lake


class SpanReaders:
    """Reads the spans tables of all locations; for any number of threads."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self._readers: dict[Location, _Reader] = {}

    def location_of(self, experiment_id: str) -> Location:
        """Where the traces of an experiment are."""
        return self._lake.locations.of(experiment_id)

    def read_spans(
        self,
        wanted: Sequence[tuple[Location, Wanted]],
        columns: Sequence[str] = (),
        *,
        max_age: float = 0.0,
    ) -> dict[str, list[dict[str, Any]]]:
        """The spans of traces, each in the location that is given with it.

        Args:
            columns: see `SpanReader.read_spans`.
            max_age: of the versions of the tables that are read, in seconds.

        Returns:
            As `SpanReader.read_spans`.

        Raises:
            LakeUnavailable: a table can't be read now.
        """
        by_location: dict[Location, list[Wanted]] = {}
        for location, one in wanted:
            by_location.setdefault(location, []).append(one)
        found: dict[str, list[dict[str, Any]]] = {}
        for location, some in by_location.items():
            read = self._reader(location).not_older(max_age).read_spans(some, columns)
            for trace_id, spans in read.items():
                found.setdefault(trace_id, []).extend(spans)
        return found

    def matching_traces(
        self, predicate_sql: str, parameters: Sequence[Any], received_from_ms: int | None = None
    ) -> set[str]:
        """As `SpanReader.matching_traces`, in the newest version of all tables.

        Raises:
            LakeUnavailable: a table can't be read now.
        """
        found: set[str] = set()
        for location in self._lake.locations.places():
            reader = self._reader(location).not_older(0.0)
            found |= reader.matching_traces(predicate_sql, parameters, received_from_ms)
        return found

    def _reader(self, location: Location) -> _Reader:
        with self._lock:
            if location not in self._readers:
                self._readers[location] = _Reader(SpanReader(self._lake.at(location).spans))
            return self._readers[location]


class _Reader:
    """A reader, and when its snapshot was taken."""

    def __init__(self, reader: SpanReader) -> None:
        self._reader = reader
        self._refreshed_at = float("-inf")

    def not_older(self, max_age: float) -> SpanReader:
        """The reader, its snapshot at most so many seconds old."""
        now = time.monotonic()
        if now - self._refreshed_at >= max_age:
            # Also if it fails: what it has is then read until it is tried again
            self._refreshed_at = now
            self._reader.refresh()
        return self._reader
