"""Silences: times in which nothing is sent of a rule, or of all."""

from __future__ import annotations

import time
import uuid
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select

from vedette.alerts.control import Control, of_rule
from vedette.alerts.rules import Rule
from vedette.alerts.tables import SILENCES

EVERY = "*"  # as a name: every rule of the experiment


class Silences:
    """Use from any thread and process.

    Raises (every method):
        AlertsUnavailable: nothing was changed; try again later.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def add(
        self, experiment_id: str, name: str, from_ms: int, until_ms: int, by: str, comment: str
    ) -> str:
        """Send nothing of a rule, or of every one (`EVERY`), for a time: a maintenance window.

        Returns:
            The silence's id.
        """
        silence_id = uuid.uuid4().hex[:12]
        with self._control.writing() as connection:
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

    def end(self, experiment_id: str, name: str) -> int:
        """End all silences of that name, present and to come; how many there were."""
        current = and_(of_rule(SILENCES, experiment_id, name), SILENCES.c.until_ms > _now())
        with self._control.writing() as connection:
            return int(connection.execute(delete(SILENCES).where(current)).rowcount)

    def current(self, experiment_id: str) -> list[dict[str, Any]]:
        """Those that aren't over, by when they begin."""
        current = and_(SILENCES.c.experiment_id == experiment_id, SILENCES.c.until_ms > _now())
        with self._control.reading() as connection:
            rows = connection.execute(select(SILENCES).where(current).order_by(SILENCES.c.from_ms))
            return [dict(row) for row in rows.mappings()]

    def hold(self, connection: Connection, rule: Rule, now_ms: int) -> bool:
        """Whether nothing is to be sent of the rule now."""
        now = and_(
            SILENCES.c.experiment_id == rule.experiment_id,
            or_(SILENCES.c.name == rule.name, SILENCES.c.name == EVERY),
            SILENCES.c.from_ms <= now_ms,
            SILENCES.c.until_ms > now_ms,
        )
        return connection.execute(select(SILENCES.c.id).where(now)).first() is not None

    def forget(self, connection: Connection, before_ms: int) -> None:
        """Remove what was over before that."""
        connection.execute(delete(SILENCES).where(SILENCES.c.until_ms < before_ms))

    def remove(self, connection: Connection, experiment_id: str, name: str) -> None:
        """Remove those of a rule."""
        connection.execute(delete(SILENCES).where(of_rule(SILENCES, experiment_id, name)))


def _now() -> int:
    return int(time.time() * 1000)
