"""Sends what is to be sent, until it is taken."""

from __future__ import annotations

import logging
import time
from typing import Any

from vedette.alerts.channels import send, shown
from vedette.alerts.outbox import Outbox
from vedette.alerts.webhook import DeliveryFailed, Secret

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0
_GIVE_UP_SECONDS = 3 * 86_400.0


class Deliveries:
    """Sends what waits in the control database. One thread calls `tick`.

    What a receiver has taken is noted at once. A kill between its answer and the note has it sent
    again, with the same ``webhook-id``, by which receivers tell a repetition from something new.
    """

    def __init__(self, outbox: Outbox, secret: Secret) -> None:
        self._outbox = outbox
        self._secret = secret
        self._at = 0.0

    def tick(self) -> bool:
        """Send what is due; whether there was anything.

        Raises:
            AlertsUnavailable: the control database can't be asked; call again later.
        """
        if time.monotonic() < self._at:
            return False
        due = self._outbox.due(int(time.time() * 1000))
        for delivery in due:
            self._send(delivery)
        if not due:
            self._at = time.monotonic() + _LOOK_SECONDS
        return bool(due)

    def _send(self, delivery: dict[str, Any]) -> None:
        attempts = delivery["attempts"] + 1
        try:
            send(delivery["channel"], delivery["id"], delivery["message"], self._secret)
        except DeliveryFailed as error:
            now = time.time()
            wait = min(_FIRST_WAIT * 2 ** min(attempts - 1, 10), _LONGEST_WAIT)
            given_up = now * 1000 - delivery["created_ms"] > _GIVE_UP_SECONDS * 1000
            next_ms = None if given_up else int((now + wait) * 1000)
            self._outbox.sent(delivery["id"], attempts=attempts, next_ms=next_ms, error=str(error))
            if attempts == 1 or given_up:
                rest = "; given up" if given_up else "; will try again"
                logger.warning("alert %s: %s%s", delivery["name"], error, rest)
            return
        now_ms = int(time.time() * 1000)
        self._outbox.sent(delivery["id"], attempts=attempts, next_ms=None, delivered_ms=now_ms)
        if attempts > 1:
            channel = shown(delivery["channel"])
            logger.info("alert %s: %s took it at attempt %d", delivery["name"], channel, attempts)
