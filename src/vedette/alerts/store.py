"""Rules, their states and history, in the control database.

A change of state and what is sent because of it are one transaction, so that a kill at any moment
loses neither and doubles none.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, and_, delete, insert, select, update

from vedette.alerts.control import Control, as_json, of_rule
from vedette.alerts.outbox import Outbox
from vedette.alerts.rules import Rule, stored_rule
from vedette.alerts.silences import Silences
from vedette.alerts.states import Finding, State, next_state
from vedette.alerts.tables import HISTORY, RULES

_KEEP_MS = 90 * 86_400_000  # of history and of what was delivered
_MOST_HISTORY = 1000


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
        self._control = Control(engine)
        self.silences = Silences(self._control)
        self.outbox = Outbox(self._control, url)

    def put(self, rule: Rule) -> None:
        """Add a rule, or put it in the place of the one of its name: what is known stays if it
        watches the same thing as before."""
        document = as_json(rule.document())
        where = of_rule(RULES, rule.experiment_id, rule.name)
        with self._control.writing() as connection:
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
        with self._control.writing() as connection:
            if not connection.execute(
                delete(RULES).where(of_rule(RULES, experiment_id, name))
            ).rowcount:
                raise UnknownRule(name)
            self.outbox.remove(connection, experiment_id, name)
            self.silences.remove(connection, experiment_id, name)

    def rules(self, experiment_id: str | None = None, *, new: bool = False) -> list[Watched]:
        """By experiment and name; of one experiment, or of all. New ones are those that nobody has
        looked at yet."""
        query = select(RULES).order_by(RULES.c.experiment_id, RULES.c.name)
        if experiment_id is not None:
            query = query.where(RULES.c.experiment_id == experiment_id)
        if new:
            query = query.where(RULES.c.evaluated_ms.is_(None))
        with self._control.reading() as connection:
            return [_watched(row) for row in connection.execute(query)]

    def rule(self, experiment_id: str, name: str) -> Watched:
        """Raises:
        UnknownRule: there is none.
        """
        query = select(RULES).where(of_rule(RULES, experiment_id, name))
        with self._control.reading() as connection:
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
            "evidence": as_json(finding.evidence),
            "memory": as_json(finding.memory),
            "evaluated_ms": now_ms,
        }
        changed = state != before.state
        if changed:
            values |= {"state": state, "since_ms": now_ms}
            values |= dict.fromkeys(("told_ms", "acknowledged_ms", "acknowledged_by"))
        with self._control.writing() as connection:
            events = self._events(connection, before, state, now_ms)
            if "firing" in events or "again" in events:
                values["told_ms"] = now_ms
            still = and_(
                of_rule(RULES, rule.experiment_id, rule.name),
                RULES.c.edition == before.edition,
                RULES.c.state == before.state,
            )
            if not connection.execute(update(RULES).where(still).values(**values)).rowcount:
                return before.state
            if changed:
                _note(
                    connection,
                    rule.experiment_id,
                    rule.name,
                    evidence=as_json(finding.evidence),
                    at_ms=now_ms,
                    event=state,
                    previous=before.state,
                    why=finding.why,
                )
            for event in events:
                self.outbox.add(connection, rule, event, finding.why, finding.evidence, now_ms)
        return state

    def acknowledge(self, experiment_id: str, name: str, by: str) -> None:
        """Say that somebody takes care: it isn't told again while it fires.

        Raises:
            UnknownRule: there is none.
            ValueError: it doesn't fire.
        """
        now_ms = _now()
        firing = and_(of_rule(RULES, experiment_id, name), RULES.c.state == "firing")
        with self._control.writing() as connection:
            taken = connection.execute(
                update(RULES).where(firing).values(acknowledged_ms=now_ms, acknowledged_by=by)
            )
            if taken.rowcount:
                what = {"event": "acknowledged", "previous": "firing", "why": f"by {by}"}
                _note(connection, experiment_id, name, evidence="{}", at_ms=now_ms, **what)
                return
        state = self.rule(experiment_id, name).state
        raise ValueError(f"{name} is {state}: only what fires can be acknowledged")

    def history(
        self, experiment_id: str, name: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """What happened, newest first: ``at_ms``, ``name``, ``event``, ``previous``, ``why``,
        ``evidence``."""
        wanted = HISTORY.c.experiment_id == experiment_id
        if name is not None:
            wanted = and_(wanted, HISTORY.c.name == name)
        query = select(HISTORY).where(wanted).order_by(HISTORY.c.id.desc())
        with self._control.reading() as connection:
            rows = connection.execute(query.limit(min(limit, _MOST_HISTORY))).mappings().all()
        return [{**row, "evidence": orjson.loads(row["evidence"])} for row in rows]

    def test(self, experiment_id: str, name: str) -> list[str]:
        """Send a test to the rule's channels, not to its rollback; the deliveries' ids.

        Raises:
            UnknownRule: there is none.
        """
        rule = self.rule(experiment_id, name).rule
        with self._control.writing() as connection:
            return self.outbox.add(
                connection, rule, "test", "This is a test: nothing has happened.", {}, _now()
            )

    def forget(self, now_ms: int) -> None:
        """Remove what is older than 90 days."""
        old = now_ms - _KEEP_MS
        with self._control.writing() as connection:
            connection.execute(delete(HISTORY).where(HISTORY.c.at_ms < old))
            self.outbox.forget(connection, old)
            self.silences.forget(connection, old)

    def _events(
        self, connection: Connection, before: Watched, state: State, now_ms: int
    ) -> list[str]:
        """What people are told: that it fires, still does, or has ceased to."""
        rule = before.rule
        if state != "firing":  # also in a silence: who was told that it fires must not wait forever
            told = before.state == "firing" and before.told_ms is not None
            return ["resolved"] if told else []
        if self.silences.hold(connection, rule, now_ms):
            return []
        if before.acknowledged_ms is not None:
            return []
        if before.told_ms is None:  # it has begun, maybe in a silence that is over
            return ["firing", *(["rollback"] if rule.rollback else [])]
        due = rule.renotify_seconds and now_ms - before.told_ms >= rule.renotify_seconds * 1000
        return ["again"] if due else []


def _note(connection: Connection, experiment_id: str, name: str, **values: Any) -> None:
    """Add to the history."""
    connection.execute(insert(HISTORY).values(experiment_id=experiment_id, name=name, **values))


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


def _now() -> int:
    return int(time.time() * 1000)
