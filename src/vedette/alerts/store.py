"""Rules, their states, history and what is to be sent, in the control database.

A change of state and what is sent because of it are one transaction, so that a kill at any moment
loses neither and doubles none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy
from sqlalchemy import Connection, Engine, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from vedette.alerts.rules import Rule, stored_rule
from vedette.alerts.states import Finding, State, next_state
from vedette.alerts.tables import DELIVERIES, HISTORY, RULES, SILENCES

EVERY = "*"  # as a name: every rule of the experiment
_KEEP_MS = 90 * 86_400_000  # of history and of what was delivered
_MOST_HISTORY = 1000
_NO_TABLES = (OperationalError, ProgrammingError)


class AlertsUnavailable(Exception):
    """The control database can't be asked or written now."""


class UnknownRule(Exception):
    """There is no such rule."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A rule with what is known of it.

    Attributes:
        edition: of the rule; another one when somebody has put it again.
        since_ms: since when it has been in this state.
        told_ms: while it fires: when people were told last; None: not yet.
    """

    rule: Rule
    edition: str
    state: State
    since_ms: int
    why: str
    evidence: dict[str, Any]
    memory: dict[str, Any] | None
    evaluated_ms: int | None
    told_ms: int | None
    acknowledged_ms: int | None
    acknowledged_by: str | None


