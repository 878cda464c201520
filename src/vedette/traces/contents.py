"""Whole spans: their content comes from the lake, or from the journal where the lake is behind."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from vedette.intake.content import content_of_row, content_of_span
from vedette.intake.journal import JournalReader
from vedette.intake.spans import DecodedSpan
from vedette.lake.location import DEFAULT, Location
from vedette.lake.read import Wanted
from vedette.lake.span_readers import SpanReaders
from vedette.lake.storage import LakeUnavailable
from vedette.named_sql import statements
from vedette.traces.fresh import FreshSpans
from vedette.traces.index import TraceIndex
from vedette.traces.words import has_words, lake_condition

logger = logging.getLogger(__name__)

_SQL = statements("vedette.traces", "contents")
_ATTEMPTS = 4
_WAIT_SECONDS = 0.05
_FRESH_SECONDS = 1.0  # a version of the lake this old is looked at first; the rest is in journals
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# (trace id, span id) -> arrival in ms since the epoch, and what makes the content
_Found = dict[tuple[str, str], tuple[int, Callable[[], Any]]]


class Form(NamedTuple):
    """A form in which contents are wanted.

    Attributes:
        of_row: makes it of a row of the spans table, see `SpanReader.read_spans`.
        of_span: makes it of a span that is in a journal.
        columns: of the spans table, which ``of_row`` needs besides those that are always there.
    """

    of_row: Callable[[dict[str, Any]], Any]
    of_span: Callable[[DecodedSpan], Any]
    columns: tuple[str, ...] = ()


_TEXT = Form(content_of_row, content_of_span)


class SpanContents:
    """Gives the content of spans, from wherever it is."""

    def __init__(
        self, index: TraceIndex, journals: Sequence[JournalReader], lake: SpanReaders
    ) -> None:
        self._index = index
        self._lake = lake
        self._fresh = FreshSpans(index, journals)

    def of(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Contents by trace row (``traces.id``), as JSON text in the form of MLflow's
        ``SqlSpan.content``: roots first, then by start.

        Traces without spans, and deleted ones, are left out.

        Raises:
            LakeUnavailable: the lake, which alone has some of these spans, can't be read.
        """
        return self.in_form(_TEXT, rows)

    def in_form(self, form: Form, rows: Sequence[int]) -> dict[int, list[Any]]:
        """As `of`, in another form.

        Raises:
            LakeUnavailable: the lake, which alone has some of these spans, can't be read.
        """
        connection = self._index.connection()
        values = {"rows": json.dumps(list(rows))}
        traces = {
            row: (self._lake.location_of(str(experiment)), Wanted(trace_id, first, last))
            for row, trace_id, experiment, first, last in connection.execute(_SQL["traces"], values)
        }
        order = list(connection.execute(_SQL["spans"], values))
        missing = {(row, span_id): received for row, span_id, received in order}
        found: dict[tuple[int, str], Any] = {}

        def take(spans: _Found) -> None:
            for row, span_id in list(missing):
                received, content = spans.get((traces[row][1].trace_id, span_id), (-1, str))
                if received >= missing[row, span_id]:  # else: an older version of the span
                    found[row, span_id] = content()
                    del missing[row, span_id]

        # A segment is in the journal until it is in the lake: looked for in both, and again if it
        # moved in between, a span is found.
        for attempt in range(_ATTEMPTS):
            if missing:
                time.sleep(_WAIT_SECONDS * attempt)
                wanted = [traces[row] for row in {row for row, _ in missing}]
                if attempt:  # it may have come while its experiment was given its location
                    wanted = [(DEFAULT, one) for at, one in wanted if at != DEFAULT] + wanted
                take(self._from_lake(form, wanted, newest=attempt > 0))
            if missing:
                take(self._from_journal(form, {traces[row][1].trace_id for row, _ in missing}))
        if missing:
            logger.warning("%d spans are neither in the journal nor in the lake", len(missing))
        contents: dict[int, list[Any]] = {}
        for row, span_id, _ in order:
            if (row, span_id) in found:
                contents.setdefault(row, []).append(found[row, span_id])
        return contents

    def sizes(self, rows: Sequence[int]) -> dict[int, int]:
        """About how many characters `of` would give for each of these trace rows."""
        values = {"rows": json.dumps(list(rows))}
        return dict(self._index.connection().execute(_SQL["sizes"], values).fetchall())

    def with_words(self, words: Sequence[str], received_from_ms: int | None) -> set[str]:
        """Ids of all traces with a span whose content has these words (lower case), and of some
        others.

        Args:
            received_from_ms: spans that arrived earlier don't count.

        Raises:
            LakeUnavailable: the lake can't be read.
        """
        # The journal first: what it has moved into the lake meanwhile is in the newest version.
        found = {
            span.trace_id
            for _, spans in self._fresh.read(None)
            for span in spans
            if has_words(content_of_span(span), words)
        }
        condition, values = lake_condition(words)
        return found | self._lake.matching_traces(condition, values, received_from_ms)

    def _from_lake(
        self, form: Form, wanted: Sequence[tuple[Location, Wanted]], *, newest: bool
    ) -> _Found:
        try:
            max_age = 0.0 if newest else _FRESH_SECONDS
            read = self._lake.read_spans(wanted, form.columns, max_age=max_age)
        except LakeUnavailable as error:
            if newest:  # it isn't in the journal either: only the lake can have it
                raise
            logger.warning("%s", error)
            return {}
        return {
            (trace_id, row["span_id"]): (
                _milliseconds(row["received_at"]),
                partial(form.of_row, row),
            )
            for trace_id, rows in read.items()
            for row in rows
        }

    def _from_journal(self, form: Form, trace_ids: set[str]) -> _Found:
        found: _Found = {}
        for record, spans in self._fresh.read(trace_ids):
            for span in spans:
                found[span.trace_id, span.span_id] = (record.at, partial(form.of_span, span))
        return found


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)
