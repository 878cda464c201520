"""Words that a span must contain for a text filter to hold: what narrows a search for text.

A filter compares with the JSON text of a whole span (`vedette.intake.content`), which is put
together from the lake's columns and stored nowhere. A plain word of the filter's pattern, though,
stands in one of the columns as it stands in the text, whatever quotes and escapes are around it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vedette.traces.filters import ContentClause

# Letters and digits; with a letter that no number is written with
_WORD = re.compile(r"[A-Za-z0-9]*[A-DF-Za-df-z][A-Za-z0-9]*")
_SHORTEST = 3
# An expression without special characters is a text to look for
_PLAIN_EXPRESSION = re.compile(r"[\w\s-]*")

# In every span's text, or as good as: such words narrow nothing.
_COMMON = """
trace_id span_id parent_span_id name start_time_unix_nano end_time_unix_nano events time_unix_nano
attributes status code message links null true false NaN Infinity STATUS_CODE_OK STATUS_CODE_ERROR
STATUS_CODE_UNSET mlflow.traceRequestId tr""".lower()

_PLACES = (
    "attributes",
    "name",
    "status.message",
    "trace_id",
    "CAST(events AS VARCHAR)",
    "CAST(links AS VARCHAR)",
    # Ids stand in the text in base64 as well
    "base64(unhex(trace_id))",
    "base64(unhex(span_id))",
    "base64(unhex(coalesce(parent_span_id, '')))",
)


def required_words(clauses: Sequence[ContentClause]) -> list[str]:
    """Words in lower case that are in the text of any span for which all clauses hold."""
    words: set[str] = set()
    for clause in clauses:
        if clause.comparator in ("LIKE", "ILIKE"):
            pieces = re.split("[%_]", clause.pattern)
        elif clause.comparator == "RLIKE" and _PLAIN_EXPRESSION.fullmatch(clause.pattern):
            pieces = [clause.pattern]
        else:
            continue
        found = {word.lower() for piece in pieces for word in _WORD.findall(piece)}
        words |= {word for word in found if len(word) >= _SHORTEST and word not in _COMMON}
    return sorted(words)


def lake_condition(words: Sequence[str]) -> tuple[str, list[str]]:
    """A DuckDB condition on a row of the spans table, true if it may contain all words.

    Returns:
        The condition and the values of its ``?``.
    """
    anywhere = " OR ".join(f"contains(lower({place}), ?)" for place in _PLACES)
    condition = " AND ".join(f"({anywhere})" for _ in words)
    return condition, [word for word in words for _ in _PLACES]


def has_words(content: str, words: Sequence[str]) -> bool:
    """Whether a span's text contains all words."""
    text = content.lower()
    return all(word in text for word in words)