class AlertStore:
    """Use from any thread and process.

    Args:
        engine: of the control database, as `vedette.scoring.active.control_engine` makes it.
        url: of the server, for links in notifications.

    Raises (every method):
        AlertsUnavailable: nothing was changed; try again later.
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._url = url

    def put(self, rule: Rule) -> None:
        """Add a rule, or put it in the place of the one of its name: what is known stays if it
        watches the same thing as before."""
        document = _json(rule.document())
        where = _is(RULES, rule.experiment_id, rule.name)
        with self._writing() as connection:
            row = connection.execute(select(RULES.c.document).where(where)).first()
            if row is None:
                connection.execute(
                    insert(RULES).values(
                        experiment_id=rule.experiment_id,
                        name=rule.name,
                        document=document,
                        edition=uuid.uuid4().hex,
                        **_unjudged("added, not yet looked at"),
                    )
                )
            elif row.document != document:
                before = stored_rule(rule.experiment_id, rule.name, orjson.loads(row.document))
                new = {} if _watches(before) == _watches(rule) else _unjudged("changed")
                connection.execute(
                    update(RULES)
                    .where(where)
                    .values(document=document, edition=uuid.uuid4().hex, **new)
                )

    def remove(self, experiment_id: str, name: str) -> None:
        """Remove a rule, with what is yet to be sent of it. Its history stays for 90 days.

        Raises:
            UnknownRule: there is none.
        """
        with self._writing() as connection:
            if not connection.execute(
                delete(RULES).where(_is(RULES, experiment_id, name))
            ).rowcount:
                raise UnknownRule(name)
            waiting = and_(_is(DELIVERIES, experiment_id, name), DELIVERIES.c.next_ms.is_not(None))
            connection.execute(delete(DELIVERIES).where(waiting))
            connection.execute(delete(SILENCES).where(_is(SILENCES, experiment_id, name)))

    def rules(self, experiment_id: str | None = None, *, new: bool = False) -> list[Watched]:
        """By experiment and name; of one experiment, or of all. New ones are those that nobody has
        looked at yet."""
        query = select(RULES).order_by(RULES.c.experiment_id, RULES.c.name)
        if experiment_id is not None:
            query = query.where(RULES.c.experiment_id == experiment_id)
        if new:
            query = query.where(RULES.c.evaluated_ms.is_(None))
        with self._reading() as connection:
            return [_watched(row) for row in connection.execute(query)]

    def rule(self, experiment_id: str, name: str) -> Watched:
        """Raises:
        UnknownRule: there is none.
        """
        query = select(RULES).where(_is(RULES, experiment_id, name))
        with self._reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise UnknownRule(name)
        return _watched(row)

    def record(self, before: Watched, finding: Finding, now_ms: int) -> State:
        """Take up what a look found: the state it leads to, history, and what is to be sent.

        Nothing is done if somebody has put the rule again, or removed it, since it was read.
        """
        rule = before.rule
        seconds = (now_ms - before.since_ms) / 1000
        window = rule.condition.window_seconds
        state = next_state(before.state, finding, seconds=seconds, window=window)
        values: dict[str, Any] = {
            "why": finding.why,
            "evidence": _json(finding.evidence),
            "memory": _json(finding.memory),
            "evaluated_ms": now_ms,
        }
        changed = state != before.state
        if changed:
            values |= {"state": state, "since_ms": now_ms}
            values |= dict.fromkeys(("told_ms", "acknowledged_ms", "acknowledged_by"))
        with self._writing() as connection:
            events = self._events(connection, before, state, now_ms)
            if "firing" in events or "again" in events:
                values["told_ms"] = now_ms
            still = and_(
                _is(RULES, rule.experiment_id, rule.name),
                RULES.c.edition == before.edition,
                RULES.c.state == before.state,
            )
            if not connection.execute(update(RULES).where(still).values(**values)).rowcount:
                return before.state
            if changed:
                self._note(connection, rule, state, before.state, finding, now_ms)
            for event in events:
                self._send(connection, rule, event, finding.why, finding.evidence, now_ms)
        return state

    def acknowledge(self, experiment_id: str, name: str, by: str) -> None:
        """Say that somebody takes care: it isn't told again while it fires.

        Raises:
            UnknownRule: there is none.
            ValueError: it doesn't fire.
        """
        now_ms = _now()
        firing = and_(_is(RULES, experiment_id, name), RULES.c.state == "firing")
        with self._writing() as connection:
            taken = connection.execute(
                update(RULES).where(firing).values(acknowledged_ms=now_ms, acknowledged_by=by)
            )
            if taken.rowcount:
                self._add_history(
                    connection, experiment_id, name, now_ms, "acknowledged", "firing", f"by {by}"
                )
                return
        state = self.rule(experiment_id, name).state
        raise ValueError(f"{name} is {state}: only what fires can be acknowledged")

    def silence(
        self, experiment_id: str, name: str, from_ms: int, until_ms: int, by: str, comment: str
    ) -> str:
        """Send nothing of a rule, or of every one (`EVERY`), for a time: a maintenance window.

        Returns:
            The silence's id.

        Raises:
            UnknownRule: there is none.
        """
        if name != EVERY:
            self.rule(experiment_id, name)
        silence_id = uuid.uuid4().hex[:12]
        with self._writing() as connection:
            connection.execute(
                insert(SILENCES).values(
                    id=silence_id,
                    experiment_id=experiment_id,
                    name=name,
                    from_ms=from_ms,
                    until_ms=until_ms,
                    author=by,
                    comment=comment,
                )
            )
        return silence_id

    def unsilence(self, experiment_id: str, name: str) -> int:
        """End all silences of that name, present and to come; how many there were."""
        current = and_(_is(SILENCES, experiment_id, name), SILENCES.c.until_ms > _now())
        with self._writing() as connection:
            return int(connection.execute(delete(SILENCES).where(current)).rowcount)

    def silences(self, experiment_id: str) -> list[dict[str, Any]]:
        """Those that aren't over, by when they begin."""
        current = and_(SILENCES.c.experiment_id == experiment_id, SILENCES.c.until_ms > _now())
        with self._reading() as connection:
            rows = connection.execute(select(SILENCES).where(current).order_by(SILENCES.c.from_ms))
            return [dict(row) for row in rows.mappings()]

    def history(
        self, experiment_id: str, name: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """What happened, newest first: ``at_ms``, ``name``, ``event``, ``previous``, ``why``,
        ``evidence``."""
        wanted = HISTORY.c.experiment_id == experiment_id
        if name is not None:
            wanted = and_(wanted, HISTORY.c.name == name)
        query = select(HISTORY).where(wanted).order_by(HISTORY.c.id.desc())
        with self._reading() as connection:
            rows = connection.execute(query.limit(min(limit, _MOST_HISTORY))).mappings().all()
        return [{**row, "evidence": orjson.loads(row["evidence"])} for row in rows]

    def deliveries(self, experiment_id: str, name: str, limit: int = 20) -> list[dict[str, Any]]:
        """What was sent or is to be, newest first."""
        query = select(DELIVERIES).where(_is(DELIVERIES, experiment_id, name))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(DELIVERIES.c.number.desc()).limit(limit))
            return [
                {**row, "message": orjson.loads(row["message"])} for row in rows.mappings().all()
            ]

    def test(self, experiment_id: str, name: str) -> list[str]:
        """Send a test to the rule's channels, not to its rollback; the deliveries' ids.

        Raises:
            UnknownRule: there is none.
        """
        rule = self.rule(experiment_id, name).rule
        with self._writing() as connection:
            return self._send(
                connection, rule, "test", "This is a test: nothing has happened.", {}, _now()
            )

    def due(self, now_ms: int) -> list[dict[str, Any]]:
        """What is to be sent now. Of a rule and channel only the oldest: its order is kept."""
        older = DELIVERIES.alias()
        waits = (
            select(older.c.number)
            .where(
                older.c.experiment_id == DELIVERIES.c.experiment_id,
                older.c.name == DELIVERIES.c.name,
                older.c.channel == DELIVERIES.c.channel,
                older.c.number < DELIVERIES.c.number,
                older.c.next_ms.is_not(None),
            )
            .exists()
        )
        query = select(DELIVERIES).where(DELIVERIES.c.next_ms <= now_ms, ~waits)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(DELIVERIES.c.next_ms).limit(50)).mappings()
            return [{**row, "message": orjson.loads(row["message"])} for row in rows.all()]

    def sent(
        self,
        delivery_id: str,
        *,
        attempts: int,
        next_ms: int | None,
        delivered_ms: int | None = None,
        error: str | None = None,
    ) -> None:
        """Note what became of an attempt."""
        values = {
            "attempts": attempts,
            "next_ms": next_ms,
            "delivered_ms": delivered_ms,
            "error": error,
        }
        with self._writing() as connection:
            connection.execute(
                update(DELIVERIES).where(DELIVERIES.c.id == delivery_id).values(**values)
            )

    def forget(self, now_ms: int) -> None:
        """Remove what is older than 90 days."""
        old = now_ms - _KEEP_MS
        with self._writing() as connection:
            connection.execute(delete(HISTORY).where(HISTORY.c.at_ms < old))
            done = and_(DELIVERIES.c.created_ms < old, DELIVERIES.c.next_ms.is_(None))
            connection.execute(delete(DELIVERIES).where(done))
            connection.execute(delete(SILENCES).where(SILENCES.c.until_ms < old))

    def _events(
        self, connection: Connection, before: Watched, state: State, now_ms: int
    ) -> list[str]:
        """What people are told: that it fires, still does, or has ceased to."""
        rule = before.rule
        if _is_silent(connection, rule, now_ms):
            return []
        if state == "firing":
            if before.state != "firing":
                return ["firing", *(["rollback"] if rule.rollback else [])]
            if before.told_ms is None:  # it began in a silence that is over
                return [] if before.acknowledged_ms else ["firing"]
            due = rule.renotify_seconds and now_ms - before.told_ms >= rule.renotify_seconds * 1000
            return ["again"] if due and before.acknowledged_ms is None else []
        if before.state == "firing" and before.told_ms is not None:
            return ["resolved"]
        return []

    def _note(
        self,
        connection: Connection,
        rule: Rule,
        state: State,
        before: State,
        finding: Finding,
        now_ms: int,
    ) -> None:
        self._add_history(
            connection,
            rule.experiment_id,
            rule.name,
            now_ms,
            state,
            before,
            finding.why,
            finding.evidence,
        )

    def _add_history(
        self,
        connection: Connection,
        experiment_id: str,
        name: str,
        at_ms: int,
        event: str,
        before: str,
        why: str,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        connection.execute(
            insert(HISTORY).values(
                experiment_id=experiment_id,
                name=name,
                at_ms=at_ms,
                event=event,
                previous=before,
                why=why,
                evidence=_json(evidence or {}),
            )
        )

    def _send(
        self,
        connection: Connection,
        rule: Rule,
        event: str,
        why: str,
        evidence: Mapping[str, Any],
        now_ms: int,
    ) -> list[str]:
        message = {
            "event": event,
            "experiment_id": rule.experiment_id,
            "rule": rule.name,
            "condition": rule.condition.id,
            "slice": rule.slice,
            "severity": rule.severity,
            "why": why,
            "evidence": evidence,
            "at_ms": now_ms,
            "url": self._url,
        }
        channels: Sequence[str] = rule.notify
        if event == "rollback":
            channels = [rule.rollback] if rule.rollback else []
        ids = [f"alert-{uuid.uuid4().hex}" for _ in channels]
        for delivery_id, channel in zip(ids, channels, strict=True):
            connection.execute(
                insert(DELIVERIES).values(
                    id=delivery_id,
                    experiment_id=rule.experiment_id,
                    name=rule.name,
                    channel=channel,
                    message=_json(message),
                    created_ms=now_ms,
                    attempts=0,
                    next_ms=now_ms,
                )
            )
        return ids

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error


def tables_missing(engine: Engine) -> bool:
    """Whether the server has not made the tables yet, or not even the database."""
    try:
        return not sqlalchemy.inspect(engine).has_table(RULES.name)
    except _NO_TABLES:
        return True


def _is_silent(connection: Connection, rule: Rule, now_ms: int) -> bool:
    now = and_(
        SILENCES.c.experiment_id == rule.experiment_id,
        or_(SILENCES.c.name == rule.name, SILENCES.c.name == EVERY),
        SILENCES.c.from_ms <= now_ms,
        SILENCES.c.until_ms > now_ms,
    )
    return connection.execute(select(SILENCES.c.id).where(now)).first() is not None


def _watched(row: Any) -> Watched:
    document = orjson.loads(row.document)
    return Watched(
        rule=stored_rule(row.experiment_id, row.name, document),
        edition=row.edition,
        state=row.state,
        since_ms=row.since_ms,
        why=row.why,
        evidence=orjson.loads(row.evidence),
        memory=None if row.memory is None else orjson.loads(row.memory),
        evaluated_ms=row.evaluated_ms,
        told_ms=row.told_ms,
        acknowledged_ms=row.acknowledged_ms,
        acknowledged_by=row.acknowledged_by,
    )


def _unjudged(why: str) -> dict[str, Any]:
    return {
        "state": "no_data",
        "since_ms": _now(),
        "why": why,
        "evidence": "{}",
        "memory": None,
        "evaluated_ms": None,
        "told_ms": None,
        "acknowledged_ms": None,
        "acknowledged_by": None,
    }


def _watches(rule: Rule) -> tuple[Any, ...]:
    """What evidence is about: when this changes, it begins anew."""
    return rule.condition, rule.slice, rule.lowest, rule.highest


def _is(table: sqlalchemy.Table, experiment_id: str, name: str) -> Any:
    return and_(table.c.experiment_id == experiment_id, table.c.name == name)


def _unavailable(error: SQLAlchemyError) -> AlertsUnavailable:
    reason = getattr(error, "orig", None) or error
    if isinstance(error, IntegrityError):
        return AlertsUnavailable(f"somebody else has just put the same rule: {reason}")
    return AlertsUnavailable(f"the control database can't be used: {reason}")


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _now() -> int:
    return int(time.time() * 1000)
