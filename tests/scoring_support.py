"""Traces, and a scoring plane on a directory of its own, for the tests of scoring."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.entities import ExperimentTag
from mlflow.store.tracking.dbmodels.models import SqlOnlineScoringConfig
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Record
from vedette.scoring.active import STRATA_TAG, ActiveScorer
from vedette.scoring.answers import failed_row
from vedette.scoring.outcomes import Unit
from vedette.scoring.runner import Scoring
from vedette.scoring.selection import Selection
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

SPAN = {
    "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
    "span_id": "AAAAAAAAAAE=",
    "parent_span_id": None,
    "name": "root",
    "start_time_unix_nano": 1_700_000_000_000_000_000,
    "end_time_unix_nano": 1_700_000_000_500_000_000,
    "status": {"code": "STATUS_CODE_OK", "message": ""},
    "events": [],
}


def unit(number: int, outputs: Any = "fine") -> Unit:
    """A trace with the number as input."""
    trace_id = f"tr-{number:032x}"
    attributes = {
        "mlflow.traceRequestId": json.dumps(trace_id),
        "mlflow.spanInputs": json.dumps(number),
        "mlflow.spanOutputs": json.dumps(outputs),
    }
    trace = {
        "info": {
            "trace_id": trace_id,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "1"},
            },
            "request_time": "2024-01-01T00:00:00Z",
            "state": "OK",
        },
        "spans": [{**SPAN, "attributes": attributes}],
    }
    return Unit(trace_id, json.dumps(trace).encode())


def code(body: str, *, name: str = "probe", timeout: float | None = None) -> ActiveScorer:
    """A registered scorer function of ``inputs`` and ``outputs`` with this body."""
    serialized = {
        "name": name,
        "call_source": body,
        "call_signature": "(inputs, outputs)",
        "original_func_name": name,
        "timeout": timeout,
        "mlflow_version": "3.17.2",
        "serialization_version": 1,
        "is_session_level_scorer": False,
    }
    return ActiveScorer("1", name, 1, json.dumps(serialized), 1.0)


def trace_number(trace_id: str) -> int:
    """The number of a trace made by `spans_record` or `unit`."""
    return int(trace_id.removeprefix("tr-"), 16)


def spans_record(
    experiment_id: str,
    number: int,
    *,
    name: str = "agent",
    root: bool = True,
    at: int | None = None,
    session: str | None = None,
    begun: int = 0,
    failed: bool = False,
) -> Record:
    """The arrival of one span of a trace: its root, or a child of it, ``begun`` seconds after the
    first trace of all."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id = number.to_bytes(16, "big")
    span.span_id = (1 if root else 2).to_bytes(8, "big")
    if not root:
        span.parent_span_id = (1).to_bytes(8, "big")
    span.name = name
    span.start_time_unix_nano = 1_700_000_000_000_000_000 + begun * 1_000_000_000
    span.end_time_unix_nano = 1_700_000_000_500_000_000 + begun * 1_000_000_000
    span.status.code = 2 if failed else 1
    if session is not None:
        attribute = span.attributes.add(key="session.id")
        attribute.value.string_value = session
    now = int(time.time() * 1000) if at is None else at
    return Record("spans", now, {"experiment_id": experiment_id}, request.SerializeToString())


