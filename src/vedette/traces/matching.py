"""Which traces have a span that a filter's span part matches, content and all.

Content is compared as MLflow compares it: as the JSON text of the whole span.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Sequence
from typing import Protocol

from vedette.traces.conditions import Condition, among, prepare
from vedette.traces.filters import ContentClause, SpanFilter, TraceFilter
from vedette.traces.infos import marks
from vedette.traces.patterns import matches
from vedette.traces.words import required_words

_BATCH = 200  # traces whose content is held at a time


class Contents(Protocol):
    """Where the content of spans comes from: `vedette.traces.contents.SpanContents`."""

    def of(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Contents by trace row (``traces.id``): the JSON text of each span."""

    def sizes(self, rows: Sequence[int]) -> dict[int, int]:
        """About how many characters `of` would give for each of these trace rows."""

    def with_words(self, words: Sequence[str], received_from_ms: int | None) -> set[str]:
        """Ids of all traces with a span whose content has these words, and of some others."""


def matching_spans(
    connection: sqlite3.Connection, contents: Contents, spans: SpanFilter, rows: Sequence[int]
) -> list[int]:
    """Of these traces (rows of ``traces``), in their order, those with a matching span.

    Raises:
        LakeUnavailable: the lake, which alone has some of the content, can't be read.
    """
    prepare(connection)
    found: list[int] = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        query = f"SELECT s.trace, s.span_id FROM spans s WHERE s.trace IN {marks(some)} AND "
        allowed = set(
            connection.execute(query + spans.columns.text, (*some, *spans.columns.params))
        )
        texts = contents.of(sorted({row for row, _ in allowed}))
        found += [
            row
            for row in some
            if any(
                (row, _span_id(text)) in allowed
                for text in texts.get(row, ())
                if all(_holds(connection, clause, text) for clause in spans.content)
            )
        ]
    return found


def narrowed(contents: Contents, compiled: TraceFilter) -> Condition | None:
    """A condition that all traces with a matching span satisfy, from a look at all content there
    is; None if the filter gives nothing to look for.

    Raises:
        LakeUnavailable: the lake can't be read.
    """
    words = required_words(compiled.spans.content) if compiled.spans is not None else []
    if not words:
        return None
    return among(contents.with_words(words, None))


def _holds(connection: sqlite3.Connection, clause: ContentClause, text: str) -> bool:
    if clause.comparator == "RLIKE":
        return matches(clause.pattern, text)
    if clause.comparator in ("=", "!="):
        return (text == clause.pattern) == (clause.comparator == "=")
    sql = "SELECT lower(?) LIKE lower(?)" if clause.comparator == "ILIKE" else "SELECT ? LIKE ?"
    return bool(connection.execute(sql, (text, clause.pattern)).fetchone()[0])


def _span_id(content: str) -> str:
    return base64.b64decode(json.loads(content)["span_id"]).hex()
