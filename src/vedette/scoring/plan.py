"""From completed traces to batches on their way through workers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mlflow.exceptions import MlflowException

from vedette.scoring.completion import CompletedTrace, completed_after
from vedette.scoring.payloads import TracePayloads
from vedette.scoring.pool import Unit, WorkerPool
from vedette.scoring.progress import Batch, Progress
from vedette.scoring.selection import to_score
from vedette.traces.index import TraceIndex
from vedette.traces.matching import Contents

_WINDOW = 256  # completed traces looked at in one go
_IN_FLIGHT = 1024  # traces of one scorer on their way through workers
_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_BATCH_UNITS = 32  # traces in one message to a worker
_BATCH_BYTES = 4 * 1024 * 1024
_LOAD_TRACES = 64  # traces read at a time
_LOAD_BYTES = 32 * 1024 * 1024  # of traces read in one go; what is beyond comes next time


class Planner:
    """Gives workers what comes next."""

    def __init__(self, index: TraceIndex, contents: Contents, pool: WorkerPool) -> None:
        self._index = index
        self._contents = contents
        self._payloads = TracePayloads(index, contents)
        self._pool = pool

    def start(self, scorers: Iterable[Progress]) -> bool:
        """Read on for every scorer that has room; True if there was something to read.

        Raises:
            LakeUnavailable: whole traces can't be read now.
        """
        groups: dict[int, list[Progress]] = defaultdict(list)
        now = time.monotonic()
        for progress in scorers:
            if progress.paused_until > now:
                continue
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
                traces = to_score(connection, self._contents, progress.scorer, window)
            except MlflowException as error:
                progress.hold(f"its filter can't be used: {error.message}")
                progress.pause(time.monotonic())
                continue
            progress.go_on()
            chosen.append((progress, traces))
        wanted = {trace.position: trace for _, traces in chosen for trace in traces}
        locations = {p.scorer.experiment_id: p.scorer.artifact_location for p, _ in chosen}
        units, end = self._load([wanted[place] for place in sorted(wanted)], locations)
        end = window[-1].position if end is None else end
        for progress, traces in chosen:
            found = [
                (trace.position, units[trace.row])
                for trace in traces
                if trace.row in units and trace.position <= end  # else: deleted, or too much
            ]
            self._submit(progress, found, end)
        return bool(chosen)

    def _load(
        self, wanted: Sequence[CompletedTrace], locations: Mapping[str, str]
    ) -> tuple[dict[int, Unit], int | None]:
        """The traces by row, as far as they fit; and up to which place they are there, if some had
        to be left for next time."""
        units: dict[int, Unit] = {}
        size = 0
        for at in range(0, len(wanted), _LOAD_TRACES):
            if size > _LOAD_BYTES:
                return units, wanted[at].position - 1
            ids = {trace.row: trace.trace_id for trace in wanted[at : at + _LOAD_TRACES]}
            for row, payload in self._payloads.of(ids, locations).items():
                units[row] = Unit(ids[row], payload)
                size += len(payload)
        return units, None

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
