"""The sampling settings of a handle that has been used to change them.

Handles are immutable: ``start()``, ``update()`` and ``stop()`` return a new one, and the old one
goes on telling what it told before. That is right for somebody who keeps both. Somebody who has
dropped the new one has only the old one to ask how the scorer is, so it then asks the server.
"""

from __future__ import annotations

import inspect
import sys
import threading
import warnings
import weakref
from collections.abc import Callable

from mlflow.genai.scorers.base import Scorer, ScorerSamplingConfig

_NOT_THE_CALLERS = {__file__, inspect.getfile(Scorer)}
_warned = threading.Event()


class Superseded(ScorerSamplingConfig):
    """Of a handle whose successor may have been dropped.

    Args:
        name: of the scorer.
        before: what the handle told until now.
        successor: the handle that was returned instead.
        current: asks the server.
    """

    def __init__(
        self,
        name: str,
        before: ScorerSamplingConfig | None,
        successor: Scorer,
        current: Callable[[], ScorerSamplingConfig],
    ) -> None:
        self._name = name
        self._before = before or ScorerSamplingConfig(0.0)
        self._successor = weakref.ref(successor)
        self._current = current

    @property
    def sample_rate(self) -> float | None:  # type: ignore[override]
        return self._settings().sample_rate

    @property
    def filter_string(self) -> str | None:  # type: ignore[override]
        return self._settings().filter_string

    def _settings(self) -> ScorerSamplingConfig:
        if _is_kept(self._successor()):
            return self._before
        if not _warned.is_set():
            _warned.set()
            warnings.warn(
                f"This handle of scorer '{self._name}' is out of date: start(), update() and "
                "stop() return a new one, which was not kept, so this one asks the server. "
                f"Write `{self._name} = {self._name}.start(...)`.",
                stacklevel=_callers_level(),
            )
        return self._current()


def _is_kept(handle: Scorer | None) -> bool:
    """Whether somebody has this handle; a notebook's history of results is nobody."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if handle is None or shell is None:
        return handle is not None
    names = [name for name, value in shell.user_ns.items() if value is handle]
    return not names or not all(name.startswith("_") for name in names)


def _callers_level() -> int:
    """How far up the stack the line is that asked: outside of this file and of MLflow's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in _NOT_THE_CALLERS:
        level, frame = level + 1, frame.f_back
    return level
