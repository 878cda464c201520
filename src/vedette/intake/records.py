"""Journal records: everything that can happen to traces, as one small set of events; and besides
them logs and metrics, which only go to the lake.

A record is a JSON header (``kind``, ``at`` and the fields below) and, for spans, logs and metrics,
a body holding the bytes of an OTLP request. The journal stores them, the lake and the read model
are both functions of them, so replaying records in order rebuilds everything. In which
``location`` of the lake its rows are is said there, too ("catalog.schema.prefix"; not by default).

==============  ==================================================================================
kind            header fields besides ``kind`` and ``at`` (milliseconds since the epoch, on arrival)
==============  ==================================================================================
spans           experiment_id: str; run_id: str | None (link the traces to this run); body = OTLP
logs, metrics   experiment_id: str; body = OTLP
start_trace     trace: dict, see `TraceHeader`
set_tag         trace_id, key, value
delete_tag      trace_id, key
assessments     put: list[`AssessmentRow`]; delete: list[[trace_id, assessment_id]]
decisions       what scoring decided, of one scorer: see `Decisions`
backfill        history to be scored: see `BackfillRow`; of one job, the later adds to the first
delete_traces   trace_ids: list[str]; for_good: bool (absent: false), see `vedette.traces.erased`
link_run        trace_ids: list[str], run_id
unlink_run      trace_ids: list[str], run_id
link_prompts    trace_id, prompts: list["name/version"]
==============  ==================================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

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


class EpochRow(TypedDict):
    """A span of a scorer's life with one rate and one filter. It holds for the units that became
    complete after place ``after_position``, until the next epoch's."""

    epoch: int  # 1, 2, ...
    opened_ms: int
    after_position: int
    after_arrival: NotRequired[int]  # what that means, see `Decisions`; older records lack it
    version: int
    rate: float
    filter: str | None
    strata: list[tuple[str, float]]
    reason: str  # why it was opened, for people
    of_sessions: bool  # whether the scorer's units are sessions


class DecisionRow(TypedDict):
    """What became of a unit that a scorer had selected, or may yet select when the annotations
    change that its filter asks for; the newest per unit and revision holds."""

    unit_id: str  # a trace id or a session id
    unit_type: str  # trace | session
    trace_id: str  # the trace itself, or the session's first
    revision: int
    version: int
    epoch: int
    stratum: int  # place in the epoch's strata; -1: none of them
    inclusion_probability: float
    draw: float
    # scored | failed | retrying | budget | superseded | stopped | deleted | not_selected | filtered
    # | reused
    decision: str
    scores: str  # JSON: [{assessment_id, name, value}]
    error_code: str | None
    error: str | None
    attempts: int
    first_attempt_ms: int | None
    next_attempt_ms: int | None  # while retrying
    milliseconds: float | None
    worker: str | None
    model: str | None
    calls: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    completed_ms: int
    decided_ms: int
    origin: str  # live | backfill:<job>


class CountRow(TypedDict):
    """How many units met one decision that leaves no row of their own."""

    epoch: int
    stratum: int
    hour_ms: int  # of completion, cut to the hour
    # not_selected | filtered | evaluation_run | incomplete | superseded | stopped | deleted
    decision: str
    units: int  # negative: so many of those counted before were decided otherwise


class BackfilledScorer(TypedDict):
    """A scorer of a backfill, as it was when that was asked for."""

    name: str
    version: int
    rate: float
    filter: str | None
    strata: list[tuple[str, float]]
    of_sessions: bool
    units: int  # in the window


class BackfillRow(TypedDict):
    """The fields of a ``backfill`` record: a job that scores what is complete already."""

    job: str
    experiment_id: str
    scorers: list[BackfilledScorer]
    start_ms: int  # of traces that began at this time or later,
    end_ms: int  # and before this one; a session counts by its first trace
    trace_arrival: int  # and have arrived until then, see `Decisions`: traces
    session_arrival: int  # and sessions
    rescore: bool  # also what this version has scored
    created_ms: int
    cancelled_ms: int | None


class Stream(NamedTuple):
    """What has a cursor, epochs and counts of its own in the ledger."""

    experiment_id: str
    scorer: str
    job: str | None = None  # None: live

    @property
    def key(self) -> str:
        """Its name in records: ``<experiment>/<scorer>``, ``<experiment>:<job>/<scorer>``."""
        job = "" if self.job is None else f":{self.job}"
        return f"{self.experiment_id}{job}/{self.scorer}"

    @property
    def live(self) -> str:
        """The key of the scorer's live stream."""
        return f"{self.experiment_id}/{self.scorer}"

    @property
    def origin(self) -> str:
        """As decisions have it."""
        return "live" if self.job is None else f"backfill:{self.job}"

    @classmethod
    def of(cls, key: str) -> Stream:
        """The stream of this key."""
        where, _, scorer = key.partition("/")
        experiment_id, _, job = where.partition(":")
        return cls(experiment_id, scorer, job or None)

    @classmethod
    def with_origin(cls, experiment_id: str, scorer: str, origin: str | None) -> Stream:
        """The stream whose decisions have this origin."""
        job = (origin or "").removeprefix("backfill:") if origin != "live" else None
        return cls(experiment_id, scorer, job or None)


class Decisions(TypedDict):
    """The fields of a ``decisions`` record: results and progress of one scorer, landing together.

    ``cursor`` is ``[from, to]``: every unit complete after place ``from`` and up to ``to`` has its
    decision in this record or, while it is retried, an entry in it. It is applied only to a cursor
    at ``from``, so that a record that is written twice counts once. ``[n, None]`` forgets the
    cursor, ``[None, n]`` sets the first one; None leaves it alone.

    Places are of one read model. ``arrived_until`` says what ``to`` means in any: every unit up to
    that place in the order of arrivals is decided, if it is for the scorer to decide; see
    `vedette.scoring.arrival_order`. None: there is no cursor any more. Older records lack it.
    """

    scorer: str  # the key of its `Stream`
    cursor: tuple[int | None, int | None] | None
    arrived_until: NotRequired[int | None]
    epochs: list[EpochRow]
    decisions: list[DecisionRow]
    counts: list[CountRow]
    put: list[AssessmentRow]


@dataclass(frozen=True, slots=True)
class Record:
    """One journal record. ``fields`` are the header fields besides ``kind``, ``at`` and ``sub``,
    the microseconds within the millisecond ``at``."""

    kind: str
    at: int
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    sub: int = 0

    def encode(self) -> bytes:
        """The record as bytes: header length, JSON header, body."""
        when = {"at": self.at, "sub": self.sub} if self.sub else {"at": self.at}
        header = orjson.dumps({"kind": self.kind, **when, **self.fields})
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
        kind, at, sub = header.pop("kind"), header.pop("at"), header.pop("sub", 0)
        return cls(kind, at, header, payload[end:], sub)
