"""Trace writes: check against the read model, journal, return when it is on disk.

What doesn't exist, or isn't allowed, is answered with the errors of MLflow's SQL store. A write
that depends on what it replaces holds one lock from the look to the disk, so that two of them can't
both build on the same old version.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.tracing.constant import TraceMetadataKey

from vedette.intake.journal import JournalFull, JournalUnavailable, JournalWriter
from vedette.intake.records import AssessmentRow, Position, Record, TraceHeader
from vedette.lake.location import DEFAULT, Location, stamp
from vedette.lake.locations import Locations
from vedette.named_sql import statements

_SQL = statements("vedette.traces", "writes")
_ASSESSMENT_FIELDS = tuple(AssessmentRow.__annotations__)
_DELETED_PER_RECORD = 10_000  # trace ids in one record
_TRACE_NAME = "mlflow.traceName"  # a tag to its users, a column of the read model


class UserTrace(NamedTuple):
    """A trace of a user."""

    trace_id: str
    experiment_id: int
    timestamp_ms: int
    span_count: int


class TraceWrites:
    """The writes of one process. Every method returns when what it wrote is durable.

    Args:
        journal: where records go.
        up_to_date: gives this thread's connection to the read model after everything journaled so
            far has been folded into it.
        locations: where the traces of experiments are.

    Raises (every method):
        MlflowException: TEMPORARILY_UNAVAILABLE when the journal is full or its disk refuses;
            INVALID_PARAMETER_VALUE for text that isn't Unicode.
    """

    def __init__(
        self,
        journal: JournalWriter,
        up_to_date: Callable[[], sqlite3.Connection],
        locations: Locations,
    ) -> None:
        self._journal = journal
        self._up_to_date = up_to_date
        self._locations = locations
        self._revising = threading.Lock()

    def log_spans(self, experiment_id: str, body: bytes) -> None:
        """Add spans: an OTLP request that was checked."""
        fields = {"experiment_id": experiment_id, "run_id": None}
        self._write("spans", self._locations.of(experiment_id), fields, body)

    def append_start(self, header: TraceHeader) -> Future[Position]:
        """`start_trace` without the wait; resolves when it is durable."""
        location = self._locations.of(header["experiment_id"])
        return self._append("start_trace", location, {"trace": header})

    def start_trace(self, header: TraceHeader) -> None:
        """Say what a trace is, whether or not any of its spans have arrived."""
        location = self._locations.of(header["experiment_id"])
        self._write("start_trace", location, {"trace": header})

    def set_tag(self, trace_id: str, key: str, value: str | None) -> None:
        """Set a tag. RESOURCE_DOES_NOT_EXIST: there is no such trace."""
        location = self._locate(self._up_to_date(), trace_id)
        self._write("set_tag", location, {"trace_id": trace_id, "key": key, "value": value})

    def delete_tag(self, trace_id: str, key: str) -> None:
        """Delete a tag. RESOURCE_DOES_NOT_EXIST: the trace, or the tag on it, isn't there."""
        index = self._up_to_date()
        if key == _TRACE_NAME:
            self._locate(index, trace_id)
        statement = _SQL["name_exists" if key == _TRACE_NAME else "tag_exists"]
        found = index.execute(statement, {"trace_id": trace_id, "key": key}).fetchone()
        if found is None:
            raise MlflowException(
                f"No trace tag with key '{key}' for trace with ID '{trace_id}'",
                RESOURCE_DOES_NOT_EXIST,
            )
        location = self._locations.of(str(found[0]))
        self._write("delete_tag", location, {"trace_id": trace_id, "key": key})

    def create_assessment(self, row: AssessmentRow, *, new_id: bool) -> None:
        """Add an assessment; one that it overrides is marked invalid with it.

        Args:
            new_id: its id was made for it just now, so that nobody else can be using it.

        RESOURCE_DOES_NOT_EXIST: the trace, or the overridden assessment on it, isn't there.
        RESOURCE_ALREADY_EXISTS: its id is taken.
        """
        with nullcontext() if new_id and not row["overrides"] else self._revising:
            index = self._up_to_date()
            location = self._locate(index, row["trace_id"])
            if _find_assessment(index, row["assessment_id"]) is not None:
                raise MlflowException(
                    f"Assessment with ID '{row['assessment_id']}' already exists; "
                    "leave the id out to have one made",
                    RESOURCE_ALREADY_EXISTS,
                )
            put = [row]
            if row["overrides"]:
                overridden = _find_assessment(index, row["overrides"], row["trace_id"])
                if overridden is None:
                    raise _no_assessment(row["overrides"], row["trace_id"])
                put.insert(0, {**overridden, "valid": False})
            self._write("assessments", location, {"put": put})

    def revise_assessment(
        self,
        trace_id: str,
        assessment_id: str,
        change: Callable[[AssessmentRow], AssessmentRow],
    ) -> AssessmentRow:
        """Replace an assessment by what ``change`` makes of its current version; returns that.

        RESOURCE_DOES_NOT_EXIST: the trace, or the assessment on it, isn't there.
        """
        with self._revising:
            index = self._up_to_date()
            current = _find_assessment(index, assessment_id, trace_id)
            if current is None:
                if index.execute(_SQL["experiment_of"], {"trace_id": trace_id}).fetchone() is None:
                    raise MlflowException(
                        f"Trace with request_id '{trace_id}' not found", RESOURCE_DOES_NOT_EXIST
                    )
                raise _no_assessment(assessment_id, trace_id)
            row = change(current)
            self._write("assessments", self._locate(index, trace_id), {"put": [row]})
            return row

    def delete_assessment(self, trace_id: str, assessment_id: str) -> None:
        """Delete an assessment if it is there; one that it overrode is valid again."""
        with self._revising:
            index = self._up_to_date()
            row = _find_assessment(index, assessment_id, trace_id)
            if row is None:
                return
            put = []
            if row["overrides"] and (restored := _find_assessment(index, row["overrides"])):
                put.append({**restored, "valid": True})
            fields = {"put": put, "delete": [[trace_id, assessment_id]]}
            self._write("assessments", self._locate(index, trace_id), fields)

    def delete_assessments_of_runs(self, run_ids: Collection[str]) -> None:
        """Delete what these evaluation runs have assessed; the runs themselves are deleted."""
        if not run_ids:
            return
        with self._revising:
            found = self._up_to_date().execute(
                _SQL["assessments_of_runs"], {"run_ids": json.dumps(list(run_ids))}
            )
            for location, pairs in self._by_location(found).items():
                self._write("assessments", location, {"delete": pairs})

    def delete_traces(
        self,
        experiment_id: int,
        *,
        max_timestamp_ms: int | None = None,
        max_traces: int | None = None,
        trace_ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Delete the traces of an experiment that match every condition given, oldest first.

        Returns:
            The ids of the traces deleted.
        """
        found = self._up_to_date().execute(
            _SQL["traces_to_delete"],
            {
                "experiment_id": experiment_id,
                "max_timestamp_ms": max_timestamp_ms,
                "trace_ids": json.dumps(list(trace_ids)) if trace_ids else None,
                "max_traces": -1 if max_traces is None else max_traces,
            },
        )
        deleted: list[str] = [trace_id for (trace_id,) in found]
        for start in range(0, len(deleted), _DELETED_PER_RECORD):
            some = deleted[start : start + _DELETED_PER_RECORD]
            location = self._locations.of(str(experiment_id))
            self._write("delete_traces", location, {"trace_ids": some})
        return deleted

    def traces_of_user(self, user: str, experiment_id: int | None = None) -> list[UserTrace]:
        """The traces whose metadata ``mlflow.trace.user`` is ``user``, oldest first.

        Args:
            experiment_id: only those of this experiment.
        """
        values = {
            "key": TraceMetadataKey.TRACE_USER,
            "user": user,
            "experiment_id": experiment_id,
        }
        found = self._up_to_date().execute(_SQL["traces_of_user"], values)
        return [UserTrace(*row) for row in found]

    def waiting_for_erasure(self) -> int:
        """How many traces that were deleted for good are still in some file."""
        return int(self._up_to_date().execute(_SQL["waiting_for_erasure"]).fetchone()[0])

    def delete_for_good(self, trace_ids: Sequence[str]) -> None:
        """Delete traces so that nothing of them comes back, and the engine takes them out of all
        files."""
        for location, there in self._where(trace_ids).items():
            for start in range(0, len(there), _DELETED_PER_RECORD):
                some = there[start : start + _DELETED_PER_RECORD]
                self._write("delete_traces", location, {"trace_ids": some, "for_good": True})

    def link_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """Link traces to a run. As in MLflow, neither needs to exist yet."""
        self._write_links("link_run", trace_ids, run_id)

    def unlink_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """Undo `link_run`, where it was done."""
        self._write_links("unlink_run", trace_ids, run_id)

    def link_prompts(self, trace_id: str, prompts: Sequence[str]) -> None:
        """Link prompt versions ("name/version"). RESOURCE_DOES_NOT_EXIST: no such trace."""
        location = self._locate(self._up_to_date(), trace_id)
        self._write("link_prompts", location, {"trace_id": trace_id, "prompts": list(prompts)})

    def _write_links(self, kind: str, trace_ids: Sequence[str], run_id: str) -> None:
        for location, some in self._where(trace_ids).items():
            self._write(kind, location, {"trace_ids": some, "run_id": run_id})

    def _where(self, trace_ids: Sequence[str]) -> dict[Location, list[str]]:
        """Traces by where they are; one that hasn't come yet counts to the location by default."""
        known: dict[str, int] = {}
        if self._locations.places() != [DEFAULT]:
            values = {"trace_ids": json.dumps(list(trace_ids))}
            known.update(self._up_to_date().execute(_SQL["experiments_of"], values).fetchall())
        found = self._by_location((known.get(trace_id, ""), trace_id) for trace_id in trace_ids)
        return {location: [trace_id for (trace_id,) in some] for location, some in found.items()}

    def _by_location(self, rows: Iterable[tuple[Any, ...]]) -> dict[Location, list[list[Any]]]:
        """What follows the experiment's id in each row, by where the experiment's traces are."""
        found: dict[Location, list[list[Any]]] = {}
        for experiment_id, *rest in rows:
            found.setdefault(self._locations.of(str(experiment_id)), []).append(rest)
        return found

    def _locate(self, index: sqlite3.Connection, trace_id: str) -> Location:
        """Where a trace is. RESOURCE_DOES_NOT_EXIST: there is no such trace."""
        found = index.execute(_SQL["experiment_of"], {"trace_id": trace_id}).fetchone()
        if found is None:
            raise MlflowException(f"Trace with ID '{trace_id}' not found.", RESOURCE_DOES_NOT_EXIST)
        return self._locations.of(str(found[0]))

    def _write(
        self, kind: str, location: Location, fields: dict[str, Any], body: bytes = b""
    ) -> None:
        try:
            self._append(kind, location, fields, body).result()
        except (JournalFull, JournalUnavailable) as error:
            raise unavailable(error) from error

    def _append(
        self, kind: str, location: Location, fields: dict[str, Any], body: bytes = b""
    ) -> Future[Position]:
        fields = {**fields, **stamp(location)}
        record = Record(kind, time.time_ns() // 1_000_000, fields, body)
        try:
            return self._journal.append(record)
        except (JournalFull, JournalUnavailable) as error:
            raise unavailable(error) from error
        except TypeError as error:  # what JSON can't hold: a lone surrogate, a 65-bit number
            raise MlflowException.invalid_parameter_value(
                f"the {kind} request holds a value that can't be stored: {error}"
            ) from error


def _find_assessment(
    index: sqlite3.Connection, assessment_id: str, trace_id: str | None = None
) -> AssessmentRow | None:
    """An assessment's current version; None if it isn't there, or not on the trace."""
    found = index.execute(_SQL["assessment"], {"assessment_id": assessment_id}).fetchone()
    if found is None:
        return None
    row = cast(AssessmentRow, dict(zip(_ASSESSMENT_FIELDS, found, strict=True)))
    row["valid"], row["is_numeric_value"] = bool(row["valid"]), bool(row["is_numeric_value"])
    return row if trace_id is None or row["trace_id"] == trace_id else None


def _no_assessment(assessment_id: str, trace_id: str) -> MlflowException:
    return MlflowException(
        f"Assessment with ID '{assessment_id}' not found for trace '{trace_id}'",
        RESOURCE_DOES_NOT_EXIST,
    )


def unavailable(error: JournalFull | JournalUnavailable) -> MlflowException:
    """The journal's refusal as the error that MLflow's clients retry."""
    return MlflowException(str(error), TEMPORARILY_UNAVAILABLE)
