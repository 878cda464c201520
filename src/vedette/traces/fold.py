"""Fold journal records into the read model, inside the caller's transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
from mlflow.store.tracking.utils.trace_analytics import finite_float_or_none

from vedette.intake.decode import decode_spans
from vedette.intake.records import AssessmentRow, BackfillRow, Decisions, Record
from vedette.intake.spans import DecodedSpan
from vedette.named_sql import statements
from vedette.traces.erased import erase, erased_among, note_leaving, traces_of, without_erased
from vedette.traces.fold_decisions import fold_backfill, fold_decisions
from vedette.traces.state import TraceState, apply_spans, apply_start, json_object, new_trace

logger = logging.getLogger(__name__)

_SQL = statements("vedette.traces", "fold")
_TRACE_COLUMNS = [
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "finalized",
    "client_request_id",
    "trace_name",
    "session_id",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
    "input_cost",
    "output_cost",
    "total_cost",
    "said_tokens",
    "said_cost",
    "has_root",
]
_FLAGS = ("finalized", "said_tokens", "said_cost", "has_root")
_LOADED_COLUMNS = [
    "id",
    "trace_id",
    *_TRACE_COLUMNS,
    "first_received_ms",
    "last_received_ms",
    "completed_ms",
    "request_preview",
    "response_preview",
]


# A record and the spans in it (none but in a `spans` record): decoding is the dear part, done once
Decoded = tuple[Record, list[DecodedSpan]]


def decoded(record: Record) -> Decoded:
    """A record with its spans decoded, and without the bytes they were decoded from. Those of logs
    and metrics stay: only the lake wants them decoded."""
    if record.kind != "spans":
        return record, []
    return replace(record, body=b""), decode_spans(record.body)


def fold(connection: sqlite3.Connection, work: Sequence[Decoded]) -> None:
    """Apply records, in order, to the read model.

    A record that can't be applied (a defect: records are validated before they are journaled) is
    reported in the log and left out, so that it doesn't stop those behind it.
    """
    _Fold(connection, work).run()


class _Fold:
    def __init__(self, connection: sqlite3.Connection, work: Sequence[Decoded]) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._work = work
        self._traces: dict[str, TraceState] = {}
        self._touched: set[int] = set()
        self._arrived: set[str] = set()
        self._annotated: set[str] = set()  # traces whose tags or assessments changed
        self._deleted: list[str] = []
        self._erased: set[str] = set()
        self._spans: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._next_id = 0

    def run(self) -> None:
        self._load({trace_id for work in self._work for trace_id in _mentioned(*work)})
        self._erased = erased_among(
            self._connection, lambda: {one for work in self._work for one in traces_of(*work)}
        )
        for record, spans in self._work:
            try:
                self._apply(record, spans)
            except (KeyError, TypeError, ValueError, AttributeError):
                logger.exception(
                    "left out a %s record of %d: no sense in it", record.kind, record.at
                )
        self._flush()

    def _apply(self, record: Record, spans: list[DecodedSpan]) -> None:
        if self._erased:
            kept = without_erased(record, spans, self._erased)
            if kept is None:
                return
            record, spans = kept
        if record.kind == "spans":
            self._log_spans(record, spans)
        else:
            _ACTIONS[record.kind](self, record)

    def _load(self, trace_ids: set[str]) -> None:
        last = self._execute(_SQL["last_trace"]).fetchone()
        self._next_id = (last[0] if last else 0) + 1
        by_id: dict[int, TraceState] = {}
        ids = orjson.dumps(sorted(trace_ids)).decode()
        for row in self._execute(_SQL["load_traces"], {"ids": ids}):
            values = dict(zip(_LOADED_COLUMNS, row, strict=True))
            for flag in _FLAGS:
                values[flag] = bool(values[flag])
            trace = TraceState(**values, stored=True)
            self._traces[trace.trace_id] = by_id[trace.id] = trace
        if by_id:
            ids = orjson.dumps(list(by_id)).decode()
            for trace_id, span_id, parent, usage, cost in self._execute(
                _SQL["load_spans"], {"ids": ids}
            ):
                by_id[trace_id].nodes[span_id] = (parent, json_object(usage), json_object(cost))

    def _arrive(self, trace_id: str, experiment_id: int, at: int) -> tuple[TraceState, bool]:
        """The trace of which something arrived, and whether it was known before."""
        trace = self._traces.get(trace_id)
        existed = trace is not None
        if trace is None:
            trace = new_trace(self._next_id, trace_id, experiment_id, at)
            self._traces[trace_id] = trace
            self._next_id += 1
        trace.last_received_ms = max(trace.last_received_ms, at)
        self._touched.add(trace.id)
        self._arrived.add(trace_id)
        return trace, existed

    def _log_spans(self, record: Record, spans: list[DecodedSpan]) -> None:
        by_trace: dict[str, list[DecodedSpan]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        experiment_id = int(record.fields["experiment_id"])
        for trace_id, members in by_trace.items():
            trace, existed = self._arrive(trace_id, experiment_id, record.at)
            apply_spans(trace, members, existed=existed)
            for span in members:
                self._spans[trace.id, span.span_id] = _span_row(trace.id, span, record.at)
        if run_id := record.fields.get("run_id"):
            roots = {span.trace_id for span in spans if span.parent_span_id is None}
            self._link_run(roots, run_id)

    def _start_trace(self, record: Record) -> None:
        header = record.fields["trace"]
        trace, existed = self._arrive(header["trace_id"], int(header["experiment_id"]), record.at)
        apply_start(trace, header, existed=existed)
        for row in header["assessments"]:
            self._put_assessment(cast(AssessmentRow, {**row, "trace_id": trace.trace_id}))

    def _set_tag(self, record: Record) -> None:
        """Set a tag, or delete it: then there is no value."""
        fields = record.fields
        if trace := self._traces.get(fields["trace_id"]):  # else: deleted since
            trace.set_tag(fields["key"], fields.get("value"))
            self._touched.add(trace.id)
            self._annotated.add(trace.trace_id)

    def _assessments(self, record: Record) -> None:
        for row in record.fields.get("put", ()):
            self._put_assessment(row)
        for trace_id, assessment_id in record.fields.get("delete", ()):
            if trace := self._traces.get(trace_id):
                self._touched.add(trace.id)
                self._execute(_SQL["delete_assessment"], (assessment_id, trace.id))
                self._annotated.add(trace_id)

    def _decisions(self, record: Record) -> None:
        fields = cast(Decisions, record.fields)
        if fold_decisions(self._connection, fields):
            for row in fields["put"]:
                self._put_assessment(row)

    def _backfill(self, record: Record) -> None:
        fold_backfill(self._connection, cast(BackfillRow, record.fields))

    def _put_assessment(self, row: AssessmentRow) -> None:
        trace = self._traces.get(row["trace_id"])
        if trace is None:  # deleted since
            return
        self._touched.add(trace.id)
        self._annotated.add(trace.trace_id)
        other = self._execute(_SQL["other_trace"], (row["assessment_id"], trace.id)).fetchone()
        if other is not None:
            self._touched.add(other[0])
        self._execute(
            _SQL["put_assessment"],
            (
                row["assessment_id"],
                trace.id,
                row["name"],
                row["assessment_type"],
                row["value"],
                row["error"],
                row["created_timestamp"],
                row["last_updated_timestamp"],
                row["source_type"],
                row["source_id"],
                row["run_id"],
                row["span_id"],
                row["rationale"],
                row["overrides"],
                row["valid"],
                row["assessment_metadata"],
                row["aggregate_value"],
                row["is_numeric_value"],
            ),
        )

    def _delete_traces(self, record: Record) -> None:
        self._flush()
        for_good = bool(record.fields.get("for_good"))
        note_leaving(self._connection, record, for_good=for_good)
        for trace_id in record.fields["trace_ids"]:
            trace = self._traces.pop(trace_id, None)
            if for_good:
                self._erased.add(trace_id)
                erase(self._connection, trace_id)
            if trace is None:
                continue
            self._touched.add(trace.id)
            self._deleted.append(trace_id)
            for table in ("trace_previews", "trace_tags", "trace_metadata", "spans", "assessments"):
                self._execute(f"DELETE FROM {table} WHERE trace = ?", (trace.id,))
            for table in ("completing", "rootless", "annotated"):
                self._execute(f"DELETE FROM {table} WHERE trace = ?", (trace.id,))
            self._execute("DELETE FROM traces WHERE id = ?", (trace.id,))

    def _link_run(self, trace_ids: Iterable[str], run_id: str) -> None:
        self._executemany(_SQL["link_run"], [(trace_id, run_id) for trace_id in trace_ids])

    def _link(self, record: Record) -> None:
        self._link_run(record.fields["trace_ids"], record.fields["run_id"])

    def _unlink(self, record: Record) -> None:
        run_id = record.fields["run_id"]
        self._executemany(
            _SQL["unlink_run"], [(trace_id, run_id) for trace_id in record.fields["trace_ids"]]
        )

    def _link_prompts(self, record: Record) -> None:
        trace_id = record.fields["trace_id"]
        self._executemany(
            _SQL["link_prompt"], [(trace_id, prompt) for prompt in record.fields["prompts"]]
        )

    def _flush(self) -> None:
        """Write every changed trace; its changes are then clean."""
        changed = [trace for trace in self._traces.values() if trace.id in self._touched]
        self._executemany(
            _SQL["put_trace"],
            [_trace_row(trace, new=True) for trace in changed if not trace.stored],
        )
        self._executemany(
            _SQL["update_trace"],
            [_trace_row(trace, new=False) for trace in changed if trace.stored],
        )
        self._executemany(
            _SQL["put_previews"],
            [(t.id, t.request_preview, t.response_preview) for t in changed if t.previews_changed],
        )
        tags = [(t.id, key, value) for t in changed for key, value in t.tags.items()]
        self._executemany(_SQL["put_tag"], [row for row in tags if row[2] is not None])
        self._executemany(_SQL["delete_tag"], [row[:2] for row in tags if row[2] is None])
        self._executemany(
            _SQL["default_metadata"],
            [(t.id, key, value) for t in changed for key, value in t.default_metadata.items()],
        )
        self._executemany(
            _SQL["put_metadata"],
            [(t.id, key, value) for t in changed for key, value in t.metadata.items()],
        )
        self._executemany(_SQL["put_span"], self._spans.values())
        self._executemany(
            _SQL["put_completing"],
            [
                (trace.id, trace.last_received_ms)
                for trace in changed
                if trace.trace_id in self._arrived and trace.completed_ms is None
            ],
        )
        self._executemany(
            _SQL["put_completing_session"],
            [
                (trace.experiment_id, trace.session_id, trace.last_received_ms)
                for trace in changed
                if trace.trace_id in self._arrived and trace.session_id is not None
            ],
        )
        self._executemany(
            _SQL["put_annotated"],
            [
                (trace.id,)
                for trace in changed
                if trace.trace_id in self._annotated and trace.completed_ms is not None
            ],
        )
        if self._touched:
            (batch,) = self._execute(_SQL["next_batch"]).fetchone()
            self._executemany(_SQL["put_change"], [(batch, trace) for trace in self._touched])
            self._executemany(_SQL["put_deletion"], [(batch, trace) for trace in self._deleted])
        for trace in changed:
            trace.stored = True
            trace.tags, trace.metadata, trace.default_metadata = {}, {}, {}
            trace.previews_changed = False
        self._spans.clear()
        self._touched.clear()
        self._deleted.clear()
        self._arrived.clear()
        self._annotated.clear()


# Not bound to a fold: one that refers to itself would keep its spans until the garbage collector
# looks for cycles, which the engine lets it do seldom
_ACTIONS: dict[str, Callable[[_Fold, Record], None]] = {
    "start_trace": _Fold._start_trace,
    "set_tag": _Fold._set_tag,
    "delete_tag": _Fold._set_tag,
    "assessments": _Fold._assessments,
    "decisions": _Fold._decisions,
    "backfill": _Fold._backfill,
    "delete_traces": _Fold._delete_traces,
    "link_run": _Fold._link,
    "unlink_run": _Fold._unlink,
    "link_prompts": _Fold._link_prompts,
    # For the lake alone
    "logs": lambda *_: None,
    "metrics": lambda *_: None,
}


def _mentioned(record: Record, spans: list[DecodedSpan]) -> Iterable[str]:
    """Ids of the traces a record speaks of."""
    fields = record.fields
    match record.kind:
        case "spans":
            return {span.trace_id for span in spans}
        case "start_trace":
            return (fields["trace"]["trace_id"],)
        case "assessments" | "decisions":
            put = [row["trace_id"] for row in fields.get("put", ())]
            return put + [trace_id for trace_id, _ in fields.get("delete", ())]
        case "set_tag" | "delete_tag":
            return (fields["trace_id"],)
        case "delete_traces":
            return list(fields["trace_ids"])
        case _:
            return ()


def _trace_row(trace: TraceState, *, new: bool) -> tuple[Any, ...]:
    columns = [getattr(trace, column) for column in _TRACE_COLUMNS]
    columns += [len(trace.nodes), trace.first_received_ms, trace.last_received_ms]
    return (trace.id, trace.trace_id, *columns) if new else (*columns, trace.id)


def _span_row(trace: int, span: DecodedSpan, at: int) -> tuple[Any, ...]:
    cost = span.cost or {}
    return (
        trace,
        span.span_id,
        span.parent_span_id,
        span.name,
        span.span_type,
        span.status_code,
        span.start_ns,
        span.end_ns,
        None if span.usage is None else orjson.dumps(span.usage).decode(),
        None if span.cost is None else orjson.dumps(span.cost).decode(),
        finite_float_or_none(cost.get("input_cost")),
        finite_float_or_none(cost.get("output_cost")),
        finite_float_or_none(cost.get("total_cost")),
        span.model_name,
        span.model_provider,
        at,
        span.content_size,
    )
