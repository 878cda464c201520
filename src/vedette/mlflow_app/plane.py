"""A data directory as one process has it open: journal, read model, reads and writes.

Several stores live in a server process, made by MLflow wherever it wants one. They share this.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from mlflow.entities import LifecycleStage, TraceInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_STATE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import append_to_uri_path
from starlette.routing import BaseRoute

from vedette.intake.http import Destination, otlp_routes
from vedette.intake.journal import JournalCorrupt, JournalReader, JournalWriter
from vedette.intake.otlp import PROTOBUF, RequestRefused, parse_request
from vedette.lake.location import DEFAULT, Location, stamp
from vedette.lake.span_readers import SpanReaders
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake
from vedette.mlflow_app.environment import ARTIFACTS_PROXY, store_uri
from vedette.mlflow_app.experiments import Experiments
from vedette.readiness import rebuild_state, told
from vedette.settings import Settings
from vedette.trace_locations import learn_locations
from vedette.traces.columns import Columns
from vedette.traces.contents import SpanContents
from vedette.traces.following import Following
from vedette.traces.index import IndexUnavailable, TraceIndex
from vedette.traces.reads import TraceReads
from vedette.traces.totals import gateway_cost, issue_trace_counts
from vedette.traces.writes import TraceWrites

logger = logging.getLogger(__name__)

_DEFAULT_EXPERIMENT = "0"
_open: dict[str, TracePlane] = {}


class TracePlane:
    """What the stores of a process share. Made by `open_plane`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journal = JournalWriter(
            settings.server_journal,
            segment_seconds=settings.commit_seconds,
            segment_bytes=settings.segment_bytes,
            max_bytes=settings.journal_max_bytes,
        )
        self._journals = [
            JournalReader(settings.server_journal),
            JournalReader(settings.engine_journal),
        ]
        lake = Lake(settings.lake_uri, settings.lake_state)
        self.locations = lake.locations
        self.index = TraceIndex(settings.index_path, lake.is_used)
        self.control = SqlAlchemyStore(settings.control_uri, ARTIFACTS_PROXY)
        learn_locations(settings, self.locations)
        self.experiments = Experiments(self.control.get_experiment, self.locations)
        self.writes = TraceWrites(self.journal, self.up_to_date, self.locations)
        self._columns = Columns(settings.metrics_path)
        self._following = Following(self._columns, self.index.connection)
        self.contents = SpanContents(self.index, self._journals, SpanReaders(lake))
        self.reads = TraceReads(self.up_to_date, self._columns, self.contents)

    def up_to_date(self) -> sqlite3.Connection:
        """This thread's connection to the read model, with everything journaled so far in it.

        Raises:
            MlflowException: TEMPORARILY_UNAVAILABLE, the read model can't be written now, or it is
                being rebuilt.
        """
        try:
            self.index.catch_up(self._journals)
            return self.index.connection()
        except IndexUnavailable as error:
            state = rebuild_state(self.settings)
            message = f"{told(state)}; try again later" if state else str(error)
            raise MlflowException(message, TEMPORARILY_UNAVAILABLE) from error
        except sqlite3.OperationalError as error:  # locked for very long, or the disk is full
            raise MlflowException(
                f"the read model {self.settings.index_path} can't be written: {error}",
                TEMPORARILY_UNAVAILABLE,
            ) from error
        except (JournalCorrupt, LakeUnavailable, OSError) as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error

    def artifact_location(self, info: TraceInfo) -> str:
        """Where a trace's attachments are: beneath its experiment's artifacts, as in MLflow."""
        location = self.experiments.artifact_location(str(info.experiment_id))
        return info.trace_id.join(_around_trace_id(location))

    def issue_trace_counts(self, issue_ids: Sequence[str]) -> dict[str, int]:
        """How many traces refer to each of the issues."""
        return issue_trace_counts(self.up_to_date(), issue_ids)

    def gateway_cost(
        self, start_ms: int, end_ms: int, endpoint_id: str | None, username: str | None
    ) -> float:
        """Cost in USD of traces of MLflow's gateway in a time range."""
        return gateway_cost(self.up_to_date(), start_ms, end_ms, endpoint_id, username)

    def log_spans(self, experiment_id: str, body: bytes) -> None:
        """Take an OTLP request made in this process, as one that came over HTTP.

        Raises:
            MlflowException: it is too large, or can't be journaled now.
        """
        try:
            parsed = parse_request(body, PROTOBUF, "", self.settings.max_body_bytes)
        except RequestRefused as refusal:
            raise MlflowException.invalid_parameter_value(str(refusal)) from refusal
        if parsed.rejected:
            logger.warning("left out %d spans: %s", parsed.rejected, parsed.message)
        if parsed.accepted:
            self.writes.log_spans(experiment_id, parsed.body)

    def otlp_routes(self) -> Sequence[BaseRoute]:
        """The routes that take OTLP."""
        return otlp_routes(self.journal, self._resolve, self.settings.max_body_bytes)

    async def _resolve(self, experiment_id: str | None, location: str | None) -> Destination:
        try:
            place = None if location is None else Location.parse(location)
        except ValueError as error:
            raise RequestRefused(404, f"there are no such tables: {error}") from error
        try:
            if experiment_id is None:
                experiment_id = await asyncio.to_thread(self._first_of, place)
            found = (await self.experiments.get_active_async(experiment_id)).experiment_id
        except MlflowException as error:
            status = error.get_http_status_code()
            # The control database is down: the spans are as good as ever, later
            raise RequestRefused(503 if status >= 500 else status, error.message) from error
        own = self.locations.of(found)
        if place is not None and place != own:
            raise RequestRefused(
                400,
                f"experiment {found} keeps its traces in {own}, not in {place}: name its table, or "
                "leave out the header that names one",
            )
        return Destination(found, stamp(own).get("location"))

    def _first_of(self, location: Location | None) -> str:
        """The experiment of requests that name none: of those that are bound to the location, the
        one that was first, so that another one doesn't take from it what is sent to it already.
        """
        if location in (None, DEFAULT):
            return _DEFAULT_EXPERIMENT
        for experiment_id, binding in self.locations.all().items():
            if binding.location != location:
                continue
            if self.experiments.get(experiment_id).lifecycle_stage == LifecycleStage.ACTIVE:
                return experiment_id
        raise MlflowException(
            f"no experiment keeps its traces in {location}: say so with vedette.set_experiment, or "
            "name the tables of main.default.mlflow",
            RESOURCE_DOES_NOT_EXIST,
        )

    def close(self) -> None:
        """Flush and release the journal, close the mirror."""
        self.journal.close()
        self._following.stop()
        self._columns.close()


