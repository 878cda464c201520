"""From completed traces to batches on their way through workers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mlflow.entities import Trace
from mlflow.exceptions import MlflowException

from vedette.scoring.completion import CompletedTrace, completed_after
from vedette.scoring.pool import Unit, WorkerPool
from vedette.scoring.progress import Batch, Progress
from vedette.scoring.selection import to_score
from vedette.traces.filters import TraceFilter
from vedette.traces.index import TraceIndex

logger = logging.getLogger(__name__)

_WINDOW = 256  # completed traces looked at in one go
_IN_FLIGHT = 1024  # traces of one scorer on their way through workers
_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_BATCH_UNITS = 32  # traces in one message to a worker
_BATCH_BYTES = 4 * 1024 * 1024
_LOAD_TRACES = 64  # traces read at a time
_LOAD_BYTES = 32 * 1024 * 1024  # of traces read in one go; what is beyond comes next time


class TraceReads(Protocol):
    """What scoring reads of traces."""

    def batch(self, trace_ids: Sequence[str]) -> list[Trace]:
        """These traces with all their spans; those that don't exist are left out."""

    def matching_spans(self, compiled: TraceFilter, rows: Sequence[int]) -> Iterable[int]:
        """Of these rows, those with a span that the filter's span part matches."""


class Planner:
    """Gives workers what comes next."""

    def __init__(self, index: TraceIndex, reads: TraceReads, pool: WorkerPool) -> None:
        self._index = index
        self._reads = reads
        self._pool = pool

    def start(self, scorers: Iterable[Progress]) -> bool:
        """Read on for every scorer that has room; True if there was something to read."""
        groups: dict[int, list[Progress]] = defaultdict(list)
        for progress in scorers:
            if progress.in_flight < _IN_FLIGHT and progress.in_flight_bytes < _IN_FLIGHT_BYTES:
                groups[progress.reached].append(progress)
        started = False
        for position, group in sorted(groups.items()):  # those that are level share what is read
            window = completed_after(self._index, position, _WINDOW)
            if window and self._plan(group, window):
                started = True
        return started

    def _plan(self, group: list[Progress], window: list[CompletedTrace]) -> bool:
        chosen: list[tuple[Progress, list[CompletedTrace]]] = []
        connection = self._index.connection()
        for progress in group:
            try:
                traces = to_score(connection, progress.scorer, window, self._reads.matching_spans)
            except MlflowException as error:
                progress.hold(f"its filter can't be used: {error.message}")
                continue
            chosen.append((progress, traces))
        wanted = {
            trace.trace_id: trace.position
            for _, traces in chosen
            for trace in traces
            if trace.trace_id is not None
        }
        units, end = self._load(dict(sorted(wanted.items(), key=lambda item: item[1])), window)
        for progress, traces in chosen:
            found = [
                (trace.position, units[trace.trace_id])
                for trace in traces
                if trace.trace_id in units and trace.position <= end  # else: deleted, or too much
            ]
            self._submit(progress, found, end)
        return bool(chosen)

    def _load(
        self, wanted: Mapping[str, int], window: list[CompletedTrace]
    ) -> tuple[dict[str, Unit], int]:
        """The traces by id, as far as they fit, and the place up to which they are there."""
        units: dict[str, Unit] = {}
        size = 0
        ids = list(wanted)
        for at in range(0, len(ids), _LOAD_TRACES):
            if size > _LOAD_BYTES:
                return units, wanted[ids[at]] - 1
            for trace in self._reads.batch(ids[at : at + _LOAD_TRACES]):
                unit = Unit(trace.info.trace_id, _payload(trace))
                units[unit.trace_id] = unit
                size += len(unit.payload)
        return units, window[-1].position

    def _submit(self, progress: Progress, found: list[tuple[int, Unit]], end: int) -> None:
        """Make batches of what was found up to the place ``end``, and hand them to workers."""
        scorer = progress.scorer
        units: list[Unit] = []
        size = 0
        for at, (position, unit) in enumerate(found):
            units.append(unit)
            size += len(unit.payload)
            last = at == len(found) - 1
            if last or len(units) == _BATCH_UNITS or size > _BATCH_BYTES:
                future = self._pool.submit(scorer, units)
                progress.batches.append(Batch(scorer, end if last else position, units, future))
                units, size = [], 0
        if not found:
            progress.batches.append(Batch(scorer, end))


def _payload(trace: Trace) -> bytes:
    try:
        payload: str = trace.to_json()
    except Exception:  # the worker then says that it can't read it: the others must go on
        logger.exception("trace %s can't be written as JSON", trace.info.trace_id)
        return b""
    return payload.encode()
