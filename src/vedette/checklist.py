"""Is what is monitored set up well? The part of `vedette.doctor` that looks at experiments."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import orjson
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from vedette.archive.setting import ArchiveSetting, ArchiveSettings
from vedette.client.self_contained import check_stored
from vedette.findings import Finding, State
from vedette.lake.recipes import recipes
from vedette.lake.sql.engine import SqlEngine
from vedette.lake.sql.errors import QueryRefused, SqlBusy
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake
from vedette.named_sql import statements
from vedette.processes import read_state
from vedette.scoring.active import BUDGET_TAG, ControlUnavailable, control_engine, is_missing
from vedette.scoring.judges import asks_model, functions
from vedette.settings import Settings
from vedette.traces.index import VERSION

_SQL = statements("vedette", "checklist")
_DAY_SECONDS = 86_400
_WEEK_MS = 7 * _DAY_SECONDS * 1000
_NEAR = 0.8  # of a budget
_ENVIRONMENTS = {
    "dev": "dev",
    "development": "dev",
    "test": "test",
    "stage": "staging",
    "staging": "staging",
    "prod": "prod",
    "production": "prod",
}


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered scorer.

    Attributes:
        rate: 0 if it was stopped; None if it was never started.
        definition: MLflow's JSON of it.
    """

    experiment_id: str
    name: str
    rate: float | None
    definition: dict[str, Any]

    @property
    def key(self) -> str:
        """As the read model names it."""
        return f"{self.experiment_id}/{self.name}"

    @property
    def is_started(self) -> bool:
        return bool(self.rate)


@dataclass(slots=True)
class Setup:
    """What there is to check.

    Attributes:
        experiments: names by id.
        budgets: keys of scorers that have a budget of their own.
        costs: calls and dollars of the last whole day (UTC), by scorer.
        decided: units decided and units selected in the last seven days, by scorer.
        has_traces: whether any trace has arrived.
    """

    settings: Settings
    experiments: dict[str, str] = field(default_factory=dict)
    scorers: list[Registered] = field(default_factory=list)
    budgets: set[str] = field(default_factory=set)
    archives: dict[str, ArchiveSetting | str] = field(default_factory=dict)
    costs: dict[str, tuple[int, float]] = field(default_factory=dict)
    decided: dict[str, tuple[int, int]] = field(default_factory=dict)
    has_traces: bool = False

    def told(self, experiment_id: str) -> str:
        """An experiment, for people."""
        return f"experiment {experiment_id} ({self.experiments.get(experiment_id, '?')})"

    def scorer(self, one: Registered) -> str:
        """A scorer, for people."""
        return f"{one.name} of {self.told(one.experiment_id)}"


def check_setup(settings: Settings) -> Iterator[Finding]:
    """Every check's finding; one that finds nothing wrong says so in a line."""
    setup = Setup(settings)
    try:
        _read_control(setup)
    except (SQLAlchemyError, ControlUnavailable, ImportError) as error:
        reason = str(error).partition("\n")[0]
        fix = "see the control database's own finding above"
        yield Finding("experiments", "warning", f"can't be checked: {reason}", fix)
        return
    _read_model(setup)
    for check in _CHECKS:
        yield from check(setup)


def _read_control(setup: Setup) -> None:
    control = control_engine(setup.settings.control_uri)
    if is_missing(control):  # the server makes it
        return
    with closing(_Disposed(control)), control.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("online_scoring_configs"):
            return
        rows = connection.execute(sqlalchemy.text(_SQL["experiments"]))
        setup.experiments = {str(experiment_id): name for experiment_id, name in rows}
        for experiment_id, name, serialized, rate in connection.execute(
            sqlalchemy.text(_SQL["scorers"])
        ):
            definition = _json_object(serialized)
            setup.scorers.append(Registered(str(experiment_id), name, rate, definition))
        tags = connection.execute(
            sqlalchemy.text("SELECT experiment_id, key FROM experiment_tags WHERE key LIKE :tag"),
            {"tag": f"{BUDGET_TAG}%"},
        )
        setup.budgets = {f"{one}/{key.removeprefix(BUDGET_TAG)}" for one, key in tags}
        setup.archives = ArchiveSettings(control).read()


