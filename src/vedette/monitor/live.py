"""Figures that follow what they are about, without a reload; and that say so when they can't."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mlflow.exceptions import MlflowException
from nicegui import ui

from vedette.monitor.markup import notice, tag
from vedette.monitor.words import moment

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUILD_SECONDS = 30.0  # a busy server's page comes late; NiceGUI would give it up after 3
_REFRESH_SECONDS = 3.0


class Live(Generic[T]):
    """Asks again every three seconds; a line above the figures says from when they are.

    Args:
        ask: for the newest answer.
        at: when an answer was true, in seconds since the epoch.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], at: Callable[[T], float] = lambda _: time.time()
    ) -> None:
        self._ask = ask
        self._at = at
        self._problem: str | None = None
        self._time = tag("p", classes="asof")
        self._trouble = tag("div", aria_live="assertive")

    async def start(self, show: Callable[[T], None]) -> None:
        """Show the first answer with the page, the others as they come.

        Args:
            show: puts an answer on the page.
        """

        async def refresh() -> None:
            try:
                answer = await self._ask()
                show(answer)
            except Exception as error:
                self._tell(told(error, before=self._problem))
            else:
                self._tell(None)
                self._time.text = f"As of {moment(1000 * self._at(answer))}"

        await refresh()
        ui.timer(_REFRESH_SECONDS, refresh, immediate=False)

    def _tell(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        self._trouble.clear()
        if problem is not None:
            what = "These figures are old" if self._time.text else "There are no figures"
            with self._trouble:
                notice(f"{what}, the server can't tell them now: {problem}", "bad", "error")


def told(error: Exception, before: str | None = None) -> str:
    """An error for people. One that wasn't foreseen is logged in full, but not again and again.

    Args:
        before: what was told the last time.
    """
    if isinstance(error, MlflowException):
        return str(error.message)
    text = f"{type(error).__name__}: {error}"
    if text != before:
        logger.error("a page has no answer", exc_info=error)
    return text
