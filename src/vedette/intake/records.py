"""Journal records: everything that can happen to traces, as one small set of events.

A record is a JSON header (``kind``, ``at`` and the fields below) and, for spans, a body holding the
bytes of an OTLP ``ExportTraceServiceRequest``. The journal stores them, the lake and the read model
are both functions of them, so replaying records in order rebuilds everything.

==============  ==================================================================================
kind            header fields besides ``kind`` and ``at`` (milliseconds since the epoch, on arrival)
==============  ==================================================================================
spans           experiment_id: str; run_id: str | None (link the traces to this run); body = OTLP
start_trace     trace: dict, see `TraceHeader`
set_tag         trace_id, key, value
delete_tag      trace_id, key
assessments     put: list[`AssessmentRow`]; delete: list[[trace_id, assessment_id]];
                cursors: list[{scorer: str, position: int}] (scoring progress, committed with them)
delete_traces   trace_ids: list[str]
link_run        trace_ids: list[str], run_id
unlink_run      trace_ids: list[str], run_id
link_prompts    trace_id, prompts: list["name/version"]
==============  ==================================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import orjson

_HEADER_LENGTH = struct.Struct("<I")


class Position(NamedTuple):
    """A place in one journal: byte ``offset`` in segment file number ``segment``."""

    segment: int
    offset: int


class TraceHeader(TypedDict):
    """What `start_trace` says of a trace: the fields of MLflow's ``TraceInfo``."""

    trace_id: str
    experiment_id: str
    request_time: int
    execution_duration: int | None
    state: str
    client_request_id: str | None
    request_preview: str | None
    response_preview: str | None
    tags: dict[str, str]
    metadata: dict[str, str]
    assessments: list[AssessmentRow]


class AssessmentRow(TypedDict):
    """One version of an assessment; ``value``, ``error``, ``assessment_metadata`` are JSON text."""

    assessment_id: str
    trace_id: str
    name: str
    assessment_type: str  # feedback | expectation | issue
    value: str
    error: str | None
    created_timestamp: int
    last_updated_timestamp: int
    source_type: str
    source_id: str | None
    run_id: str | None
    span_id: str | None
    rationale: str | None
    overrides: str | None
    valid: bool
    assessment_metadata: str | None
    aggregate_value: float | None
    is_numeric_value: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One journal record. ``fields`` are the header fields besides ``kind`` and ``at``."""

    kind: str
    at: int
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def encode(self) -> bytes:
        """The record as bytes: header length, JSON header, body."""
        header = orjson.dumps({"kind": self.kind, "at": self.at, **self.fields})
        return b"".join((_HEADER_LENGTH.pack(len(header)), header, self.body))

    @classmethod
    def decode(cls, payload: bytes) -> Record:
        """The inverse of `encode`.

        Raises:
            ValueError: the payload is not a record.
        """
        if len(payload) < _HEADER_LENGTH.size:
            raise ValueError("a journal record is shorter than its header length")
        (length,) = _HEADER_LENGTH.unpack_from(payload)
        end = _HEADER_LENGTH.size + length
        header = orjson.loads(payload[_HEADER_LENGTH.size : end])
        return cls(header.pop("kind"), header.pop("at"), header, payload[end:])