class MadeSpans:
    """Contents of spans, made from the traces' ids: the number as the root's inputs."""

    def __init__(self, index: TraceIndex) -> None:
        self._index = index

    def of(self, rows: Sequence[int]) -> dict[int, list[str]]:
        found = self._index.connection().execute(
            "SELECT id, trace_id FROM traces WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        )
        return {
            row: [json.dumps(json.loads(unit(trace_number(trace_id)).payload)["spans"][0])]
            for row, trace_id in found
        }

    def sizes(self, rows: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(rows, 1000)


def make_control_database(path: Path) -> None:
    """MLflow's own tables, as its server makes them."""
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    utils._initialize_tables(engine)
    engine.dispose()


@dataclass
class Score:
    """A live score as the read model has it."""

    number: int
    value: Any
    error: dict[str, Any] | None
    metadata: dict[str, str]


class Plane:
    """A data directory with journals, read model and control database, and its scoring."""

    def __init__(self, data: Path, **settings: Any) -> None:
        buffers = {"trace_completion_buffer": 0.0, "session_completion_buffer": 0.0}
        self.settings = Settings(data=data, **{**buffers, **settings})
        self.server_journal = JournalWriter(self.settings.server_journal)
        self.engine_journal = JournalWriter(self.settings.engine_journal)
        self.readers = [
            JournalReader(self.settings.server_journal),
            JournalReader(self.settings.engine_journal),
        ]
        self.index = TraceIndex(self.settings.index_path)
        self.store = SqlAlchemyStore(self.settings.control_uri, str(data / "artifacts"))
        self.selection = Selection(self.index, MadeSpans(self.index))
        self.scoring = Scoring(
            self.settings, self.index, MadeSpans(self.index), self.engine_journal
        )

    def close(self) -> None:
        self.scoring.close()
        self.server_journal.close()
        self.engine_journal.close()

    def arrive(self, *records: Record) -> None:
        """These records are written and acknowledged."""
        for written in [self.server_journal.append(record) for record in records]:
            written.result(10)

    def register(
        self,
        experiment_id: str,
        name: str,
        body: str,
        *,
        timeout: float = 0,
        of_sessions: bool = False,
    ) -> None:
        """Register a scorer function, or its next version."""
        serialized = json.loads(code(body, name=name, timeout=timeout).serialized)
        if of_sessions:
            serialized |= {"is_session_level_scorer": True, "call_signature": "(session)"}
        self.store.register_scorer(experiment_id, name, json.dumps(serialized))

    def annotate(self, number: int, name: str, value: Any) -> None:
        """Somebody gives feedback on a trace."""
        row = failed_row(name, "", "")
        row |= {"value": json.dumps(value), "error": None, "source_type": "HUMAN"}
        row |= {"assessment_id": f"a-{uuid.uuid4().hex}", "trace_id": f"tr-{number:032x}"}
        fields = {"put": [row], "delete": []}
        self.arrive(Record("assessments", int(time.time() * 1000), fields))

    def decisions(self, experiment_id: str, name: str) -> dict[tuple[str, int], dict[str, Any]]:
        """What was decided of selected units: by unit id and revision."""
        connection = self.index.connection()
        found = connection.execute(
            "SELECT * FROM decisions WHERE scorer = ?", (f"{experiment_id}/{name}",)
        )
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found]
        return {(row["unit_id"], row["revision"]): row for row in rows}

    def counts(self, experiment_id: str, name: str) -> dict[str, int]:
        """How many units met each decision."""
        found = self.index.connection().execute(
            "SELECT decision, sum(units) FROM decision_counts WHERE scorer = ? GROUP BY decision",
            (f"{experiment_id}/{name}",),
        )
        return {decision: units for decision, units in found if units}

    def start(
        self,
        experiment_id: str,
        name: str,
        *,
        rate: float = 1.0,
        filter_string: str | None = None,
        strata: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Start a registered scorer, change it, or stop it with rate 0."""
        if strata:
            tag = ExperimentTag(f"{STRATA_TAG}{name}", json.dumps(strata))
            self.store.set_experiment_tag(experiment_id, tag)
        scorer = self.store.get_scorer(experiment_id, name)
        with self.store.ManagedSessionMaker(read_only=False) as session:
            session.query(SqlOnlineScoringConfig).filter_by(scorer_id=scorer.scorer_id).delete()
            session.add(
                SqlOnlineScoringConfig(
                    online_scoring_config_id=uuid.uuid4().hex,
                    scorer_id=scorer.scorer_id,
                    sample_rate=rate,
                    experiment_id=int(experiment_id),
                    filter_string=filter_string,
                )
            )

    def fold(self) -> None:
        self.index.catch_up(self.readers)

    def settle(self, seconds: float = 60.0) -> None:
        """Run the engine's loops until nothing is left to be done."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < 3:
            assert time.monotonic() < deadline, self.scoring.state()
            self.fold()
            busy = self.scoring.tick()
            quiet = 0 if busy or self._incomplete() else quiet + 1
            time.sleep(0.002)
        self.fold()

    def _incomplete(self) -> bool:
        waiting = (
            "SELECT EXISTS (SELECT 1 FROM completing c JOIN traces t ON t.id = c.trace"
            " WHERE t.has_root) OR EXISTS (SELECT 1 FROM annotated)"
            " OR EXISTS (SELECT 1 FROM completing_sessions)"
        )
        return bool(self.index.connection().execute(waiting).fetchone()[0])

    def scores(self, experiment_id: str, name: str) -> list[Score]:
        """The live scores of a scorer, in the order of their writing."""
        rows = self.index.connection().execute(
            "SELECT t.trace_id, a.value, a.error, a.assessment_metadata FROM assessments a"
            " JOIN traces t ON t.id = a.trace WHERE a.name = ? AND t.experiment_id = ?"
            " ORDER BY a.created_timestamp",
            (name, int(experiment_id)),
        )
        return [
            Score(
                trace_number(trace_id),
                json.loads(value),
                None if error is None else json.loads(error),
                json.loads(metadata or "{}"),
            )
            for trace_id, value, error, metadata in rows
        ]

    def scored(self, experiment_id: str, name: str) -> list[int]:
        """Numbers of the traces that have a score of this scorer, ascending."""
        return sorted(score.number for score in self.scores(experiment_id, name))