@lru_cache(maxsize=1024)
def _around_trace_id(experiment_location: str) -> tuple[str, str]:
    """What stands before and after a trace's id in the location of its artifacts."""
    folder, files = SqlAlchemyStore.TRACE_FOLDER_NAME, SqlAlchemyStore.ARTIFACTS_FOLDER_NAME
    before, _, after = append_to_uri_path(experiment_location, folder, "*", files).rpartition("*")
    return before, after


@contextmanager
def open_plane(settings: Settings) -> Iterator[TracePlane]:
    """Open a data directory for the stores of this process while the block runs.

    Raises:
        JournalLocked: another process has it open.
    """
    plane = TracePlane(settings)
    uri = store_uri(settings)
    _open[uri] = plane
    try:
        yield plane
    finally:
        del _open[uri]
        plane.close()


def plane_of(uri: str) -> TracePlane:
    """The data directory a store's URI names.

    Raises:
        MlflowException: INVALID_STATE, this process hasn't opened it.
    """
    try:
        return _open[uri]
    except KeyError:
        raise MlflowException(
            f"{uri} can be used inside Vedette's server only. Start one with `vedette up` and use "
            "its URL: mlflow.set_tracking_uri('http://127.0.0.1:5000').",
            INVALID_STATE,
        ) from None
