"""The scorers that are started, read from MLflow's tables in the control database."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import orjson
import sqlalchemy
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from vedette.intake.records import Stream
from vedette.named_sql import statements
from vedette.scoring.budget import Cap
from vedette.scoring.judges import asks_model, refusal

_SQL = statements("vedette.scoring", "active")


# An experiment's tag of this name and a scorer's: JSON [[filter, rate], ...]
STRATA_TAG = "vedette.sampling_strata."
# Likewise: JSON {"calls_per_minute": number or null, "dollars_per_day": number or null}
BUDGET_TAG = "vedette.scoring_budget."
_GATEWAY = "gateway:/"


class ControlUnavailable(Exception):
    """The control database can't be read now; which scorers are active is not known."""


class ControlMissing(ControlUnavailable):
    """The server hasn't made the control database yet, so nobody has started a scorer."""


@dataclass(frozen=True)
class ActiveScorer:
    """A started scorer in its latest version.

    ``sample_rate`` is in (0, 1]; ``serialized`` is MLflow's JSON of the scorer, which may hold code
    and is deserialised in workers only; ``artifact_location`` is the experiment's; ``strata`` are
    pairs of a filter and the rate of what it matches; ``cap`` is its budget; ``invalid`` says why
    it can't be run; ``job`` is the backfill it runs for, in the version the job was asked for, at
    ``asked_ms`` (ms since the epoch).
    """

    experiment_id: str
    name: str
    version: int
    serialized: str
    sample_rate: float
    filter_string: str | None = None
    artifact_location: str = ""
    strata: tuple[tuple[str, float], ...] = ()
    cap: Cap = field(default_factory=Cap)
    invalid: str | None = None
    job: str | None = None
    asked_ms: int | None = None

    @property
    def stream(self) -> Stream:
        """What it is in the ledger."""
        return Stream(self.experiment_id, self.name, self.job)

    @cached_property
    def key(self) -> str:
        """What names the scorer, in all its versions, in cursors."""
        return self.stream.key

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The serialized scorer as a dict; empty if it is not a JSON object."""
        try:
            value = orjson.loads(self.serialized)
        except orjson.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def is_judge(self) -> bool:
        """Whether it asks a model; else it is code, or computes without asking anybody."""
        return asks_model(self.definition)

    @property
    def is_session_level(self) -> bool:
        """Whether its unit is a session, not a trace."""
        return bool(self.definition.get("is_session_level_scorer"))

    @property
    def timeout_seconds(self) -> float | None:
        """The time limit its author set for one call, if any. MLflow's 0 (none) counts as not set:
        work that nobody waits for needs a limit."""
        timeout = self.definition.get("timeout")
        return float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else None


def control_engine(uri: str) -> sqlalchemy.Engine:
    """For reading the control database. A SQLite file is never made by this, nor kept open: the
    server makes it, and may put a migrated one in its place."""
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "sqlite" or not url.database:
        return sqlalchemy.create_engine(url, pool_pre_ping=True)
    return sqlalchemy.create_engine(
        f"sqlite:///file:{quote(url.database)}?mode=rw&uri=true", poolclass=sqlalchemy.NullPool
    )


def is_missing(engine: sqlalchemy.Engine) -> bool:
    """Whether there is no file for an engine made by `control_engine`."""
    file = engine.url.database or ""
    return file.startswith("file:") and not Path(unquote(file.removeprefix("file:"))).exists()


class ActiveScorers:
    """The active scorers, read at most every ``max_age`` seconds.

    Args:
        engine: of the control database, which the server may not have set up yet.
    """

    def __init__(self, engine: sqlalchemy.Engine, *, max_age: float = 1.0) -> None:
        self._engine = engine
        self._max_age = max_age
        self._scorers: list[ActiveScorer] = []
        self._read_at = float("-inf")

    def read(self) -> list[ActiveScorer]:
        """Started scorers of all experiments, by experiment and name.

        Raises:
            ControlMissing: there is no database yet, and there never was.
            ControlUnavailable: the database or MLflow's tables in it can't be read.
        """
        now = time.monotonic()
        if now - self._read_at >= self._max_age:
            self._scorers = self._query()
            self._read_at = now
        return self._scorers

    def registered(self, experiment_id: str) -> list[ActiveScorer]:
        """Every version of the scorers of an experiment, oldest first; ``sample_rate`` 0: it is not
        started. Not kept: each call reads them.

        Raises:
            ControlUnavailable: the database or MLflow's tables in it can't be read.
        """
        return self._query("registered_scorers", {"experiment_id": int(experiment_id)})

    def _query(
        self, statement: str = "active_scorers", values: Mapping[str, Any] | None = None
    ) -> list[ActiveScorer]:
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(sqlalchemy.text(_SQL[statement]), values or {}).all()
                tags = connection.execute(
                    sqlalchemy.text(_SQL["tags"]),
                    {"strata": f"{STRATA_TAG}%", "budgets": f"{BUDGET_TAG}%"},
                ).all()
                endpoints = connection.execute(sqlalchemy.text(_SQL["endpoints"])).all()
        except SQLAlchemyError as error:
            if is_missing(self._engine) and self._read_at == float("-inf"):
                raise ControlMissing("there is no control database yet") from error
            reason = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise ControlUnavailable(
                f"can't read the scorers from the control database: {reason}"
            ) from error
        told = {(str(experiment), key): value for experiment, key, value in tags}
        found: dict[tuple[str, int], ActiveScorer] = {}
        for experiment_id, name, version, serialized, rate, filter_string, location in rows:
            pairs, invalid = _strata(told.get((str(experiment_id), STRATA_TAG + name)))
            cap, wrong = _cap(told.get((str(experiment_id), BUDGET_TAG + name)))
            scorer = ActiveScorer(
                experiment_id=str(experiment_id),
                name=name,
                version=version,
                serialized=_with_names(serialized, endpoints),
                sample_rate=rate,
                filter_string=filter_string or None,
                artifact_location=location or "",
                strata=pairs,
                cap=cap,
                invalid=invalid or wrong,
            )
            found[scorer.key, version] = replace(
                scorer, invalid=scorer.invalid or refusal(scorer.definition)
            )
        return list(found.values())


def _with_names(serialized: str, endpoints: Iterable[Sequence[str]]) -> str:
    """A scorer's definition with gateway endpoints by their names, as the gateway wants them."""
    if _GATEWAY in serialized:
        for endpoint_id, name in endpoints:
            escaped = orjson.dumps(name).decode()[1:-1]
            serialized = serialized.replace(_GATEWAY + endpoint_id, _GATEWAY + escaped)
    return serialized


