"""What records say about traces, besides spans, as rows of the annotations table.

The table is append-only. Readers keep the row with the newest ``updated_at`` of each
``annotation_id`` and drop it if ``deleted_at`` is set. ``updated_at`` is the time of arrival, not
what the client says, so that the last write wins whatever clocks clients have. A METADATA row with
``deleted_at`` deletes the trace and with it every annotation that is older; one that is
``deleted_by`` `DELETED_FOR_GOOD` stays when the rows it deletes are gone: nothing comes back.

===============  ===================================================  =============================
annotation_type  annotation_id                                        value (JSON)
===============  ===================================================  =============================
METADATA         sha256("{trace}:metadata")                           object: client_request_id,
                                                                      trace_metadata, previews, ...
TAG              sha256("{trace}:tag:{key}")                          string
RUN_LINK         sha256("{trace}:run:{run_id}")                       string: the run id
PROMPT_LINK      sha256("{trace}:prompt:{prompt}")                    string: "name/version"
FEEDBACK, ...    the assessment id                                    the assessment's value
===============  ===================================================  =============================
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa

from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan
from vedette.lake.row_tables import place, table_of
from vedette.lake.schemas import ANNOTATIONS_SCHEMA, lake_trace_id

logger = logging.getLogger(__name__)

_COLUMNS: list[str] = ANNOTATIONS_SCHEMA.names
DELETED_FOR_GOOD = "vedette delete"
_LAST_MICROSECOND = 253_402_300_799_999_999  # the end of the year 9999: what readers understand


class AnnotationRows:
    """Collects records, in the order of one segment, and gives their annotation rows."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._newest: dict[str, int] = {}

    def add(self, record: Record, record_id: str, spans: Sequence[DecodedSpan]) -> None:
        """Add the rows of ``record``.

        One that makes no sense (a defect: records are validated before they are journaled) is
        reported in the log and left out, so that it doesn't stop those behind it.
        """
        try:
            rows = list(_ROWS[record.kind](record, spans))
            for row in rows:
                _check(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            logger.exception(
                "left out a %s record of %d that makes no sense", record.kind, record.at
            )
            return
        received = record.at * 1000 + record.sub
        place(rows, record_id, received)
        for row in rows:
            annotation_id = row["annotation_id"]
            # A second write of one annotation within a millisecond must still be the newer one.
            updated = max(received, self._newest.get(annotation_id, -1) + 1)
            self._newest[annotation_id] = updated
            row.setdefault("created_at", received)
            row["updated_at"] = updated
            if row.pop("deleted", False):
                row["deleted_at"] = updated
        self._rows.extend(rows)

    def table(self) -> pa.Table:
        """The rows so far, as a table with the columns of the annotations table."""
        return table_of(self._rows, ANNOTATIONS_SCHEMA)


def _spans(record: Record, spans: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    if run_id := record.fields.get("run_id"):
        roots = dict.fromkeys(span.trace_id for span in spans if span.parent_span_id is None)
        for trace_id in roots:
            yield _link(trace_id, "RUN_LINK", "run", run_id)


def _start_trace(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    header = dict(record.fields["trace"])
    trace_id = header.pop("trace_id")
    tags, assessments = header.pop("tags"), header.pop("assessments")
    header["trace_metadata"] = header.pop("metadata")
    yield {
        **_trace_row(trace_id, "METADATA", "metadata"),
        "value": _json(header),
        "experiment_id": str(header["experiment_id"]),
    }
    for key, value in tags.items():
        yield _tag(trace_id, key, value)
    for assessment in assessments:
        yield _assessment({**assessment, "trace_id": trace_id})


def _assessments(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    for assessment in record.fields.get("put", ()):
        yield _assessment(assessment)
    for trace_id, assessment_id in record.fields.get("delete", ()):
        yield {
            "annotation_id": assessment_id,
            "target_type": "TRACE",
            "target_id": lake_trace_id(trace_id),
            "deleted": True,
        }


def _set_tag(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    yield _tag(record.fields["trace_id"], record.fields["key"], record.fields["value"])


def _delete_tag(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    yield {**_tag(record.fields["trace_id"], record.fields["key"], None), "deleted": True}


def _delete_traces(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    deleted_by = DELETED_FOR_GOOD if record.fields.get("for_good") else None
    for trace_id in record.fields["trace_ids"]:
        row = _trace_row(trace_id, "METADATA", "metadata")
        yield {**row, "deleted": True, "deleted_by": deleted_by}


def _link_run(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    for trace_id in record.fields["trace_ids"]:
        yield _link(trace_id, "RUN_LINK", "run", record.fields["run_id"])


def _unlink_run(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    for row in _link_run(record, _):
        yield {**row, "deleted": True}


def _link_prompts(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    for prompt in record.fields["prompts"]:
        yield _link(record.fields["trace_id"], "PROMPT_LINK", "prompt", prompt)


def _nothing(record: Record, _: Sequence[DecodedSpan]) -> Iterator[dict[str, Any]]:
    yield from ()


_ROWS: dict[str, Callable[[Record, Sequence[DecodedSpan]], Iterator[dict[str, Any]]]] = {
    "spans": _spans,
    "start_trace": _start_trace,
    "set_tag": _set_tag,
    "delete_tag": _delete_tag,
    "assessments": _assessments,
    "decisions": _assessments,  # those among them that are scores
    "backfill": _nothing,
    "delete_traces": _delete_traces,
    "link_run": _link_run,
    "unlink_run": _unlink_run,
    "link_prompts": _link_prompts,
    "logs": _nothing,
    "metrics": _nothing,
}


_PYTHON_TYPES = {
    field.name: bool if field.type == pa.bool_() else str if field.type == pa.string() else int
    for field in ANNOTATIONS_SCHEMA
}


def _check(row: dict[str, Any]) -> None:
    for name, value in row.items():
        if value is not None and name != "deleted" and type(value) is not _PYTHON_TYPES[name]:
            raise TypeError(f"{name} is a {type(value).__name__}: {value!r:.100}")


def _microseconds(milliseconds: int) -> int:
    return max(-_LAST_MICROSECOND, min(milliseconds * 1000, _LAST_MICROSECOND))


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _trace_row(trace_id: str, kind: str, identity: str) -> dict[str, Any]:
    target = lake_trace_id(trace_id)
    return {
        "annotation_id": hashlib.sha256(f"{target}:{identity}".encode()).hexdigest(),
        "target_type": "TRACE",
        "target_id": target,
        "annotation_type": kind,
    }


def _tag(trace_id: str, key: str, value: str | None) -> dict[str, Any]:
    return {**_trace_row(trace_id, "TAG", f"tag:{key}"), "name": key, "value": _json(value)}


def _link(trace_id: str, kind: str, what: str, to: str) -> dict[str, Any]:
    return {**_trace_row(trace_id, kind, f"{what}:{to}"), "value": _json(to)}


def _assessment(row: dict[str, Any]) -> dict[str, Any]:
    target = lake_trace_id(row["trace_id"])
    span_id = row["span_id"]
    return {
        "annotation_id": row["assessment_id"],
        "target_type": "SPAN" if span_id else "TRACE",
        "target_id": f"{target}:{span_id}" if span_id else target,
        "annotation_type": row["assessment_type"].upper(),
        "name": row["name"],
        "value": row["value"],
        "comment": row["rationale"],
        "metadata": row["assessment_metadata"],
        "created_at": _microseconds(row["created_timestamp"]),
        "created_by": row["source_id"],
        "updated_by": row["source_id"],
        "source_type": row["source_type"],
        "run_id": row["run_id"],
        "error": row["error"],
        "overrides": row["overrides"],
        "valid": bool(row["valid"]),
        "last_updated_at": _microseconds(row["last_updated_timestamp"]),
    }
