"""Traces that were deleted for good, as `vedette delete` does: nothing of them comes back.

MLflow's ``delete_traces`` deletes what there is, and what is sent again under the same id is a new
trace. Of a trace that was deleted for good, whatever arrives later is left out, by the read model
as by the lake: a span that an exporter sends again, a score that was on its way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import replace
from typing import Any

import orjson

from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan
from vedette.named_sql import statements

_SQL = statements("vedette.traces", "erased")


def erased_among(
    connection: sqlite3.Connection, trace_ids: Callable[[], Collection[str]]
) -> set[str]:
    """Which of these traces were deleted for good.

    Args:
        trace_ids: gives their ids; not asked if no trace ever was.
    """
    if connection.execute(_SQL["any_erased"]).fetchone() is None:
        return set()
    ids = orjson.dumps(list(trace_ids())).decode()
    return {trace_id for (trace_id,) in connection.execute(_SQL["erased_among"], {"ids": ids})}


def traces_of(record: Record, spans: Iterable[DecodedSpan]) -> set[str]:
    """Ids of all traces that a record says something of."""
    fields = record.fields
    found = {span.trace_id for span in spans}
    found.update(fields.get("trace_ids", ()))
    for one in (fields, fields.get("trace", {}), *fields.get("decisions", ())):
        if "trace_id" in one:
            found.add(one["trace_id"])
    found.update(row["trace_id"] for row in fields.get("put", ()))
    found.update(trace_id for trace_id, _ in fields.get("delete", ()))
    return found


def without_erased(
    record: Record, spans: list[DecodedSpan], erased: Set[str]
) -> tuple[Record, list[DecodedSpan]] | None:
    """A record without what it says of the traces ``erased``; None if that is all it says."""
    fields = record.fields
    if record.kind == "delete_traces" or erased.isdisjoint(traces_of(record, spans)):
        return record, spans
    if fields.get("trace_id") in erased or fields.get("trace", {}).get("trace_id") in erased:
        return None
    kept: dict[str, Any] = {}
    if "trace_ids" in fields:
        kept["trace_ids"] = [one for one in fields["trace_ids"] if one not in erased]
    for name in ("put", "decisions"):
        if name in fields:
            kept[name] = [row for row in fields[name] if row["trace_id"] not in erased]
    if "delete" in fields:
        kept["delete"] = [pair for pair in fields["delete"] if pair[0] not in erased]
    rest = [span for span in spans if span.trace_id not in erased]
    return replace(record, fields={**fields, **kept}), rest


def note_leaving(connection: sqlite3.Connection, record: Record, *, for_good: bool) -> None:
    """Note that rows of deleted traces are to leave the lake's files.

    Args:
        record: a ``delete_traces`` record.
    """
    values = {"for_good": for_good, "deleted_us": record.at * 1000 + record.sub}
    connection.executemany(
        _SQL["put_leaving"],
        [{"trace_id": trace_id, **values} for trace_id in record.fields["trace_ids"]],
    )


def erase(connection: sqlite3.Connection, trace_id: str) -> None:
    """Remember that a trace was deleted for good, and delete what a deletion leaves otherwise: what
    scoring decided of it, its links, its session's name."""
    values = {"trace_id": trace_id}
    connection.execute(_SQL["put_erased"], values)
    for scorer, unit, revision, *counted in connection.execute(
        _SQL["decisions_of"], values
    ).fetchall():
        connection.execute(_SQL["uncount"], (scorer, *counted))
        connection.execute(_SQL["forget_count"], (scorer, *counted))
        connection.execute(_SQL["forget_decision"], (scorer, unit, revision))
    for name in ("forget_run_links", "forget_prompt_links"):
        connection.execute(_SQL[name], values)
    if (found := connection.execute(_SQL["session_of"], values).fetchone()) is not None:
        _forget_session(connection, *found)


def _forget_session(
    connection: sqlite3.Connection, row: int, experiment_id: int, session_id: str
) -> None:
    """The session's name, unless it has other traces."""
    session = {"trace": row, "experiment_id": experiment_id, "session_id": session_id}
    connection.execute(_SQL["forget_completed"], session)
    if connection.execute(_SQL["others"], session).fetchone() is None:
        for name in ("forget_completing", "forget_revisions"):
            connection.execute(_SQL[name], session)