class _Disposed:
    """Closes an engine with `contextlib.closing`."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.close = engine.dispose


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_model(setup: Setup) -> None:
    """Nothing, if there is none that this code understands: the engine makes it."""
    path = setup.settings.index_path
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as index:
            if index.execute("PRAGMA user_version").fetchone() != (VERSION,):
                return
            yesterday = {"day": int(time.time() // _DAY_SECONDS) - 1}
            week = {"since_ms": int(time.time() * 1000) - _WEEK_MS}
            setup.costs = {key: (n, usd) for key, n, usd in index.execute(_SQL["costs"], yesterday)}
            setup.decided = {key: (n, m) for key, n, m in index.execute(_SQL["decided"], week)}
            setup.has_traces = index.execute(_SQL["any_trace"]).fetchone() is not None
    except sqlite3.DatabaseError:
        return


def _handles(setup: Setup) -> Iterator[Finding]:
    never = [one for one in setup.scorers if one.rate is None]
    for one in never:
        message = f"{setup.scorer(one)} is registered and was never started"
        fix = (
            "register() returns the handle to start, x = x.register(); x = x.start(...); "
            f"or delete it: delete_scorer(name={one.name!r})"
        )
        yield Finding("handles", "warning", message, fix)
    if not never:
        yield Finding("handles", "ok", f"{len(setup.scorers)} registered scorers were all started")


def _self_contained(setup: Setup) -> Iterator[Finding]:
    sound, all_sound = 0, True
    pairs = [(one, stored) for one in setup.scorers for stored in functions(one.definition)]
    for one, stored in pairs:
        problems = check_stored(
            str(stored.get("original_func_name")),
            str(stored["call_source"]),
            str(stored.get("call_signature")),
            objection=_not_installed,
        )
        sound += not problems
        all_sound = all_sound and not problems
        for problem in problems:
            message = f"{setup.scorer(one)}, line {problem.line} of its body: {problem.message}"
            state: State = "failed" if one.is_started else "warning"
            yield Finding(
                "self-contained scorers", state, message, f"{problem.fix}; register again"
            )
    if all_sound:
        yield Finding("self-contained scorers", "ok", f"{sound} scorers are code, and run anywhere")


def _not_installed(module: str) -> tuple[str, str] | None:
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is not None:
        return None
    return (
        f"imports {module}, which is not installed here",
        f"pip install it, or do without {module}",
    )


def _environments(setup: Setup) -> Iterator[Finding]:
    wrong = False
    by_name: dict[str, set[str]] = {}
    for one in setup.scorers:
        at = _environment(re.split(r"[^a-z]+", setup.experiments[one.experiment_id].lower()))
        named = _environment(re.split(r"[_\-]", one.name.lower())[:1])
        if at and named and at != named:
            wrong = True
            message = f"{setup.scorer(one)} has the name of {named}, the experiment that of {at}"
            fix = f"register it there as {at}_..., so that queries over both tell them apart"
            yield Finding("names by environment", "warning", message, fix)
        if at and not named:
            by_name.setdefault(one.name, set()).add(at)
    for name, places in sorted(by_name.items()):
        if len(places) > 1:
            wrong = True
            message = (
                f"{name} is registered in {' and '.join(sorted(places))}, whose scores are in one "
                "table, where rows of scores don't name the experiment"
            )
            fix = f"begin names with the environment: {min(places)}_{name}"
            yield Finding("names by environment", "warning", message, fix)
    if not wrong:
        yield Finding("names by environment", "ok", "no name means two environments")


def _environment(words: list[str]) -> str | None:
    return next((_ENVIRONMENTS[word] for word in words if word in _ENVIRONMENTS), None)


def _limit(setup: Setup) -> Iterator[Finding]:
    most = setup.settings.max_active_scorers
    started = dict.fromkeys(setup.experiments, 0)
    for one in setup.scorers:
        started[one.experiment_id] += one.is_started
    full = [experiment_id for experiment_id, count in started.items() if count >= most]
    for experiment_id in full:
        count = started[experiment_id]
        message = f"{setup.told(experiment_id)} has {count} started scorers, of at most {most}"
        fix = "stop one before the next is started, or set --max-active-scorers"
        yield Finding("scorer limit", "warning", message, fix)
    if not full:
        busiest = max(started.values(), default=0)
        yield Finding("scorer limit", "ok", f"at most {busiest} of {most} started in an experiment")


def _cost(setup: Setup) -> Iterator[Finding]:
    judges = [one for one in setup.scorers if one.is_started and asks_model(one.definition)]
    spent = sum(setup.costs.get(one.key, (0, 0.0))[1] for one in judges)
    budget = setup.settings.budget_dollars_per_day
    fix = "lower their rates, or set --budget-dollars-per-day, near which that is done for you"
    if not judges:
        yield Finding("rates and cost", "ok", "no judge is started")
        return
    rates = ", ".join(f"{one.name} at {one.rate:g}" for one in judges)
    told = f"yesterday judges cost ${spent:,.2f} ({rates})"
    unbounded = [one for one in judges if one.key not in setup.budgets]
    if budget is None and unbounded:
        names = ", ".join(one.name for one in unbounded)
        yield Finding("rates and cost", "warning", f"{told}, and {names} have no budget", fix)
    elif budget is not None and spent > _NEAR * budget:
        yield Finding("rates and cost", "warning", f"{told}, of ${budget:,.2f} a day", fix)
    else:
        yield Finding("rates and cost", "ok", told)


def _unused(setup: Setup) -> Iterator[Finding]:
    found = False
    for one in setup.scorers:
        decided, selected = setup.decided.get(one.key, (0, 0))
        if one.rate == 0.0:
            message, fix = "was stopped", f"delete_scorer(name={one.name!r}), if it is not needed"
        elif one.is_started and decided and not selected:
            message = f"selected none of {decided:,} traces in seven days"
            fix = "its filter matches nothing, or its rate is too low: `vedette explain TRACE_ID`"
        else:
            continue
        found = True
        yield Finding("unused scorers", "warning", f"{setup.scorer(one)} {message}", fix)
    if not found:
        yield Finding("unused scorers", "ok", "none")


def _location(setup: Setup) -> Iterator[Finding]:
    lake = Lake(setup.settings.lake_uri, setup.settings.lake_state)
    try:
        has_table = lake.spans.open_existing() is not None
    except (LakeUnavailable, OSError):
        return  # the lake's own finding says so
    if setup.has_traces and not has_table:
        message = f"traces have arrived, and there is no table {lake.spans.storage.uri}"
        fix = "see that the engine runs: `vedette status`"
        yield Finding("location", "warning", message, fix)
    else:
        yield Finding("location", "ok", "all experiments share main.default.mlflow in the lake")


def _archival(setup: Setup) -> Iterator[Finding]:
    engine = read_state(setup.settings.run_dir / "engine.json") or {}
    told = engine.get("archival", {}).get("archives", {})
    sound = True
    for experiment_id in sorted({one.experiment_id for one in setup.scorers if one.is_started}):
        setting = setup.archives.get(experiment_id)
        if setting is None:
            fix = f"vedette archive enable CATALOG.SCHEMA.TABLE --experiment {experiment_id}"
            message = f"{setup.told(experiment_id)} is scored and not archived"
            yield Finding("archival", "warning", message, fix)
            sound = False
    for experiment_id, setting in setup.archives.items():
        error = setting if isinstance(setting, str) else told.get(experiment_id, {}).get("error")
        if error:
            sound = False
            message = f"the archive of {setup.told(experiment_id)}: {error}"
            yield Finding("archival", "failed", message, "see docs/archival.md")
    if sound:
        yield Finding("archival", "ok", f"{len(setup.archives)} archives")


def _queries(setup: Setup) -> Iterator[Finding]:
    """The engine for SQL, and every recipe on the columns that are there."""
    lake = Lake(setup.settings.lake_uri, setup.settings.lake_state)
    try:
        if not all(table.open_existing() is not None for table in lake.folded):
            yield Finding("recipes", "ok", "nothing to ask yet: not all tables are there")
            return
    except (LakeUnavailable, OSError):
        return
    slowest, took, failed = "", 0.0, False
    with closing(SqlEngine(lake)) as engine:
        try:
            engine.run("SELECT 1")
        except (QueryRefused, SqlBusy, LakeUnavailable) as error:
            yield Finding("SQL engine", "failed", f"duckdb: {error}", "see docs/sql.md")
            return
        yield Finding("SQL engine", "ok", "duckdb answers")
        for recipe in recipes().values():
            began = time.monotonic()
            try:
                engine.run(recipe.sql, max_rows=1)
            except (QueryRefused, SqlBusy, LakeUnavailable) as error:
                failed = True
                fix = f"run it to see: vedette recipes {recipe.name}"
                yield Finding("recipes", "failed", f"{recipe.name}: {error}", fix)
            if (seconds := time.monotonic() - began) > took:
                slowest, took = recipe.name, seconds
    if not failed:
        message = f"all {len(recipes())} ran; the slowest, {slowest}, took {took:.2f} s"
        yield Finding("recipes", "ok", message)


_CHECKS: tuple[Callable[[Setup], Iterator[Finding]], ...] = (
    _handles,
    _self_contained,
    _environments,
    _limit,
    _cost,
    _unused,
    _location,
    _archival,
    _queries,
)
