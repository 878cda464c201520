"""What is to be sent, and what became of it, in the control database."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, and_, delete, insert, select, update

from vedette.alerts.control import Control, as_json, of_rule
from vedette.alerts.rules import Rule
from vedette.alerts.tables import DELIVERIES


class Outbox:
    """Use from any thread and process.

    Args:
        url: of the server, for links in notifications.

    Raises (every method):
        AlertsUnavailable: nothing was changed; try again later.
    """

    def __init__(self, control: Control, url: str) -> None:
        self._control = control
        self._url = url

    def add(
        self,
        connection: Connection,
        rule: Rule,
        event: str,
        why: str,
        evidence: Mapping[str, Any],
        now_ms: int,
    ) -> list[str]:
        """Have something sent to the rule's channels, or to its rollback; the deliveries' ids.

        Args:
            connection: the transaction that has made it happen.
            event: ``firing``, ``again``, ``resolved``, ``test`` or ``rollback``.
        """
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
                    message=as_json(message),
                    created_ms=now_ms,
                    attempts=0,
                    next_ms=now_ms,
                )
            )
        return ids

    def of_rule(self, experiment_id: str, name: str, limit: int = 20) -> list[dict[str, Any]]:
        """What was sent or is to be, newest first."""
        query = select(DELIVERIES).where(of_rule(DELIVERIES, experiment_id, name))
        with self._control.reading() as connection:
            rows = connection.execute(query.order_by(DELIVERIES.c.number.desc()).limit(limit))
            return [
                {**row, "message": orjson.loads(row["message"])} for row in rows.mappings().all()
            ]

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
        with self._control.reading() as connection:
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
        with self._control.writing() as connection:
            connection.execute(
                update(DELIVERIES).where(DELIVERIES.c.id == delivery_id).values(**values)
            )

    def forget(self, connection: Connection, before_ms: int) -> None:
        """Remove what was done with and older than that."""
        done = and_(DELIVERIES.c.created_ms < before_ms, DELIVERIES.c.next_ms.is_(None))
        connection.execute(delete(DELIVERIES).where(done))

    def remove(self, connection: Connection, experiment_id: str, name: str) -> None:
        """Remove what waits to be sent of a rule."""
        waiting = and_(of_rule(DELIVERIES, experiment_id, name), DELIVERIES.c.next_ms.is_not(None))
        connection.execute(delete(DELIVERIES).where(waiting))
