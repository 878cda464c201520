"""A trace or session as it goes to a worker: JSON text, put together from what is stored.

``{"info": <TraceInfo.to_dict()>, "spans": [<SqlSpan.content>, ...]}``. The engine never builds the
spans: that is most of the work, and the worker does it. ``{"unreadable": <why>}`` stands for a
trace that can't be put so: its scorers say that, and other traces go on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from mlflow.entities import TraceInfo
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from mlflow.utils.uri import append_to_uri_path

from vedette.scoring.batches import Attempt
from vedette.scoring.completion import CompletedUnit, session_traces
from vedette.scoring.outcomes import Unit
from vedette.traces.index import TraceIndex
from vedette.traces.infos import trace_infos
from vedette.traces.matching import Contents

logger = logging.getLogger(__name__)

_LOAD_SIZE = 24 * 1024 * 1024  # characters of units read in one go; the rest comes next time


class Payloads:
    """Reads traces and sessions for workers."""

    def __init__(self, index: TraceIndex, contents: Contents) -> None:
        self.index = index
        self._contents = contents

    def fitting(self, wanted: Sequence[CompletedUnit], most: int) -> int:
        """How many of these units, from the first one on, have together about ``most`` characters
        of content at most; at least one."""
        traces = [self._rows(unit) for unit in wanted]
        sizes = self._contents.sizes([row for rows in traces for row in rows])
        total = 0
        for number, rows in enumerate(traces):
            total += sum(sizes.get(row, 0) for row in rows)
            if number and total > most:
                return number
        return len(wanted)

    def load(
        self, wanted: Sequence[CompletedUnit], locations: Mapping[str, str]
    ) -> tuple[dict[int, Unit], int | None]:
        """As `of`, as far as they fit into memory; and up to which place they are there, if some
        had to be left for next time."""
        if not wanted:
            return {}, None
        fitting = self.fitting(wanted, _LOAD_SIZE)
        found = self.of(wanted[:fitting], locations)
        return found, wanted[fitting].position - 1 if fitting < len(wanted) else None

    def of(self, wanted: Sequence[CompletedUnit], locations: Mapping[str, str]) -> dict[int, Unit]:
        """The units by their place, but those that have been deleted.

        Give it as many as memory bears: the lake's files are read once for all of them, and a unit
        has some of its bytes everywhere in a file.

        Args:
            locations: where an experiment's artifacts are, by experiment id.

        Raises:
            LakeUnavailable: the lake, which alone has some of the spans, can't be read.
        """
        rows = {unit.position: self._rows(unit) for unit in wanted}
        every = {row: trace_id for traces in rows.values() for row, trace_id in traces.items()}
        payloads = self._traces(every, locations)
        found: dict[int, Unit] = {}
        for unit in wanted:
            parts = [payloads[row] for row in rows[unit.position] if row in payloads]
            if not parts:
                continue
            body = parts[0]
            if unit.session_id is not None:
                body = session_payload(unit.session_id, parts)
            found[unit.position] = Unit(unit.unit_id, body, unit.revision)
        return found

    def again(
        self, experiment_id: str, attempts: Mapping[int, Attempt], locations: Mapping[str, str]
    ) -> dict[int, Unit]:
        """The units of these attempts, by the same keys, but those that have been deleted."""
        rows = {
            trace_id: row
            for row, trace_id in self.index.connection().execute(
                "SELECT id, trace_id FROM traces"
                " WHERE trace_id IN (SELECT value FROM json_each(?))",
                (json.dumps([attempt.trace_id for attempt in attempts.values()]),),
            )
        }
        wanted = [
            CompletedUnit(
                position=place,
                reason="complete",
                row=rows.get(attempt.trace_id, 0),
                trace_id=attempt.trace_id,
                experiment_id=experiment_id,
                session_id=attempt.unit_id if attempt.unit_type == "session" else None,
                revision=attempt.revision,
                completed_ms=attempt.completed_ms,
                of_run=False,
            )
            for place, attempt in attempts.items()
        ]
        return self.of(wanted, locations)

    def _rows(self, unit: CompletedUnit) -> dict[int, str]:
        """The traces of a unit: their ids, by row."""
        if unit.session_id is None:
            return {unit.row: unit.trace_id}
        return session_traces(self.index, unit.experiment_id, unit.session_id)

    def _traces(self, traces: Mapping[int, str], locations: Mapping[str, str]) -> dict[int, bytes]:
        contents = self._contents.of(list(traces))
        infos = {info.trace_id: info for info in trace_infos(self.index.connection(), list(traces))}
        found: dict[int, bytes] = {}
        for row, trace_id in traces.items():
            if info := infos.get(trace_id):
                _locate_artifacts(info, locations)
                try:
                    found[row] = payload(info, contents.get(row, ()))
                except Exception as error:  # of whatever is stored: it is this trace's, not all's
                    logger.exception(
                        "trace %s can't be read, and is scored with an error", trace_id
                    )
                    found[row] = unreadable(error)
        return found


def session_payload(session_id: str, traces: Sequence[bytes]) -> bytes:
    """A session for a worker, from its traces' payloads in the order in which they began."""
    return b'{"session_id":%b,"traces":[%b]}' % (
        json.dumps(session_id).encode(),
        b",".join(traces),
    )


def payload(info: TraceInfo, contents: Sequence[str]) -> bytes:
    """One trace for a worker, from its info and its spans' contents."""
    return f'{{"info":{json.dumps(info.to_dict())},"spans":[{",".join(contents)}]}}'.encode()


def unreadable(error: Exception) -> bytes:
    """One trace for a worker, which answers with this error."""
    return json.dumps({"unreadable": str(error) or type(error).__name__}).encode()


def _locate_artifacts(info: TraceInfo, locations: Mapping[str, str]) -> None:
    """The tag that the server adds to every trace it gives out: a scorer may look at tags."""
    root = locations.get(str(info.experiment_id))
    if root is not None:
        info.tags[MLFLOW_ARTIFACT_LOCATION] = append_to_uri_path(
            root, SqlAlchemyStore.TRACE_FOLDER_NAME, info.trace_id, "artifacts"
        )
