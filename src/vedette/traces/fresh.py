"""Spans that are in a journal but not yet in the lake, by trace.

The lake is a second or so behind the journal; for longer when it can't be reached. What a process
remembers of that stretch is where each trace's records are, not what is in them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from vedette.intake.decode import decode_spans, span_trace_ids
from vedette.intake.journal import JournalReader
from vedette.intake.records import Position, Record
from vedette.intake.spans import DecodedSpan
from vedette.traces.index import TraceIndex

_READ_BYTES = 8 * 1024 * 1024


class FreshSpans:
    """Looks up spans in the part of the journals that the lake doesn't hold yet."""

    def __init__(self, index: TraceIndex, journals: Sequence[JournalReader]) -> None:
        self._stretches = [_Stretch(index, journal) for journal in journals]

    def read(self, trace_ids: Collection[str] | None) -> Iterator[tuple[Record, list[DecodedSpan]]]:
        """Records with spans of these traces (None: of any), oldest first in each journal.

        The spans given are only those of the traces asked for.
        """
        for stretch in self._stretches:
            found = stretch.all_records() if trace_ids is None else stretch.records(trace_ids)
            for record in found:
                spans = decode_spans(record.body)
                wanted = [s for s in spans if trace_ids is None or s.trace_id in trace_ids]
                if wanted:
                    yield record, wanted


class _Stretch:
    """One journal from the first segment that isn't in the lake."""

    def __init__(self, index: TraceIndex, journal: JournalReader) -> None:
        self._index = index
        self._journal = journal
        self._lock = threading.Lock()
        self._cursor = Position(0, 0)
        self._places: dict[str, list[Position]] = defaultdict(list)  # trace id -> record starts
        self._by_segment: dict[int, list[str]] = defaultdict(list)

    def all_records(self) -> Iterator[Record]:
        """Every record with spans, a few in memory at a time: the lake may be far behind."""
        at, end = self._start(), self._journal.end()
        while at < end and (found := self._journal.read(at, _READ_BYTES)):
            at = found[-1][1]
            yield from (record for record, _ in found if record.kind == "spans")

    def _start(self) -> Position:
        return Position(self._index.lake_segment(self._journal.journal_id) + 1, 0)

    def records(self, trace_ids: Collection[str]) -> list[Record]:
        """Those with spans of these traces."""
        with self._lock:
            self._forget(self._index.lake_segment(self._journal.journal_id))
            self._follow()
            places = sorted({place for name in trace_ids for place in self._places.get(name, ())})
        found = []
        for place in places:
            read = self._journal.read(place, 1)
            # Else its segment has gone into the lake since, where the caller looks next
            if read and read[0][1].segment == place.segment:
                found.append(read[0][0])
        return found

    def _forget(self, segment: int) -> None:
        for number in [n for n in self._by_segment if n <= segment]:
            for trace_id in self._by_segment.pop(number):
                places = [p for p in self._places.pop(trace_id, ()) if p.segment > segment]
                if places:
                    self._places[trace_id] = places
        self._cursor = max(self._cursor, Position(segment + 1, 0))

    def _follow(self) -> None:
        while found := self._journal.read(self._cursor, _READ_BYTES):
            for record, end in found:
                start = (
                    self._cursor
                    if self._cursor.segment == end.segment
                    else Position(end.segment, 0)
                )
                if record.kind == "spans":
                    for trace_id in span_trace_ids(record.body):
                        self._places[trace_id].append(start)
                        self._by_segment[end.segment].append(trace_id)
                self._cursor = end