def _strata(text: str | None) -> tuple[tuple[tuple[str, float], ...], str | None]:
    """The strata in a tag, or what is wrong with it: anybody may set an experiment's tags."""
    if text is None:
        return (), None
    try:
        pairs = tuple(
            (str(filter_string), float(rate)) for filter_string, rate in orjson.loads(text)
        )
    except (TypeError, ValueError):
        return (), f"the experiment's tag {STRATA_TAG}* is no list of [filter, rate]: {text[:100]}"
    if not all(0.0 <= rate <= 1.0 for _, rate in pairs):
        return (), f"a rate in the experiment's tag {STRATA_TAG}* is outside 0..1: {text[:100]}"
    return pairs, None


def _cap(text: str | None) -> tuple[Cap, str | None]:
    """The budget in a tag, or what is wrong with it."""
    if text is None:
        return Cap(), None
    try:
        return cap_of(orjson.loads(text)), None
    except ValueError as error:
        return Cap(), f"the experiment's tag {BUDGET_TAG}* can't be used: {error}"


def cap_of(value: Any) -> Cap:
    """A budget from JSON.

    Raises:
        ValueError: it is none.
    """
    names = ("calls_per_minute", "dollars_per_day")
    if not isinstance(value, dict) or value.keys() - set(names):
        raise ValueError(f"a budget is an object with {' and '.join(names)}, not {value!r:.100}")
    for name in names:
        number = value.get(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name} must be a number, not {number!r:.100}")
        if not 0 <= number <= sys.float_info.max:
            raise ValueError(f"{name} must be a finite number of at least 0, not {number!r:.100}")
    return Cap(*(value.get(name) for name in names))
